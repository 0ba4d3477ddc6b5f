"""Rows with any number of labels, in every way in which they may be written; and what is none."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.artifacts.snapshot import CORRECTIONS, SPLITS, SnapshotStatistics
from retrainer.errors import DataError, PipelineError
from retrainer.sources.corrections import add_corrections, read_decisions
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.ingest import ingest
from retrainer.work.ingest.label_sets import LabelSets
from retrainer.work.near.index import name_of_set, near_rows, write_index
from retrainer.work.reporter import Reporter
from tests.label_sets.conftest import LABELS, MakePipeline, as_json_lines, rows

SOME = rows(200)


class Kept(Reporter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, text: str, level: Any = "info") -> None:
        self.lines.append(text)


def made(pipeline: Pipeline, folder: Path, reporter: Reporter | None = None) -> dict[str, set[str]]:
    """Each text of the snapshot with its labels."""
    folder.mkdir()
    statistics = ingest(pipeline, folder, reporter or Reporter())
    found = {}
    for split in SPLITS:
        table = pq.read_table(folder / f"{split}.parquet")
        assert table.schema.field("label").type == pa.list_(pa.int64())
        for text, has in zip(table.column("text").to_pylist(), table.column("label").to_pylist(), strict=True):
            found[text] = {statistics.labels[at] for at in has}
    return found


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def written(folder: Path, form: str) -> tuple[Path, dict[str, Any]]:
    """The same rows in one of the forms, and what the pipeline has to say of it."""
    flags: list[dict[str, Any]] = [
        {"text": text, **{label: int(label in has) for label in LABELS}} for text, has in SOME
    ]
    match form:
        case "json lines":
            return as_json_lines(folder / "rows.jsonl", SOME), {}
        case "json in csv":
            lines = [f"{quoted(text)},{quoted(json.dumps(has))}\n" for text, has in SOME]
        case "separated":
            lines = [f"{quoted(text)},{' ; '.join(has) or ';'}\n" for text, has in SOME]
        case "lists in parquet":
            table = pa.table({"text": [text for text, _ in SOME], "label": [has for _, has in SOME]})
            pq.write_table(table, folder / "rows.parquet")
            return folder / "rows.parquet", {}
        case "columns of numbers":
            pq.write_table(pa.Table.from_pylist(flags), folder / "rows.parquet")
            return folder / "rows.parquet", {"label": list(LABELS)}
        case "columns in csv":
            spell = [("0", "FALSE", "false ", "0.0"), ("1", "TRUE", "True", "1.0")]
            lines = ["text," + ",".join(LABELS) + "\n"]
            for at, row in enumerate(flags):
                cells = [spell[int(row[label])][at % 4] for label in LABELS]
                lines.append(f"{quoted(str(row['text']))},{','.join(cells)}\n")
            (folder / "rows.csv").write_text("".join(lines))
            return folder / "rows.csv", {"label": list(LABELS)}
    (folder / "rows.csv").write_text("text,label\n" + "".join(lines))
    return folder / "rows.csv", {"label_separator": ";"} if form == "separated" else {}


FORMS = ["json lines", "json in csv", "separated", "lists in parquet", "columns of numbers", "columns in csv"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same(form: str, make_pipeline: MakePipeline, tmp_path: Path) -> None:
    path, says = written(tmp_path, form)
    found = made(make_pipeline(path, dataset=says), tmp_path / "snapshot")
    assert found == {text: set(has) for text, has in SOME}
    assert SnapshotStatistics.load(tmp_path / "snapshot").labels == LABELS


def test_names_come_with_a_dataset(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    names = ["mud", "trees", "crowd"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=names))}
    )
    told = {"text": [text for text, _ in SOME], "label": [[names.index(one) for one in has] for _, has in SOME]}
    dataset = datasets.Dataset.from_dict(told, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "rows.parquet")
    hub = {"hub": {"path": str(tmp_path / "saved")}}
    for name, train in (("hub", hub), ("parquet", str(tmp_path / "rows.parquet"))):
        pipeline = make_pipeline(dataset={"train": train})
        assert made(pipeline, tmp_path / name) == {text: set(has) for text, has in SOME}
        assert SnapshotStatistics.load(tmp_path / name).labels == tuple(names)


def test_columns_are_renamed_in_their_order(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    path, _ = written(tmp_path, "columns of numbers")
    order, names = ["trees", "crowd", "mud"], ["Tree down", "Crowded", "Muddy"]
    pipeline = make_pipeline(path, dataset={"label": order, "labels": names})
    renamed = dict(zip(order, names, strict=True))
    assert made(pipeline, tmp_path / "snapshot") == {text: {renamed[one] for one in has} for text, has in SOME}
    assert SnapshotStatistics.load(tmp_path / "snapshot").labels == tuple(names)


def test_nothing_and_none_of_the_labels_are_told_apart(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"text": text, "label": has} for text, has in SOME]
    lines += [{"text": "nobody looked at this", "label": None}, {"text": "nor at this one"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"2 without labels"):
        made(make_pipeline(path), tmp_path / "refused")
    checks = {"near_duplicate_similarity": None, "max_null_fraction": 0.05}
    kept = Kept()
    found = made(make_pipeline(path, dataset={"checks": checks}), tmp_path / "snapshot", kept)
    assert found == {text: set(has) for text, has in SOME}
    assert SnapshotStatistics.load(tmp_path / "snapshot").quarantined == {"missing_label": 2}
    assert any("rows with none" in line for line in kept.lines)


def test_one_text_with_two_sets_is_a_conflict_and_with_one_set_a_copy(
    make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    doubled = [*SOME, (SOME[0][0].upper(), SOME[0][1][::-1]), (SOME[1][0], ["mud", "trees", "crowd"]), ("x y", [])]
    assert set(SOME[1][1]) != {"mud", "trees", "crowd"}
    found = made(make_pipeline(as_json_lines(tmp_path / "rows.jsonl", doubled)), tmp_path / "snapshot")
    assert found.keys() == {text for text, _ in SOME} - {SOME[1][0]} | {"x y"}
    statistics = SnapshotStatistics.load(tmp_path / "snapshot")
    assert (statistics.duplicates, statistics.conflicts) == (1, 1)
    assert statistics.quarantined == {"conflicting_labels": 2}


def test_held_out_rows_stay_held_out_and_each_label_is_in_every_split(
    make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    rare = [(f"a bear at bend {at}", ["bear", "mud"]) for at in range(5)]
    before = as_json_lines(tmp_path / "before.jsonl", [*SOME, *rare])
    after = as_json_lines(tmp_path / "after.jsonl", [*rows(300, seed=1)[::-1], *rare, *SOME])
    tests = []
    for name, path in (("one", before), ("two", after)):
        checks = {"near_duplicate_similarity": None, "min_rows_per_label": 1}
        made(make_pipeline(path, dataset={"checks": checks}), tmp_path / name)
        splits = SnapshotStatistics.load(tmp_path / name).splits
        assert all(min(part.label_counts.values()) > 0 for part in splits.values())
        tests.append(set(pq.read_table(tmp_path / name / "test.parquet").column("text").to_pylist()))
    known = {text for text, _ in SOME}
    assert tests[0] & known == tests[1] & known


def test_near_duplicates_have_the_same_set(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    long = "the whole upper loop was under water all morning and nobody could ride there"
    train = [*SOME, (f"{long} 1", ["mud"]), (f"{long} 2", ["mud", "crowd"]), (f"{long} 3", ["crowd", "mud"])]
    test = as_json_lines(tmp_path / "test.jsonl", [(f"{long}!", ["mud", "crowd"]), *rows(30, seed=9)])
    pipeline = make_pipeline(
        as_json_lines(tmp_path / "rows.jsonl", train), dataset={"test": str(test), "checks": {"min_rows": 50}}
    )
    folder = tmp_path / "snapshot"
    made(pipeline, folder)
    kept = set(pq.read_table(folder / "train.parquet").column("text").to_pylist())
    kept |= set(pq.read_table(folder / "validation.parquet").column("text").to_pylist())
    assert f"{long} 1" in kept
    assert not {f"{long} 2", f"{long} 3"} & kept

    # The same of the rows that a published model was trained on.
    write_index(folder / "test.parquet", LABELS, tmp_path / "index")
    asked = [f"{long}?", f"{long}?", f"{long}?"]
    named = [name_of_set(one) for one in (["crowd", "mud"], ["mud", "crowd"], ["mud"])]
    assert near_rows(tmp_path / "index", asked, named, 0.8).tolist() == [True, True, False]


def test_corrections_are_lists(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    path = as_json_lines(tmp_path / "rows.jsonl", SOME)
    pipeline = make_pipeline(path, dataset={"corrections": str(tmp_path / "corrections")})
    decided = tmp_path / "decided.csv"
    sets = [sorted(set(LABELS) - set(has)) for _, has in SOME[:3]]
    lines = [f"{quoted(text)},{quoted(json.dumps(has))}" for (text, _), has in zip(SOME, sets, strict=False)]
    decided.write_text("text,label,who,when\n" + "".join(f"{line},me,2026-01-01T00:00:00Z\n" for line in lines))
    said = read_decisions(str(decided), ("text",))
    add_corrections(str(tmp_path / "corrections"), said, datetime.now(UTC))
    found = made(pipeline, tmp_path / "snapshot")
    assert [found[text] for text, _ in SOME[:3]] == [set(has) for has in sets]
    outcomes = pq.read_table(tmp_path / "snapshot" / CORRECTIONS).column("outcome").to_pylist()
    assert outcomes == ["relabelled"] * 3


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("mud", r"expected a JSON list of labels, found 'mud' .*dataset.label_separator"),
        (3, r"expected a list of labels, found 3"),
        ("['mud']", r"expected a JSON list of labels, found '\['mud'\]'"),
        (["mud", None], r"not every member of .* is a label"),
        (["mud", ["trees"]], r"not every member"),
        (["mud", " "], r"not every member"),
        ([0, 1, 0], r"has a number twice.*a column for each label"),
        (["0", "1", "0"], r"has a number twice.*a column for each label"),
        ([True, False], r"not every member of .* is a label.*a column for each label"),
        ({"mud": 1}, r"expected a list of labels, found"),
    ],
)
def test_what_is_no_list_of_labels_is_refused_where_it_is(
    label: Any, said: str, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    lines = [{"text": text, "label": has} for text, has in SOME] + [{"text": "odd one", "label": label}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=said) as caught:
        made(make_pipeline(path), tmp_path / "snapshot")
    assert "row 201" in str(caught.value)


@pytest.mark.parametrize("vector", [[0, 1], ["1", "0"], "0,1"])
def test_a_file_of_vectors_is_no_file_of_lists(vector: Any, make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """With two labels no vector names one twice."""
    turned = vector[::-1]
    lines = [{"text": text, "label": vector if at % 2 else turned} for at, (text, _) in enumerate(SOME)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dataset: dict[str, Any] = {"labels": ["a", "b"], **({"label_separator": ","} if isinstance(vector, str) else {})}
    with pytest.raises(DataError, match=r"every list holds 0 and 1.*a column for each label"):
        made(make_pipeline(path, dataset=dataset), tmp_path / "snapshot")
    lines[0]["label"] = [1]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = made(make_pipeline(path, dataset=dataset), tmp_path / "counted")
    assert found[SOME[0][0]] == {"b"}


@pytest.mark.parametrize(
    ("separator", "field", "said"),
    [
        (",", "1,0,0", "has a number twice.*a column for each label"),
        (",", "true,false,False", "has a number twice"),
        (";", "mud; nan", "not every member"),
        (";", '["mud", "nan"]', "not every member"),
        (";", '["mud", "trees"', "expected a JSON list"),
    ],
)
def test_what_is_separated_is_judged_as_lists_are(
    separator: str, field: str, said: str, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{quoted(text)},{quoted(separator.join(has) or separator)}\n" for text, has in SOME]
    path.write_text("text,label\n" + "".join(lines) + f"odd one,{quoted(field)}\n")
    with pytest.raises(DataError, match=said):
        made(make_pipeline(path, dataset={"label_separator": separator}), tmp_path / "snapshot")


def test_lists_and_white_space_among_what_is_separated(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    odd = {"one": '["mud", "trees"]', "two": " [ ] ", "three": "mud ,trees", "four": " , ", "five": "crowd,"}
    lines = [f"{quoted(text)},{quoted(','.join(has) or ',')}\n" for text, has in SOME]
    path.write_text("text,label\n" + "".join([*lines, *(f"{text},{quoted(field)}\n" for text, field in odd.items())]))
    found = made(make_pipeline(path, dataset={"label_separator": " , "}), tmp_path / "snapshot")
    assert [found[text] for text in odd] == [{"mud", "trees"}, set(), {"mud", "trees"}, set(), {"crowd"}]


def test_a_column_for_a_label_holds_only_whether_a_row_has_it(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    path, says = written(tmp_path, "columns in csv")
    path.write_text(path.read_text() + "odd one,1,maybe,0\n")
    with pytest.raises(DataError, match=r"row 201: column 'mud' holds 'maybe'"):
        made(make_pipeline(path, dataset=says), tmp_path / "snapshot")


def test_lists_are_for_this_task_alone(tiny_bert: Path, tmp_path: Path) -> None:
    for form, found in (("json lines", "holds a list"), ("lists in parquet", "holds list<")):
        path, _ = written(tmp_path, form)
        raw = {
            "name": "t", "dataset": {"train": str(path)}, "model": {"base": str(tiny_bert)}, "publish": {"store": "s"}
        }  # fmt: skip
        with pytest.raises(DataError, match=rf"{found}.*task multi-label-classification"):
            made(parse_pipeline(raw, where="test", base_folder=tmp_path), tmp_path / form)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": {"label": ["mud"]}}, "found a list of 1"),
        ({"dataset": {"label": ["mud", "mud"]}}, "list each column only once"),
        ({"dataset": {"label": ["mud", "text"]}}, "column 'text' is already the text"),
        ({"dataset": {"label": ["mud", "crowd"], "labels": ["one", "two", "three"]}}, "name each of the 2 columns"),
        ({"dataset": {"label": ["mud", "crowd"], "labels": {"mud": "M", "trees": "T"}}}, "name each of the 2 columns"),
        ({"dataset": {"label": ["mud", "crowd"], "label_separator": ";"}}, "is for one column"),
        ({"training": {"label_smoothing_factor": 0.1}}, "any number of labels; drop it"),
        ({"positive_label": "mud"}, "any number of labels; drop it"),
        ({"metrics": ["accuracy"]}, "did you mean 'subset_accuracy'"),
        ({"task": "text-classification", "dataset": {"label": ["mud", "crowd"]}}, "write task: multi-label"),
        ({"task": "text-classification", "dataset": {"label_separator": ";"}}, "write task: multi-label"),
        ({"dataset": {"text": ["one", "two"]}}, "reads one column"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(changes: dict[str, Any], said: str, make_pipeline: MakePipeline) -> None:
    with pytest.raises(PipelineError, match=said):
        make_pipeline(**changes)


@given(st.lists(st.sets(st.integers(0, 4)), min_size=1, max_size=40))
def test_sets_are_counted_as_they_are(found: list[set[int]]) -> None:
    sets = LabelSets(5)
    codes = np.array([sets.code(one) for one in found], dtype=np.int64)
    counts = [sum(at in one for one in found) for at in range(5)]
    assert sets.counts(codes).tolist() == counts
    assert sets.sizes(codes).tolist() == [len(one) for one in found]
    assert sets.column(codes).to_pylist() == [sorted(one) for one in found]
    assert [[codes[a] == codes[b] for a in range(len(found))] for b in range(len(found))] == [
        [found[a] == found[b] for a in range(len(found))] for b in range(len(found))
    ]
    for one, rarest in zip(found, sets.rarest(codes).tolist(), strict=True):
        assert rarest == (min(one, key=lambda at: (counts[at], at)) if one else 5)
