"""``retrainer predict``: texts as arguments or lines, pairs, ranked scores, JSON lines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench

MODEL = "tiny-status"
OPEN = "the north trail 5 is dry today"
CLOSED = "the creek trail 7 is flooded again"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))


def answers(text: str) -> list[tuple[str, float, str]]:
    """Label, score and text of each line."""
    rows = []
    for line in text.splitlines():
        answer, _, asked = line.partition("\t")
        label, score = answer.split("  ")[0].rsplit(" ", 1)
        rows.append((label, float(score), asked))
    return rows


def test_texts_as_arguments_keep_their_order(cli: Cli, published: Published) -> None:
    answer = cli("predict", published.store, MODEL, CLOSED, OPEN)
    assert answer.returncode == 0, answer.stderr
    rows = answers(answer.stdout)
    assert [(label, asked) for label, _, asked in rows] == [("closed", CLOSED), ("open", OPEN)]
    assert all(0.5 < score <= 1.0 for _, score, _ in rows)


def test_lines_of_standard_input(cli: Cli, published: Published) -> None:
    texts = [OPEN, CLOSED] * 200
    answer = cli("predict", published.store, MODEL, "-", "--json", stdin="\n\n".join(texts) + "\n")
    assert answer.returncode == 0, answer.stderr
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    assert [row["labels"][0]["label"] for row in rows] == ["open", "closed"] * 200


@pytest.mark.parametrize(
    ("lines", "problem"),
    [(b"fine\nna\xefve\n", b"not UTF-8: byte 0xef"), (b"fine\n" + "x\n".encode("utf-16-le"), b"not text")],
)
def test_lines_that_are_not_utf8(published: Published, lines: bytes, problem: bytes) -> None:
    command = [sys.executable, "-m", "retrainer.cli", "predict", str(published.store), MODEL, "-"]
    answer = subprocess.run(command, input=lines, capture_output=True, check=False)
    assert answer.returncode == 1
    assert b"error: standard input, line 2: " + problem in answer.stderr


def test_ranked_scores(cli: Cli, published: Published) -> None:
    row = json.loads(cli("predict", published.store, MODEL, OPEN, "--top-k", "0", "--json").stdout)
    assert [item["label"] for item in row["labels"]] == ["open", "closed"]
    assert sum(item["score"] for item in row["labels"]) == pytest.approx(1.0)
    assert len(json.loads(cli("predict", published.store, MODEL, OPEN, "--json").stdout)["labels"]) == 1


def test_a_version_instead_of_a_channel(
    cli: Cli, bench: Workbench, published: Published, store: Path, one_clear_error: Callable[..., None]
) -> None:
    bench.variant(store, lambda folder: (folder / "README.md").unlink())
    answer = cli("predict", store, MODEL, OPEN, "--version", published.version)
    assert answers(answer.stdout)[0][0] == "open"
    one_clear_error(cli("predict", store, MODEL, OPEN, "--version", "0123456789abcdef"), "0123456789abcdef")


def as_pairs(folder: Path) -> None:
    """The same graph as a model of pairs, with golden rows that say so."""
    from retrainer.serve.predictor import Predictor

    info = json.loads((folder / "bundle.json").read_text()) | {"task": "text-pair-classification"}
    (folder / "bundle.json").write_text(json.dumps(info))
    logits = Predictor(folder).logits([(OPEN, CLOSED)])[0].tolist()
    golden = {"text": OPEN, "text_pair": CLOSED, "logits": {"fp32": logits}}
    (folder / "golden.jsonl").write_text(json.dumps(golden) + "\n")


def test_pairs(cli: Cli, bench: Workbench, store: Path) -> None:
    bench.variant(store, as_pairs, task="text-pair-classification", model="tiny-pairs")
    single = cli("predict", store, "tiny-pairs", OPEN, "--pair", OPEN, "--json")
    assert single.returncode == 0, single.stderr
    row = json.loads(single.stdout)
    assert (row["text"], row["text_pair"], row["labels"][0]["label"]) == (OPEN, OPEN, "open")
    lines = cli("predict", store, "tiny-pairs", "-", stdin=f"{CLOSED}\t{CLOSED}\n{OPEN}\t{OPEN}\n")
    assert [label for label, _, _ in answers(lines.stdout)] == ["closed", "open"]
    for wrong in (
        cli("predict", store, "tiny-pairs", OPEN),
        cli("predict", store, "tiny-pairs", OPEN, OPEN, "--pair", OPEN),
        cli("predict", store, "tiny-pairs", "-", stdin="no tab\n"),
        cli("predict", store, MODEL, OPEN, "--pair", OPEN),
    ):
        assert wrong.returncode == 2
        assert "pair" in wrong.stderr or "single" in wrong.stderr


def test_texts_from_a_file(cli: Cli, published: Published, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text(f"{OPEN}\n\n{CLOSED}\n")
    answer = cli("predict", published.store, MODEL, "--file", file)
    assert [label for label, _, _ in answers(answer.stdout)] == ["open", "closed"], answer.stderr
    file.write_bytes(b"fine\nna\xefve\n")
    assert "texts.txt, line 2: not UTF-8" in cli("predict", published.store, MODEL, "--file", file).stderr


def contrary(folder: Path) -> None:
    """The same graph with its labels exchanged, so that it contradicts the other on every text."""
    info = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**info, "labels": info["labels"][::-1]}))


def test_models_side_by_side(cli: Cli, bench: Workbench, published: Published, store: Path, tmp_path: Path) -> None:
    """A run's folder, a bundle's, and versions of a store, on the same texts."""
    other = bench.variant(store, contrary, labels=("open", "closed"))
    first = f"{store}/{MODEL}@{published.version}"
    places = [published.run, published.run / "export" / "bundle", f"{store}/{MODEL}", first]
    answer = cli("predict", *(part for place in places for part in ("--compare", place)), OPEN, CLOSED)
    assert answer.returncode == 0, answer.stderr
    *table, agreement = (line.split("\t") for line in answer.stdout.splitlines())
    head, *rows = table
    assert head[1:] == ["export", MODEL, f"{MODEL}@{published.version}", "", "text"]
    assert [[cell.split(" ")[0] for cell in row[:4]] for row in rows] == [
        ["open", "open", "closed", "open"],
        ["closed", "closed", "open", "closed"],
    ]
    assert [row[4:] for row in rows] == [["differ", OPEN], ["differ", CLOSED]]
    assert agreement == ["4 models say the same label for 0 of 2 texts"]

    (tmp_path / "texts.txt").write_text(f"{OPEN}\n{CLOSED}\n")
    again = ("--compare", f"{store}/{MODEL}@{other}") * 2
    answer = cli("predict", *again, "--file", tmp_path / "texts.txt", "--json", "--top-k", "0")
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [line["text"] for line in lines] == [OPEN, CLOSED]
    assert list(lines[0]["models"]) == [f"{MODEL}@{other}", f"{MODEL}@{other} (2)"]
    assert [label["label"] for label in lines[0]["models"][f"{MODEL}@{other}"]] == ["closed", "open"]


def test_every_model_of_a_run_is_compared(cli: Cli, published: Published, tmp_path: Path) -> None:
    """Of several base models, each is a column, by its name."""
    shutil.copytree(published.run.parent.parent, tmp_path / "artifacts", symlinks=True)
    run = tmp_path / "artifacts" / "runs" / published.run.name
    note = (run / "steps" / "export.json").rename(run / "steps" / "export_bert.json")
    shutil.copy(note, run / "steps" / "export_roberta-large.json")
    answer = cli("predict", "--compare", run, OPEN)
    assert answer.stdout.splitlines()[0].split("\t") == ["bert", "roberta-large", "", "text"], answer.stderr
    assert answer.stdout.splitlines()[-1] == "2 models say the same label for 1 of 1 texts"


def test_what_cannot_be_compared(
    cli: Cli, bench: Workbench, published: Published, store: Path, tmp_path: Path, one_clear_error: Callable[..., None]
) -> None:
    bench.variant(store, as_pairs, task="text-pair-classification", model="tiny-pairs")
    both = ("--compare", f"{store}/{MODEL}", "--compare", f"{store}/tiny-pairs")
    one_clear_error(cli("predict", *both, OPEN), "text-pair-classification", "compare models of one task")
    one_clear_error(cli("predict", "--compare", f"{store}/nobody", OPEN), f"{store}/nobody", "a run's folder")
    one_clear_error(cli("predict", "--compare", tmp_path / "nowhere", OPEN), "nowhere")
    for wrong in (
        ("--compare", published.run, OPEN, "--version", published.version),
        ("--compare", published.run),
        (published.store,),
        (published.store, MODEL),
    ):
        assert cli("predict", *wrong).returncode == 2
