"""Two models compared on the rows that both were asked, whatever they were asked besides."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.artifacts.repository import Artifacts
from retrainer.audit.compared import Compared, OnCommonRows, Side, without_texts
from retrainer.audit.comparing import NOT_GIVEN, compare_models
from retrainer.audit.side_by_side import parts
from retrainer.gate.metrics import compare
from retrainer.gate.tables import ANOTHER, Table
from retrainer.records import digest_of
from tests.audit.compared import evaluation, labelled, side, with_sets, written

AB = ("World", "Sports")
SETS, TEXT = "multi-label-classification", "text2text-generation"


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def compared(artifacts: Artifacts, a: Side, b: Side) -> OnCommonRows:
    found = compare_models(artifacts, a, b, 0.05)
    assert found.on_rows is not None, found.why_not
    return found.on_rows


def said_in(found: Compared) -> str:
    return " ".join(sentence for part in parts(found).values() for sentence in part.sentences)


def test_only_rows_that_both_were_asked_count(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(300)]
    a = evaluation(artifacts, "a", AB, labelled(range(200), truth[:200], truth[:200], 2))
    wrong = [1 - label if row < 150 else label for row, label in enumerate(truth)][100:]
    b = evaluation(artifacts, "b", AB, labelled(range(100, 300), truth[100:], wrong, 2))
    found = compare_models(artifacts, a, b, 0.05)
    rows = found.on_rows
    assert rows is not None
    assert (rows.rows, rows.asked_a, rows.asked_b) == (100, 200, 200)
    assert (rows.right.both, rows.right.a, rows.right.b, rows.right.neither) == (50, 50, 0, 0)
    assert rows.scores[0].a.value == 1.0
    assert rows.scores[0].b.value == 0.5  # 0.75 on all that it was asked
    assert "Both were asked 100 rows. The evaluation of A has 200, that of B 200" in said_in(found)


def test_one_evaluation_of_both_is_preferred(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(200)]
    a = evaluation(artifacts, "a", AB, labelled(range(200), truth, truth, 2))
    again = labelled(range(100, 200), truth[100:], truth[100:], 2)
    later = labelled(range(100, 200), truth[100:], truth[100:], 2)
    b = evaluation(artifacts, "b", AB, later, champion=("a", again))
    rows = compared(artifacts, a, b)
    assert (rows.rows, rows.evaluation_a, rows.evaluation_b) == (100, b.evaluation, b.evaluation)


def test_where_its_own_evaluation_was_removed_another_may_have_asked_it(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(120)]
    table = labelled(range(120), truth, truth, 2)
    a = evaluation(artifacts, "a", AB, table)
    b = evaluation(artifacts, "b", AB, table, champion=("a", table))
    c = evaluation(artifacts, "c", AB, table)
    assert a.evaluation is not None
    shutil.rmtree(artifacts.local / "evaluate" / a.evaluation)
    assert compared(artifacts, a, b).rows == 120
    gone = compare_models(artifacts, a, c, 0.05)
    assert gone.on_rows is None
    assert gone.why_not is not None
    assert f"The evaluation {a.evaluation[:12]} was removed" in gone.why_not


def test_altered_predictions_are_not_used(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(100)]
    a = evaluation(artifacts, "a", AB, labelled(range(100), truth, truth, 2))
    b = evaluation(artifacts, "b", AB, labelled(range(100), truth, truth, 2))
    assert b.evaluation is not None
    file = artifacts.local / "evaluate" / b.evaluation / "predictions" / "fp32.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    found = compare_models(artifacts, a, b, 0.05)
    assert found.on_rows is None
    assert "cannot be used: predictions changed" in (found.why_not or "")


def test_no_common_rows(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(50)]
    a = evaluation(artifacts, "a", AB, labelled(range(50), truth, truth, 2))
    b = evaluation(artifacts, "b", AB, labelled(range(50, 100), truth, truth, 2))
    found = compare_models(artifacts, a, b, 0.05)
    assert found.on_rows is None
    assert "none of which are the same" in (found.why_not or "")


@pytest.mark.parametrize(
    ("b", "why"),
    [
        (side("a", AB), "It is the same model twice."),
        (side("b", AB, export="e"), "Both are the same model"),
        (side("b", (), task=TEXT), "One is for text-classification and the other for text2text-generation"),
        (side("b", AB), "It is not known which evaluation asked version b."),
    ],
)
def test_what_cannot_be_compared(artifacts: Artifacts, b: Side, why: str) -> None:
    found = compare_models(artifacts, side("a", AB, export="e"), b, 0.05)
    assert found.on_rows is None
    assert why in (found.why_not or "")


def test_other_labels_in_another_order(artifacts: Artifacts) -> None:
    """A knows World and Sports, B Sports, Tech and World: rows of Tech A has wrong."""
    names = ["World", "Sports", "Tech"]
    truth = [row % 3 for row in range(300)]
    known = [row for row in range(300) if truth[row] < 2]
    a = evaluation(artifacts, "a", AB, labelled(known, [truth[row] for row in known], [truth[row] for row in known], 2))
    mine, theirs = ("Sports", "Tech", "World"), {"World": 2, "Sports": 0, "Tech": 1}
    as_b = [theirs[names[label]] for label in truth]
    # Of b's evaluation a is the champion: what it says of Tech is World, by name.
    said = [theirs["World"] if names[label] == "Tech" else theirs[names[label]] for label in truth]
    champion = ("a", labelled(range(300), as_b, said, 3))
    b = evaluation(artifacts, "b", mine, labelled(range(300), as_b, as_b, 3), champion=champion)
    found = compare_models(artifacts, a, b, 0.05)
    rows = found.on_rows
    assert rows is not None
    assert rows.rows == 300
    assert (rows.right.both, rows.right.a, rows.right.b) == (200, 0, 100)
    assert [(one.true, one.said, one.a, one.b, one.of) for one in rows.mixed] == [("Tech", "World", 100, 0, 100)]
    assert "A does not know Tech" in said_in(found)
    by_label = {group.value: group for group in rows.groups if group.by == "label"}
    assert (by_label["Tech"].better, by_label["World"].better) == ("b", None)
    own = compared(artifacts, a, evaluation(artifacts, "c", mine, labelled(range(300), as_b, as_b, 3)))
    assert (own.rows, own.right.both, own.labels) == (200, 200, ("World", "Sports", "Tech"))


def test_a_label_that_nobody_here_knows(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(100)]
    said = [-1 if row < 10 else label for row, label in enumerate(truth)]
    b = evaluation(
        artifacts,
        "b",
        AB,
        labelled(range(100), truth, truth, 2),
        champion=("a", labelled(range(100), truth, said, 2)),
    )
    asked = side("a", AB, evaluate=digest_of({"evaluation": "gone"}))
    found = compared(artifacts, asked, b)
    assert found.right.b == 10
    assert {(one.a, one.sure_a) for one in found.differing} == {(ANOTHER, None)}
    assert {one.said for one in found.mixed} == {ANOTHER}


def test_what_was_relabelled_counts_by_the_later_label(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(100)]
    corrected = [1 - label if row < 10 else label for row, label in enumerate(truth)]
    a = evaluation(artifacts, "a", AB, labelled(range(100), truth, truth, 2))
    b = evaluation(artifacts, "b", AB, labelled(range(100), corrected, corrected, 2), at="2026-02-01T00:00:00+00:00")
    for one, other in ((a, b), (b, a)):
        found = compare_models(artifacts, one, other, 0.05)
        rows = found.on_rows
        assert rows is not None
        assert (rows.relabelled, rows.truth) == (10, b.evaluation)
        assert {rows.right.a, rows.right.b} == {0, 10}
        assert "Of 10 rows the label was another one when they were first asked" in said_in(found)


def test_any_number_of_labels(artifacts: Artifacts) -> None:
    truth = [[0], [0, 1], [], [1]] * 30
    worse = [[0], [0], [], [1]] * 30
    names = ("mud", "trees")
    a = evaluation(artifacts, "a", names, with_sets(range(120), truth, truth, 2), task=SETS)
    # The same labels in another order.
    turned = [[1 - label for label in reversed(labels)] for labels in (*truth,)]
    said = [[1 - label for label in reversed(labels)] for labels in (*worse,)]
    b = evaluation(artifacts, "b", names[::-1], with_sets(range(120), turned, said, 2), task=SETS)
    rows = compared(artifacts, a, b)
    assert (rows.right.both, rows.right.a, rows.right.alike, rows.relabelled) == (90, 30, 90, 0)
    assert [(one.true, one.said, one.a, one.b, one.of) for one in rows.mixed] == [("trees", NOT_GIVEN, 0, 30, 60)]
    assert {(one.true, one.a, one.b) for one in rows.differing} == {("mud, trees", "mud, trees", "mud")}
    assert {score.metric: score.b.value for score in rows.scores}["subset_accuracy"] == 0.75


def test_texts_by_the_scores_of_each_row(artifacts: Artifacts) -> None:
    a = evaluation(artifacts, "a", (), written(range(100), [True] * 100), task=TEXT)
    b = evaluation(artifacts, "b", (), written(range(100), [row % 4 > 0 for row in range(100)]), task=TEXT)
    found = compare_models(artifacts, a, b, 0.05)
    rows = found.on_rows
    assert rows is not None
    assert rows.metric == "chrf"
    difference = rows.scores[0].difference
    assert difference is not None
    assert difference.estimate == pytest.approx(0.125)
    assert (rows.right.a, rows.mixed, rows.groups) == (25, (), ())
    assert rows.differing[0].b == "tar 0"
    hidden = without_texts(found, writes_text=True).on_rows
    assert hidden is not None
    assert {(one.true, one.a, one.b, one.text) for one in hidden.differing} == {(None, None, None, None)}
    assert {one.sure_b for one in hidden.differing} == {0.5}


def test_rows_with_other_right_texts_are_left_out(artifacts: Artifacts) -> None:
    a = evaluation(artifacts, "a", (), written(range(100), [True] * 100), task=TEXT)
    columns = written(range(100), [True] * 100)
    columns["target"] = [["another"] if row < 20 else targets for row, targets in enumerate(columns["target"])]
    columns["score_exact_match"] = [float(row >= 20) for row in range(100)]
    columns["score_chrf"] = columns["score_exact_match"]
    b = evaluation(artifacts, "b", (), columns, task=TEXT)
    rows = compared(artifacts, a, b)
    assert (rows.rows, rows.left_out, rows.relabelled) == (80, 20, 0)


def test_it_is_the_gates_own_difference(artifacts: Artifacts) -> None:
    truth = [row % 2 for row in range(400)]
    said = [1 - label if row % 7 == 0 else label for row, label in enumerate(truth)]
    worse = [1 - label if row % 5 == 0 else label for row, label in enumerate(truth)]
    a = evaluation(artifacts, "a", AB, labelled(range(400), truth, said, 2))
    b = evaluation(artifacts, "b", AB, labelled(range(400), truth, worse, 2))
    rows = compared(artifacts, a, b)
    from retrainer.gate.evidence import load_evidence

    one, other = (
        load_evidence(artifacts.local / "evaluate" / str(which.evaluation)).tables["fp32"] for which in (a, b)
    )
    assert isinstance(one, Table)
    for score in rows.scores:
        assert score.difference == compare(score.metric, one.labels, one.said(1), other.said(1), 0.05)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(0, 2)), min_size=4, max_size=40))
def test_the_other_way_round_it_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]
) -> None:
    if len({true for true, _, _ in rows}) < 2:
        return
    artifacts = Artifacts(tmp_path_factory.mktemp("turned"))
    names = ("x", "y", "z")
    truth, first, second = ([row[at] for row in rows] for at in range(3))
    numbers = range(len(rows))
    champion = ("a", labelled(numbers, truth, first, 3))
    b = evaluation(artifacts, "b", names, labelled(numbers, truth, second, 3), champion=champion, metrics=["accuracy"])
    a = side("a", names, evaluate=digest_of({"evaluation": "gone"}))
    one, other = compared(artifacts, a, b), compared(artifacts, b, a)
    assert (one.right.a, one.right.b, one.right.both) == (other.right.b, other.right.a, other.right.both)
    assert one.right.both + one.right.a + one.right.b + one.right.neither == len(rows)
    mine, theirs = one.scores[0].difference, other.scores[0].difference
    assert mine is not None
    assert theirs is not None
    assert (mine.estimate, mine.low, mine.high) == pytest.approx((-theirs.estimate, -theirs.high, -theirs.low))
    assert {(two.true, two.said, two.a, two.b) for two in one.mixed} == {
        (two.true, two.said, two.b, two.a) for two in other.mixed
    }
    assert [group.rows for group in one.groups] == [group.rows for group in other.groups]


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ((("fp32",), ("fp32",)), ["Both answered in fp32."]),
        ((("fp32", "int8"), ("fp32", "int8")), ["Both answered in fp32.", "Clients run int8 of both where"]),
        ((("fp32", "int8"), ("fp32",)), ["Both answered in fp32.", "Warning: clients run int8 of A and fp32 of B"]),
    ],
)
def test_the_precision_of_both_is_said(
    artifacts: Artifacts, published: tuple[tuple[str, ...], tuple[str, ...]], said: list[str]
) -> None:
    truth = [row % 2 for row in range(100)]
    rows = labelled(range(100), truth, truth, 2)
    a = evaluation(artifacts, "one", AB, rows).model_copy(update={"precisions": published[0]})
    b = evaluation(artifacts, "two", AB, rows).model_copy(update={"precisions": published[1]})
    sentences = parts(compare_models(artifacts, a, b, 0.05))["rows"].sentences
    about = [one for one in sentences if "fp32" in one or "int8" in one]
    assert len(about) == len(said)
    assert all(text in sentence for text, sentence in zip(said, about, strict=True))
