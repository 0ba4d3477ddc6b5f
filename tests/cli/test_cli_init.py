"""``retrainer init``: a file that ``check`` accepts for data of many shapes, a gate its rows can bear, clear errors."""

from __future__ import annotations

import gzip
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from retrainer.cli.airflow_files import shipped_files
from retrainer.cli.init_command import _yaml, figures, margin
from retrainer.gate.paired import tango_interval
from retrainer.spec import load_pipeline
from retrainer.spec.yaml_reader import read_yaml

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Cli, Workbench

CHECKOUT = Path(__file__).parents[2]
WORDS = ["the", "trail", "by", "the", "creek", "is", "open", "today", "and", "dry", "again", "after", "much", "rain"]


def rows(count: int) -> list[dict[str, Any]]:
    """Different texts with two labels, a number and an id."""
    return [
        {
            "id": f"row-{at}",
            "status": f"{' '.join(WORDS[at % 7 : at % 7 + 5])} number {at}",
            "closed": at % 2,
            "miles": at * 1.5,
        }
        for at in range(count)
    ]


def write_csv(path: Path, values: list[dict[str, Any]], mark: str = ",") -> Path:
    lines = [mark.join(values[0]), *(mark.join(map(str, row.values())) for row in values)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_gz(path: Path, values: list[dict[str, Any]]) -> Path:
    path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in values).encode()))
    return path


def write_parquet(path: Path, values: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(values), path)
    return path


SHAPES: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "data.csv": write_csv,
    "data.tsv": lambda path, values: write_csv(path, values, "\t"),
    "data.jsonl.gz": write_gz,
    "data.parquet": write_parquet,
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_format_gives_a_file_that_check_accepts(cli: Cli, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "My Trails"
    folder.mkdir()
    SHAPES[name](folder / name, rows(400))
    answer = cli("init", folder / name, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    pipeline = load_pipeline(tmp_path / "my-trails.yaml")
    assert (pipeline.name, pipeline.task) == ("my-trails", "text-classification")
    assert (pipeline.dataset.text, pipeline.dataset.label) == ("status", "closed")
    assert pipeline.dataset.train == (str(folder / name),)
    assert "names for 0, 1, in this order" in (tmp_path / "my-trails.yaml").read_text()
    assert cli("check", tmp_path / "my-trails.yaml").returncode == 0


@pytest.mark.parametrize(
    ("data", "text", "label", "beside"),
    [
        ("ag_news/train.csv", "text", "label", "test"),
        ("imdb/train.csv", "text", "label", "test"),
        ("mrpc/train.csv", ("sentence1", "sentence2"), "label", "validation"),
        ("rte/train.csv", ("sentence1", "sentence2"), "label", "validation"),
        ("trail_status/status.csv", "status", ("Blankets_Creek", "Rope_Mill"), None),
    ],
)
def test_public_data(
    cli: Cli, tmp_path: Path, public_data: Path, data: str, text: object, label: object, beside: str | None
) -> None:
    answer = cli("init", public_data / data, "--output", tmp_path / "p.yaml")
    assert answer.returncode == 0, answer.stderr
    pipeline = load_pipeline(tmp_path / "p.yaml")
    assert (pipeline.dataset.text, pipeline.dataset.label) == (text, label)
    assert [split for split in ("test", "validation") if getattr(pipeline.dataset, split)] == [beside] * bool(beside)
    assert cli("check", tmp_path / "p.yaml").returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "setting"),
    [
        (
            "d.csv",
            b"a film,pos\n" + b"".join(b"good film %d,pos\nbad film %d,neg\n" % (at, at) for at in range(5)),
            {"header": False, "columns": ("text", "label")},
        ),
        ("d.csv", b"title;label\n" + b"good, film;pos\nbad, film;neg\n" * 5, {"delimiter": ";"}),
        (
            "SMSSpamCollection",
            b"ham\tfirst\n" + b'ham\t"Go until, he said.\nspam\tFree "entry", now\n' * 5,
            {"header": False, "columns": ("label", "text"), "delimiter": "\t", "quoting": "none"},
        ),
    ],
)
def test_how_a_file_is_read_is_written_down(
    cli: Cli, tmp_path: Path, name: str, content: bytes, setting: dict[str, Any]
) -> None:
    (tmp_path / name).write_bytes(content)
    answer = cli("init", name, "-o", "p.yaml", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    dataset = load_pipeline(tmp_path / "p.yaml").dataset
    assert dataset.csv is not None
    assert dataset.csv.model_dump(exclude_defaults=True) == setting
    assert cli("check", tmp_path / "p.yaml").returncode == 0


def test_a_label_that_is_called_as_its_column_is_no_row(cli: Cli, tmp_path: Path) -> None:
    for name, header, options in (
        ("a", "text,label", ()),
        ("b", "premise,hypothesis,label", ()),
        ("c", "words,label", ("--label", "label")),
    ):
        texts = "a text," * header.count(",")
        rows = "".join(f"{at} {texts}{('label', 'other')[at % 2]}\n" for at in range(20))
        (tmp_path / f"{name}.csv").write_text(f"{header}\n{rows}")
        answer = cli("init", f"{name}.csv", *options, cwd=tmp_path)
        assert answer.returncode == 0, answer.stderr
        dataset = load_pipeline(tmp_path / f"{name}.yaml").dataset
        assert (dataset.csv, dataset.labels) == (None, ("label", "other"))


@pytest.mark.long
def test_what_it_writes_can_be_run(cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path) -> None:
    bench.rows(tmp_path / "train.csv", 90, seed=1)
    with (tmp_path / "train.csv").open("a") as file:
        file.write("a trail without a label,\nanother one,nan\n")
    assert cli("init", "train.csv", "-o", "p.yaml", cwd=tmp_path).returncode == 0
    document = yaml.safe_load((tmp_path / "p.yaml").read_text())
    assert document["dataset"]["train"] == "train.csv"
    assert document["dataset"]["labels"] == ["closed", "open"]
    document["model"]["base"] = str(tiny_bert)
    document["training"] = {"num_train_epochs": 1}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(document))
    answer = cli("run", tmp_path / "p.yaml")
    assert answer.returncode in {0, 3}, answer.stderr  # promoted or refused: every check of the data let it pass
    assert "2 rows without label: in quarantine" in answer.stderr


