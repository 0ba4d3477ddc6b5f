"""Ingest of outputs: text that is kept as it is, of which an input may have several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.snapshot import SPLITS, SnapshotStatistics, split_file
from retrainer.errors import DataError
from retrainer.spec import load_pipeline, parse_pipeline
from retrainer.work.evaluate.held_out import read_rows
from retrainer.work.ingest import ingest
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import TRAIN_ROWS, pack_row_ids, trained_on
from tests.conftest import REPOSITORY
from tests.generation import tiny


def snapshot(folder: Path, rows: Any, **dataset: Any) -> SnapshotStatistics:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checks = {"min_rows": 1, **dataset.pop("checks", {})}
    content = {
        "name": "writer",
        "task": "text2text-generation",
        "dataset": {"train": "rows.jsonl", "checks": checks, **dataset},
        "model": {"base": "not needed"},
        "publish": {"store": "not needed"},
    }
    out = folder / "out"
    out.mkdir()
    return ingest(parse_pipeline(content, base_folder=folder), out, Reporter(folder / "messages.jsonl"))


def pairs(folder: Path) -> dict[str, list[tuple[str, str]]]:
    found = {}
    for split in ("train", "validation", "test"):
        table = pq.read_table(split_file(folder / "out", split))
        assert table.column_names[:3] == ["row_id", "text", "target"]
        found[split] = list(zip(table.column("text").to_pylist(), table.column("target").to_pylist(), strict=True))
    return found


def asked(*given: tuple[object, object]) -> list[dict[str, object]]:
    return [{"model_input": text, "model_output": output} for text, output in given]


MANY = tiny.rows(100, longest=4)
APART = {"near_duplicate_similarity": None}


def test_outputs_are_kept_as_they_are(tmp_path: Path) -> None:
    odd = ["  two  spaces ", "NULL", "1.0", "a\nb\n", "Nan", "\u00e9 \u200d"]
    given = [(f"question {at}", output) for at, output in enumerate(odd)]
    statistics = snapshot(tmp_path, asked(*given, *MANY), checks=APART)
    assert statistics.labels == ()
    assert all(part.label_counts == {} for part in statistics.splits.values())
    kept = [pair for split in pairs(tmp_path).values() for pair in split]
    assert set(given) <= set(kept)
    assert len(kept) == len(given) + len(MANY)


def test_several_outputs_of_an_input_stay_together_and_repeated_rows_are_counted(tmp_path: Path) -> None:
    several = [(text, f"{output} or {at}") for text, output in MANY[:50] for at in range(2)]
    repeated = several[:7]
    statistics = snapshot(tmp_path, asked(*several, *repeated, *MANY[50:]), checks=APART)
    assert statistics.duplicates == 7
    assert statistics.conflicts == 0
    assert statistics.quarantined == {}
    splits = pairs(tmp_path)
    assert sum(map(len, splits.values())) == 150
    texts = [{text for text, _ in split} for split in splits.values()]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]


def test_what_is_held_out_is_not_trained_on_whatever_the_output(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in asked((MANY[0][0].upper(), "another"), *tiny.rows(9, seed=99)))
    )
    statistics = snapshot(tmp_path, asked(*MANY), test="test.jsonl", checks=APART)
    assert statistics.leakage["train_in_test"] >= 1
    assert MANY[0] not in pairs(tmp_path)["train"]


def test_near_duplicates_are_found_whatever_the_output_unless_one_word_asks_for_another(tmp_path: Path) -> None:
    long = "please write down in a few words what was said about the old bridge over the river yesterday"
    one_word = "which of the many large cities of the world is the capital of {} and why is that so"
    held_out = asked((long, "nothing"), (one_word.format("France"), "Paris"), (one_word.format("Peru"), "Lima"))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    given = [(long + ".", "all of it"), (one_word.format("Chad"), "N\u2019Djamena")]
    statistics = snapshot(
        tmp_path,
        asked(*given, *MANY),
        test="test.jsonl",
        split={"validation": 0.0},
        checks={"near_duplicate_similarity": 0.95},
    )
    assert statistics.near_leakage["train_in_test"] == 1
    train = pairs(tmp_path)["train"]
    assert given[0] not in train
    assert given[1] in train


def test_rows_without_an_output_are_an_error_or_set_aside(tmp_path: Path) -> None:
    given = asked(("no output", None), ("blank", "  "), *MANY)
    with pytest.raises(DataError, match="2 without output"):
        snapshot(tmp_path, given)
    (tmp_path / "out").rename(tmp_path / "before")
    statistics = snapshot(tmp_path, given, checks={"max_null_fraction": 0.1, **APART})
    assert statistics.quarantined == {"missing_label": 2}


def test_names_of_a_class_are_what_is_written(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict(
        {"model_input": [text for text, _ in MANY], "model_output": [at % 2 for at in range(len(MANY))]}
    )
    rows.cast_column("model_output", datasets.ClassLabel(names=["no", "yes"])).to_parquet(tmp_path / "rows.parquet")
    snapshot(tmp_path, [], train="rows.parquet", checks=APART)
    assert {output for split in pairs(tmp_path).values() for _, output in split} == {"no", "yes"}


def test_a_wrong_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'model_input'") as caught:
        snapshot(tmp_path, [{"model_inputs": "a", "model_output": "b"}])
    assert "did you mean 'model_inputs'?" in str(caught.value)


def test_the_example_is_read_in_full(tmp_path: Path) -> None:
    pipeline = load_pipeline(REPOSITORY / "examples" / "dates" / "pipeline.yaml")
    statistics = ingest(pipeline, tmp_path, Reporter(tmp_path / "messages.jsonl"))
    assert sum(part.rows for part in statistics.splits.values()) == statistics.source_rows == 600


def test_inputs_that_differ_in_case_white_space_or_width_are_rows_of_their_own_in_one_split(tmp_path: Path) -> None:
    spelled = [("Write THIS", "a"), ("write this", "a"), ("write  this", "b"), ("\uff57rite this", "a")]
    statistics = snapshot(tmp_path, asked(*spelled, spelled[0], *MANY), checks=APART)
    assert statistics.duplicates == 1
    tables = [pq.read_table(split_file(tmp_path / "out", split)).to_pylist() for split in SPLITS]
    found = [[row for row in rows if row["text"] in dict(spelled)] for rows in tables]
    (together,) = filter(None, found)
    assert len({row["row_id"] for row in together}) == 4
    assert len({row["text_key"] for row in together}) == 1
    held_out = next(
        read_rows(split_file(tmp_path / "out", split)) for split, rows in zip(SPLITS, found, strict=True) if rows
    )
    right = dict(zip(held_out.texts, held_out.targets, strict=True))
    assert [right[text] for text, _ in spelled] == [("a",), ("a",), ("b",), ("a",)]
    # By the keys a model that was trained on one of them is known to have seen all.
    (tmp_path / TRAIN_ROWS).write_bytes(pack_row_ids([together[0]["text_key"]]))
    seen = trained_on(held_out.keys, tmp_path)
    assert [text for text, known in zip(held_out.texts, seen, strict=True) if known] == [text for text, _ in spelled]


def test_training_rows_lost_to_a_shared_instruction_are_explained(tmp_path: Path) -> None:
    instruction = "please read the following words with care and write down what is the right answer to each of them: "
    rows = [(f"{instruction}{text}", output) for text, output in MANY]
    snapshot(tmp_path, asked(*rows, *tiny.rows(100, longest=9, seed=5)), checks={"near_duplicate_similarity": 0.8})
    said = (tmp_path / "messages.jsonl").read_text()
    assert "share a long instruction" in said
    assert "dataset.checks.near_duplicate_similarity: null" in said
