"""What models write, row by row: scores, several right answers for one input, the file of predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF

from retrainer.gate.answers import Answers, Said, TextAnswers
from retrainer.gate.evidence import load_evidence
from retrainer.gate.tables import TextTable
from retrainer.records import sha256_file
from retrainer.spec.known_metrics import names_of
from retrainer.work.evaluate.generation import scored
from retrainer.work.evaluate.held_out import HeldOutRows, read_rows
from retrainer.work.evaluate.row_scores import chrf, exact_match, rouge_l
from retrainer.work.evaluate.written import kept, said_again, table_of, write_predictions
from retrainer.work.near.index import NO_LABEL, near_rows, write_index
from retrainer.work.profile import profile_of
from tests.gate.texts import record_of

WORDS = ("old", "young", "tall", "tired", "happy", "lonely", "quiet", "clever")
IDS = ["ffffffffffffffff", "0000000000000001", "ffffffffffffffff", "8000000000000000", "ffffffffffffffff"]


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A test split in which one input has two right answers, one of them twice."""
    table = pa.table(
        {
            "row_id": IDS,
            "text": ["name a colour", "2 + 2", "name a colour", "say it", "name a colour"],
            "target": ["red", "4", "blue", "ça va", "red"],
            "slice_kind": ["open", "sum", "open", "", "open"],
        }
    )
    pq.write_table(table, tmp_path / "test.parquet")
    return tmp_path / "test.parquet"


@pytest.fixture
def rows(split: Path) -> HeldOutRows:
    return read_rows(split, patterns=["[0-9]"])


def test_an_input_is_one_row_with_all_its_right_answers(rows: HeldOutRows) -> None:
    assert rows.row_ids == ("ffffffffffffffff", "0000000000000001", "8000000000000000")
    assert rows.texts == ("name a colour", "2 + 2", "say it")
    assert rows.targets == (("red", "blue"), ("4",), ("ça va",))
    assert rows.labels.tolist() == [0, 0, 0]
    assert rows.columns["slice_kind"].to_pylist() == ["open", "sum", ""]
    assert rows.columns["pattern_0"].to_pylist() == [False, True, False]
    fewer = rows.where(np.array([False, True, True]))
    assert (fewer.texts, fewer.targets) == (rows.texts[1:], rows.targets[1:])


@pytest.mark.parametrize(
    ("text", "targets", "expected"),
    [
        ("red", ("red", "blue"), (1.0, 1.0, 1.0)),
        ("  dark\nred ", ("dark red",), (1.0, 1.0, 1.0)),
        ("", ("red",), (0.0, 0.0, 0.0)),
        ("!!", ("??",), (0.0, 0.0, 0.0)),
        ("!!", ("!!",), (1.0, 1.0, 1.0)),  # without a single word
        ("Red", ("red",), (0.0, None, 1.0)),
    ],
)
def test_scores_of_one_row(text: str, targets: tuple[str, ...], expected: tuple[float | None, ...]) -> None:
    for function, value in zip((exact_match, chrf, rouge_l), expected, strict=True):
        found = function(text, targets)
        assert 0.0 <= found <= 1.0
        if value is not None:
            assert found == pytest.approx(value)


def test_the_nearest_of_several_targets_counts() -> None:
    alone = [function("the red house", ("a red house",)) for function in (chrf, rouge_l)]
    among = [function("the red house", ("nothing of it", "a red house")) for function in (chrf, rouge_l)]
    assert among == pytest.approx(alone)
    assert alone[0] == pytest.approx(CHRF().sentence_score("the red house", ["a red house"]).score / 100)
    assert alone[1] == pytest.approx(2 / 3)  # two of three words, both ways


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [("Ça va déjà très bien", "ça va", 4 / 7), ("доброе утро", "доброе утро, мир", 0.8), ("东京很大", "东京大", 6 / 7)],
)
def test_words_of_any_script_count(text: str, target: str, expected: float) -> None:
    """By rouge-score's own words the second and the third would score 0."""
    assert rouge_l(text, (target,)) == pytest.approx(expected)