def test_columns_can_be_named(cli: Cli, tmp_path: Path) -> None:
    write_csv(tmp_path / "d.csv", [{**row, "title": "a b", "open": 1 - row["closed"]} for row in rows(50)])
    arguments = ("init", "d.csv", "--text", "title", "--text", "status", "--label", "open")
    assert cli(*arguments, cwd=tmp_path).returncode == 0
    pipeline = load_pipeline(tmp_path / "d.yaml")
    assert (pipeline.dataset.text, pipeline.dataset.label) == (("title", "status"), "open")
    assert pipeline.task == "text-pair-classification"


def test_nothing_is_written_over(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    write_csv(tmp_path / "d.csv", rows(50))
    (tmp_path / "d.yaml").write_text("mine")
    one_clear_error(cli("init", "d.csv", cwd=tmp_path), "d.yaml: is there already", "--force")
    assert (tmp_path / "d.yaml").read_text() == "mine"
    assert cli("init", "d.csv", "--force", cwd=tmp_path).returncode == 0
    assert load_pipeline(tmp_path / "d.yaml").name == "d"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.csv", b"", "the file is empty"),
        ("d.csv", b"text,label\n", "no data row"),
        ("d.csv", b"text,label\na b,x\nb,y,z\n", "the row has 3 fields, the header 2"),
        ("d.csv", b'text,label\n"a,x\n', "a quote that opens in line 2 is not closed"),
        ("d.csv", b"text,label\n" + b"fine,x\n" * 9999 + b"\xe9,x\n", "line 10001: not UTF-8"),
        ("d.csv", b"text;label\na b;x\nc d;y;z\n", "only one column, 'text;label'"),
        ("d.csv", b"text,id\na b,x\nc d,y\ne f,z\n", "no column has the few, repeated values"),
        ("d.csv", b"good film,pos\n" * 5 + b"bad film,neg\n" * 5, "has no header, say so"),
        ("d.csv", b"n,label\n" + b"1,x\n2,y\n" * 5, "no column beside 'label' holds text"),
        ("d.jsonl", b"[1]\n", "not a JSON object"),
        ("d.parquet", b"PAR1", "not parquet"),
        ("d.csv.gz", b"no gzip", "not a complete gzip file"),
        ("d.xlsx", b"x", "save the sheet as csv"),
        ("d.json", b'[{"text": "a b", "label": "x"}]', "write one JSON object a line and call it .jsonl"),
        ("d.csv", b"text,label\n" + b"a b,a\nc d,A\n" * 9, "labels 'a', 9 rows, and 'A', 9, differ only in case"),
        ("d.csv", b"text,label\n" + "a b,spam\nc d,sp\u0430m\n".encode() * 9, "look alike"),
        ("d.csv", b"text,label\n" + b"a b,1\nc d,01\n" * 9, "look alike"),
    ],
)
def test_bad_input_is_one_clear_error(
    cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None], name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    one_clear_error(cli("init", name, cwd=tmp_path), words)
    assert list(tmp_path.glob("*.yaml")) == []


