"""A label is one label however it is spelled, wherever; what cannot be told is an error that shows what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.errors import DataError, PipelineError
from retrainer.label_names import canonical, look_alikes, spelled
from retrainer.spec import parse_pipeline
from retrainer.work.ingest import ingest
from retrainer.work.reporter import Reporter

SPLIT = {"validation": 0, "test": 0.2}


# Of England, of Scotland, and without a country.
FLAGS = ["\U0001f3f4" + "".join(chr(0xE0000 + ord(mark)) for mark in name) for name in ("gbeng\x7f", "gbsct\x7f", "")]


def csv(*labels: str, start: int = 0) -> str:
    return "text,label\n" + "".join(f"text {start + at},{label}\n" for at, label in enumerate(labels))


def jsonl(*labels: Any, start: int = 0) -> str:
    return "".join(json.dumps({"text": f"text {start + at}", "label": label}) + "\n" for at, label in enumerate(labels))


def made(folder: Path, **dataset: Any) -> SnapshotStatistics:
    """The snapshot of what is in a folder: train/, and test/ where there is one."""
    test = {"test": str(folder / "test")} if (folder / "test").is_dir() else {}
    checks = {"min_rows": 1, "min_rows_per_label": 1, "max_null_fraction": 0.5, "near_duplicate_similarity": None}
    spec = parse_pipeline(
        {
            "name": "x",
            "dataset": {"train": str(folder / "train"), "split": SPLIT, "checks": checks, **test, **dataset},
            "model": {"base": "m"},
            "publish": {"store": "s"},
        }
    )
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return ingest(spec, out, Reporter())


def put(folder: Path, **files: str) -> None:
    """``train_a_csv="..."`` is ``train/a.csv``."""
    for name, content in files.items():
        split, stem, suffix = name.split("_")
        (folder / split).mkdir(exist_ok=True)
        (folder / split / f"{stem}.{suffix}").write_text(content, encoding="utf-8")


def refused(folder: Path, **dataset: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        made(folder, **dataset)
    return caught.value


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        (csv(*["True", "False"] * 10), jsonl(*[True, False] * 10, start=50), ("false", "true")),
        (csv(*["TRUE", "False"] * 10), jsonl(*["true", 0] * 10, start=50), ("false", "true")),
        (csv(*["1", "0"] * 10), jsonl(*[True, False] * 10, start=50), ("false", "true")),
        (csv(*["1", "1.0", "ham"] * 8), jsonl(*[1, 1.0, "ham"] * 8, start=50), ("1", "ham")),
        (csv(*["5.0", "4.5"] * 10), jsonl(*[5.0, 4.5, 5] * 8, start=50), ("4.5", "5")),
        (csv(*["-0", "1.00", "2."] * 8), jsonl(*[0, 1, 2] * 8, start=50), ("0", "1", "2")),
        (csv(*["café", "bar"] * 10), jsonl(*["cafe\u0301", "bar"] * 10, start=50), ("bar", "café")),
        (csv(*["sp\u200bam", "\ufeffham"] * 10), jsonl(*["spam", "h\u00adam"] * 10, start=50), ("ham", "spam")),
        (
            csv(*["New\u00a0York", "Rome "] * 10),
            jsonl(*["New  York", "\u3000Rome"] * 10, start=50),
            ("New York", "Rome"),
        ),
        (
            csv(*["می\u200cخواهم", "👨\u200d👩"] * 10),
            jsonl(*["x"] * 10, start=50),
            ("x", "می\u200cخواهم", "👨\u200d👩"),
        ),
    ],
)
def test_one_label_in_several_spellings(tmp_path: Path, first: str, second: str, labels: tuple[str, ...]) -> None:
    put(tmp_path, train_a_csv=first, train_b_jsonl=second)
    statistics = made(tmp_path)
    assert statistics.labels == labels
    assert sum(sum(part.label_counts.values()) for part in statistics.splits.values()) == statistics.source_rows
    # The same from the other file first, and when the second is another split.
    (tmp_path / "test").mkdir()
    (tmp_path / "train" / "b.jsonl").rename(tmp_path / "test" / "b.jsonl")
    if "x" not in labels:
        assert made(tmp_path).labels == labels


def test_spellings_are_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, train_a_csv=csv(*["TRUE", "False"] * 6), train_b_jsonl=jsonl(*[True] * 3, start=50))
    statistics = made(tmp_path)
    assert statistics.spellings == {"false": {"False": 6}, "true": {"TRUE": 6, "true": 3}}
    assert "'TRUE' 6, 'true' 3: read as 'true'" in capsys.readouterr().err
    assert SnapshotStatistics.load(tmp_path / "out") == statistics


def test_numbers_of_every_type_are_one_label(tmp_path: Path) -> None:
    put(tmp_path, train_a_csv=csv(*["0.1", "1"] * 10))
    for at, kind in enumerate([pa.float32(), pa.float64(), pa.decimal128(5, 2)]):
        texts = [f"{kind} {row}" for row in range(10)]
        values = pa.array([1.0] * 10).cast(kind)
        pq.write_table(pa.table({"text": texts, "label": values}), tmp_path / "train" / f"n{at}.parquet")
    texts, values = [f"f {row}" for row in range(10)], pa.array([0.1] * 10, pa.float32())
    pq.write_table(pa.table({"text": texts, "label": values}), tmp_path / "train" / "p.parquet")
    assert made(tmp_path).labels == ("0.1", "1")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["spam", "sp\u0430m"], "'spam', 12 rows, and 'sp\u0430m' (s p U+0430 m), 6, look alike, and are different"),
        (["spam", "Spam"], "'spam', 12 rows, and 'Spam', 6, differ only in case"),
        (["not spam", "not_spam"], "'not spam', 12 rows, and 'not_spam', 6, look alike"),
        (["spam", "spam."], "'spam', 12 rows, and 'spam.', 6, look alike"),
        (["1", "01"], "'1', 12 rows, and '01', 6, look alike"),
        (["4.5", "4.50"], "'4.5', 12 rows, and '4.50', 6, look alike"),
        (["1", "\uff11"], "'1', 12 rows, and '\uff11' (U+FF11), 6, look alike"),
        (
            ["Stra\u00dfe", "Strasse"],
            "'Stra\u00dfe' (S t r a U+00DF e), 12 rows, and 'Strasse', 6, look alike, and are different",
        ),
        (["3.1", "3.10"], "'3.1', 12 rows, and '3.10', 6, look alike"),
        (["a-b", "a\u2013b"], "'a-b', 12 rows, and 'a\u2013b' (a U+2013 b), 6, look alike"),
    ],
)
def test_labels_that_look_alike_are_an_error(tmp_path: Path, labels: list[str], message: str) -> None:
    most, few = labels
    put(tmp_path, train_a_csv=csv(*[most, "other", most, few, "other"] * 6))
    error = refused(tmp_path)
    assert message in error.message
    assert error.where == f"{tmp_path}/train/a.csv, row 4"
    # In another split, too; and they are two labels when the pipeline says so.
    put(tmp_path, train_a_csv=csv(*[most, "other"] * 9), test_b_csv=csv(few, few, start=50))
    assert message.split(",", maxsplit=1)[0] in refused(tmp_path).message
    put(tmp_path, train_a_csv=csv(*[most, "other", few] * 9), test_b_csv=csv(few, most, start=50))
    assert made(tmp_path, labels=[most, few, "other"]).labels == (most, few, "other")


def test_what_differs_is_not_said_to_look_alike() -> None:
    assert [canonical(text) for text in ('"good"', "'good'", "“good”", '"a" or "b"', "''", '" "', "'tis")] == [
        *["good"] * 3,
        '"a" or "b"',
        "''",
        '" "',
        "'tis",
    ]
    assert list(look_alikes(["++", "+", "0", "-", "--", "---", "__"])) == []
    assert canonical("\u200b1\u200b") == "1"
    labels = [
        *FLAGS,
        "cafe",
        "café",
        "C",
        "C++",
        "C#",
        "-1",
        "1",
        "10",
        "O",
        "0",
        "I",
        "l",
        ".",
        ",",
        ":",
        "``",
        "''",
        "IT",
    ]
    assert list(look_alikes(labels)) == []
    assert canonical("1" * 5000) == "1" * 5000
    assert spelled("a b") == "'a b'"


@pytest.mark.parametrize(
    "nothing", ["nan\u200b", "'null'", "\ufeffNULL", "Null", "NaT", "<na>", "\u200b", "“#N/A”", "\u00a0nan\u00a0"]
)
def test_what_means_no_label_in_any_spelling(tmp_path: Path, nothing: str) -> None:
    put(tmp_path, train_a_csv=csv(*["spam", "ham"] * 10, nothing), train_b_jsonl=jsonl(nothing, start=50))
    statistics = made(tmp_path)
    assert (statistics.labels, statistics.quarantined["missing_label"]) == (("ham", "spam"), 2)


def test_flags_of_countries_within_a_country_differ(tmp_path: Path) -> None:
    put(tmp_path, train_a_csv=csv(*FLAGS * 10))
    assert made(tmp_path).labels == tuple(sorted(FLAGS))


class TestGivenNames:
    @pytest.mark.parametrize(
        ("labels", "values"),
        [
            (["01", "02"], "1"),
            (["1e0", "2e0"], "1"),
            (["0.5", "1.5"], "01"),
            (["\uff11", "\uff12"], "1"),
            (["\u0661", "\u0662"], "1"),
            (["\u22121", "+1"], "1"),
            (["1 star", "2 star"], "1"),
            (["'1'", "2nd"], "0"),
        ],
    )
    def test_names_that_begin_with_numbers_are_never_counted(
        self, tmp_path: Path, labels: list[str], values: str
    ) -> None:
        put(tmp_path, train_a_csv=csv(*labels * 20), test_b_csv=csv(*values * 10, start=50))
        error = refused(tmp_path, labels=labels)
        assert error.message.startswith(f"unknown label '{values[0]}' in test")
        assert error.hint is not None
        assert "did you mean" in error.hint or "say what each value means, as in labels: {" in error.hint

    def test_what_means_no_label_is_not_one(self, tmp_path: Path) -> None:
        put(tmp_path, train_a_csv=csv(*["0", "1"] * 20))
        for labels in (["null", "a"], ["a", "nan\u200b"], {"null": "a", 1: "b"}):
            with pytest.raises(PipelineError, match="means that a row has no label"):
                made(tmp_path, labels=labels)
        assert made(tmp_path, labels={0: "null", 1: "a"}).labels == ("null", "a")

    def test_numbers_as_names_are_never_indices(self, tmp_path: Path) -> None:
        put(tmp_path, train_a_csv=csv(*["1", "2"] * 20), test_b_csv=csv(*["1"] * 10, "0", start=50))
        error = refused(tmp_path, labels=["1", "2"])
        assert error.message.startswith("unknown label '0' in test (1 row)")
        assert error.where == f"{tmp_path}/test/b.csv, row 11"
        put(tmp_path, test_b_csv=csv("1.0", "2", start=50))
        statistics = made(tmp_path, labels=[1, 2])
        assert statistics.splits["test"].label_counts == {"1": 1, "2": 1}
        put(tmp_path, train_a_csv=csv(*["1", "two"] * 20), test_b_csv=csv("0", "0", start=50))
        assert "unknown label '0'" in refused(tmp_path, labels=["1", "two"]).message

    def test_an_index_outside_names_its_row(self, tmp_path: Path) -> None:
        put(tmp_path, train_a_csv=csv(*["0", "1"] * 20), test_b_csv=csv("0", "1", "2", start=50))
        error = refused(tmp_path, labels=["closed", "open"])
        assert error.message.startswith("unknown label '2' in test (1 row)")
        assert error.where == f"{tmp_path}/test/b.csv, row 3"

    def test_a_number_among_names_is_not_an_index(self, tmp_path: Path) -> None:
        put(tmp_path, train_a_csv=csv(*["closed", "open"] * 20, "1"))
        assert refused(tmp_path, labels=["closed", "open"]).where == f"{tmp_path}/train/a.csv, row 41"

    def test_booleans_mean_what_they_mean_in_any_order(self, tmp_path: Path) -> None:
        put(tmp_path, train_a_csv=csv(*["1", "0", "0"] * 10), test_b_jsonl=jsonl(True, False, False, start=50))
        statistics = made(tmp_path, labels=["True", "False"])
        assert statistics.labels == ("True", "False")
        assert statistics.splits["test"].label_counts == {"True": 1, "False": 2}
        assert statistics.splits["train"].label_counts["False"] == 20

    def test_a_mapping_says_what_each_value_means(self, tmp_path: Path) -> None:
        put(tmp_path, train_a_csv=csv(*["2", "1", "offen"] * 10), test_b_csv=csv("1", "2.0", "open", start=50))
        statistics = made(tmp_path, labels={1: "closed", 2: "open", "offen": "open"})
        assert statistics.labels == ("closed", "open")
        assert statistics.splits["test"].label_counts == {"closed": 1, "open": 2}
        put(tmp_path, test_b_csv=csv("0", start=50))
        assert (
            "unknown label '0' in test" in refused(tmp_path, labels={1: "closed", 2: "open", "offen": "open"}).message
        )
        swapped = made_counts(tmp_path, csv(*["0", "0", "1"] * 10), {0: "1", 1: "0"})
        assert swapped == {"1": 20, "0": 10}


def made_counts(folder: Path, content: str, labels: dict[Any, Any]) -> dict[str, int]:
    put(folder, train_a_csv=content, test_b_csv=csv("0", "1", start=90))
    return made(folder, labels=labels).splits["train"].label_counts


def test_names_that_are_numbers_rename_those_of_a_file(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": [f"t {at}" for at in range(40)], "label": [0, 1, 1, 1] * 10}
    (tmp_path / "train").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train" / "a.parquet")
    put(tmp_path, test_b_csv=csv("1 star", "2 stars", start=50))
    counts = made(tmp_path, labels=["1 star", "2 stars"]).splits["train"].label_counts
    assert counts == {"1 star": 10, "2 stars": 30}
    for values in ({0: "bad", 1: "good"}, {"neg": "bad", "pos": "good"}):
        put(tmp_path, test_b_csv=csv("bad", "good", start=50))
        assert made(tmp_path, labels=values).splits["train"].label_counts == {"bad": 10, "good": 30}


def test_a_file_that_names_its_numbers(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = datasets.Dataset.from_dict(
        {"text": [f"t {at}" for at in range(40)], "label": [0, 1] * 20}, features=features
    )
    (tmp_path / "train").mkdir()
    rows.to_parquet(tmp_path / "train" / "a.parquet")
    put(tmp_path, train_b_csv=csv("neg", "pos", start=50))
    assert made(tmp_path).labels == ("neg", "pos")
    put(tmp_path, train_b_csv=csv("0", "1", start=50))
    assert "names in some files (neg, pos) and numbers in others" in refused(tmp_path).message
    (tmp_path / "train" / "b.csv").unlink()
    table = pq.read_table(tmp_path / "train" / "a.parquet")
    column = pa.array([0, 1] * 19 + [0, 7])
    pq.write_table(table.set_column(1, "label", column), tmp_path / "train" / "a.parquet")
    error = refused(tmp_path)
    assert error.message == "label 7 is not among the 2 that the file names"
    assert error.where == f"{tmp_path}/train/a.parquet, row 40"