def test_every_metric_of_the_family_is_scored_and_read_by_the_gate(rows: HeldOutRows, tmp_path: Path) -> None:
    written = ["blue", "5", "say it\0"]
    answers = scored(written, rows.targets)
    assert tuple(answers.scores) == names_of("generation")
    assert answers.scores["exact_match"].tolist() == [1.0, 0.0, 0.0]
    assert answers.right(rows.labels).tolist() == [True, False, False]
    file = tmp_path / "predictions" / "challenger_fp32.parquet"
    write_predictions(file, rows, answers)
    record_of(3, sha256_file(file)).save(tmp_path)
    table = load_evidence(tmp_path).tables["fp32"]
    expected = table_of(answers, rows)
    assert isinstance(table, TextTable)
    assert isinstance(expected, TextTable)
    assert table.predictions.tolist() == written
    assert table.targets.tolist() == list(rows.targets)
    assert table.metrics == expected.metrics
    assert np.array_equal(table.scores, expected.scores)
    assert table.slices["kind"].tolist() == ["open", "sum", ""]
    assert table.characters is not None


def test_answers_that_were_kept_are_the_same_again(rows: HeldOutRows, tmp_path: Path) -> None:
    texts = scored(["blue", "5", "say it\0"], rows.targets)
    labels = Answers(np.array([0, 1, -1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.1]]))
    both: tuple[Said, ...] = (texts, labels)
    for number, answers in enumerate(both):
        np.savez(tmp_path / f"{number}.npz", **kept(answers))
        with np.load(tmp_path / f"{number}.npz") as arrays:
            again = said_again(dict(arrays), rows)
        assert type(again) is type(answers)
        assert again.predictions.tolist() == answers.predictions.tolist()
    corrected = said_again(kept(texts), replace(rows, targets=(("5",),) * 3))
    assert isinstance(corrected, TextAnswers)
    assert corrected.scores["exact_match"].tolist() == [0.0, 1.0, 0.0]


def test_rows_without_labels_have_a_profile(split: Path) -> None:
    profile = profile_of(split, ())
    assert profile.label_counts == {}
    assert profile.rows == 5


def test_rows_without_labels_are_found_again_in_the_index_of_training_rows(tmp_path: Path) -> None:
    texts = [f"the {word} man walked down the long road to town number {row}" for row, word in enumerate(WORDS)]
    pq.write_table(pa.table({"text": texts, "target": texts}), tmp_path / "train.parquet")
    write_index(tmp_path / "train.parquet", (), tmp_path / "index")
    asked = [texts[3].replace("walked", "walks"), "nothing that was ever read"]
    assert near_rows(tmp_path / "index", asked, [NO_LABEL] * 2, 0.8).tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("\u0915\u093f\u0924\u093e\u092c", "\u0915\u0941\u0924\u0940\u092c"),
        ("\u0b95\u0bbf", "\u0b95\u0bc1"),
        ("\u0643\u064e\u062a", "\u0643\u0650\u062a"),
        ("x\u0301y", "x\u0300y"),
    ],
)
def test_marks_are_part_of_words(text: str, target: str) -> None:
    assert rouge_l(text, (target,)) < 1


def test_how_a_letter_is_composed_does_not_matter_and_what_it_is_does() -> None:
    composed, apart = "caf\u00e9 noir", "cafe\u0301 noir"
    for function in (exact_match, chrf, rouge_l):
        assert function(apart, (composed,)) == function(composed, (apart,)) == 1.0
        assert function(apart + " x", (composed,)) == function(composed + " x", (composed,))
        assert function("m\u00b2", ("m2",)) < 1


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=12), st.lists(st.sampled_from(["a", "b", "c"]), max_size=12))
def test_rouge_l_is_what_rouge_score_says(written: list[str], target: list[str]) -> None:
    text, right = " ".join(written), " ".join(target)
    if text != right:
        expected = RougeScorer(["rougeL"]).score(right, text)["rougeL"].fmeasure
        assert rouge_l(text, (right,)) == pytest.approx(expected)