def test_what_is_not_there_is_one_clear_error(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    write_csv(tmp_path / "d.csv", rows(50))
    one_clear_error(cli("init", "e.csv", cwd=tmp_path), "did you mean 'd.csv'?")
    one_clear_error(cli("init", "d.csv", "--label", "no", cwd=tmp_path), "no column 'no'", "its columns: id, status")
    one_clear_error(cli("init", "d.csv", "--text", "closed", "--label", "closed", cwd=tmp_path), "the label another")
    one_clear_error(cli("init", "d.csv", "-o", "no/where.yaml", cwd=tmp_path), "cannot be written")


def test_airflow_gets_its_files_and_the_pipeline(
    cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]
) -> None:
    data = write_csv(tmp_path / "trails.csv", rows(300))
    home = tmp_path / "airflow"
    answer = cli("init", data, "--airflow", home)
    assert answer.returncode == 0, answer.stderr
    assert {str(path.relative_to(home)) for path in home.rglob("*.*") if path.is_file()} == {
        *shipped_files(),
        "dags/pipelines/trails.yaml",
    }
    pipeline = load_pipeline(home / "dags" / "pipelines" / "trails.yaml")
    assert pipeline.dataset.train == (str(data),)
    assert pipeline.publish.store == str(home / "store")
    # Again, and without data: what is there as it would be written stays, what differs is somebody's own.
    assert cli("init", "--airflow", home).returncode == 0
    (home / "dags" / "retrain.py").write_text("# my own\n")
    (home / "plugins" / "retrainer_plugin.py").unlink()
    one_clear_error(cli("init", "--airflow", home), "dags/retrain.py: is there already, and differs", "--force")
    assert not (home / "plugins" / "retrainer_plugin.py").exists()
    assert cli("init", "--airflow", home, "--force").returncode == 0
    assert (home / "dags" / "retrain.py").read_text() == shipped_files()["dags/retrain.py"]
    one_clear_error(cli("init", "--airflow", data), "cannot be written")


def test_the_wheel_holds_what_a_checkout_ships() -> None:
    build = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {name: f"retrainer/airflow/shipped/{name}" for name in shipped_files()}


@pytest.mark.parametrize("tests", [100, 400, 2000])
def test_the_margin_is_what_so_many_test_rows_can_tell(tests: int) -> None:
    """Of equally good models that disagree on a tenth of the rows, four in five pass; by the gate's own interval."""
    drawn = np.random.default_rng(1).multinomial(tests, [0.05, 0.05, 0.9], size=4000)
    low, _ = tango_interval(drawn[:, 0], drawn[:, 1], tests, 0.05)
    assert 0.74 <= (low > -margin(tests)).mean() <= 0.9


def test_the_floor_is_above_answering_without_reading() -> None:
    balanced = [(f"text {at}", "ab"[at % 2]) for at in range(1000)]
    skewed = [(f"text {at}", "b" if at % 10 == 0 else "a") for at in range(1000)]
    assert 0.5 < figures(balanced, 1000, None, has_validation=False)["floor"] < 0.6
    assert 0.9 < figures(skewed, 1000, None, has_validation=False)["floor"] < 0.95
    assert figures(balanced, 1000, 10_000, has_validation=True)["floor"] == 0.51


def test_repeated_and_missing_rows_count_once_and_apart() -> None:
    values = figures([("same", "a")] * 50 + [("other", "b")], 60, None, has_validation=False)
    assert (values["rows"], values["distinct"], values["missing"], values["nulls"]) == (60, 2, 9, 0.15)
    assert Counter(["a", "b"])[values["common"]] == 1


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_names_survive_the_file(name: str) -> None:
    document = read_yaml(f"a: {_yaml(name)}   # comment\nb: [{_yaml(name)}, {_yaml(name)}]\n", where="x")
    assert document.value == {"a": name, "b": [name, name]}
