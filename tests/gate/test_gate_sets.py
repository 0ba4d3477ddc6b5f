"""The decision where a row has any number of labels: metrics, their bounds, and all that is judged by sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.label_sets import SCENES, distances
from retrainer.artifacts.evaluation import ModelEvidence, PredictionsFile
from retrainer.artifacts.profile import TrainingProfile
from retrainer.audit.answers import Found
from retrainer.audit.stand_in import Stand, with_models
from retrainer.gate.answers import Answers, Rights, SetAnswers, packed
from retrainer.gate.decide import decide
from retrainer.gate.drift import measure_drift
from retrainer.gate.evidence import load_evidence
from retrainer.gate.label_sets import FromCounts, counts_of, moved_by_rows, scores_of_each
from retrainer.gate.metrics import METRICS, compare, score
from retrainer.gate.overturn import overturn_of
from retrainer.gate.paired import normal_quantile
from retrainer.gate.receipt import ReasonCode, Receipt
from retrainer.gate.selection import Contender, select
from retrainer.gate.slices import groups
from retrainer.gate.tables import SetTable
from retrainer.gate.validity import check
from retrainer.gate.verify import receipt_bytes
from retrainer.records import sha256_file
from retrainer.report.decision import explain
from retrainer.spec.gate import Gate, Slices
from retrainer.spec.known_metrics import KNOWN_METRICS, names_of
from tests.gate.sets import NAMES, THRESHOLDS, drawn, said, set_evidence, with_errors

OF_SETS = [name for name in names_of("multi_label") if KNOWN_METRICS[name].interval == "label_sets"]
SKLEARN = {
    "f1_micro": partial(sklearn.metrics.f1_score, average="micro", zero_division=0.0),
    "f1_macro": partial(sklearn.metrics.f1_score, average="macro", zero_division=0.0),
    "precision_micro": partial(sklearn.metrics.precision_score, average="micro", zero_division=0.0),
    "recall_micro": partial(sklearn.metrics.recall_score, average="micro", zero_division=0.0),
    "hamming_loss": sklearn.metrics.hamming_loss,
    "subset_accuracy": sklearn.metrics.accuracy_score,
}


def zeros(truth: Rights) -> Any:
    return np.zeros(len(truth), dtype=np.int64)


def codes(receipt: Receipt) -> set[ReasonCode]:
    return {reason.code for reason in receipt.reasons}


def policy(**more: Any) -> Gate:
    return Gate.model_validate({"against_champion": {"metric": "f1_micro", "margin": 0.05}, **more})


# --- the metrics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SKLEARN)
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), rare=st.floats(0.0, 0.6))
def test_they_are_scikit_learns(name: str, seed: int, n: int, rare: float) -> None:
    truth = drawn(n, seed, (0.5, rare, 0.0))
    given_ = with_errors(truth, 0.2, seed + 1)
    expected = SKLEARN[name](truth, given_)
    assert METRICS[name].value(zeros(truth), said(truth, given_)) == pytest.approx(expected, abs=1e-12)


def test_log_loss_and_ece_are_of_all_decisions() -> None:
    truth = drawn(500, 1)
    scores = np.clip(np.where(truth, 0.7, 0.2) + np.random.default_rng(2).normal(0, 0.1, truth.shape), 0.01, 0.99)
    one = SetAnswers.of(truth, scores, 0.5)
    expected = sklearn.metrics.log_loss(truth.ravel(), scores.ravel())
    assert METRICS["log_loss"].value(zeros(truth), one) == pytest.approx(expected)
    # As of so many rows with two labels, of which the second is sure by its probability.
    two = Answers(np.ones(truth.size, dtype=np.int64), np.stack([1 - scores.ravel(), scores.ravel()], axis=1))
    bins = np.clip((scores * 15).astype(int), 0, 14)
    by_bin = [(scores - truth)[bins == at].sum() for at in range(15)]
    assert METRICS["ece"].value(zeros(truth), one) == pytest.approx(np.abs(by_bin).sum() / truth.size)
    assert two.predictions.size == truth.size
    for name in ("log_loss", "ece"):
        found = score(name, zeros(truth), one, 0.05)
        assert found.low is not None
        assert found.high is not None
        assert found.value is not None
        assert found.low < found.value < found.high
        assert "stratified" not in (found.method or "")


def test_the_error_of_ece_counts_decisions_of_a_row_together() -> None:
    """Resamples of whole rows."""
    random = np.random.default_rng(4)
    base = random.random((400, 1))
    scores = np.clip(np.repeat(base, 4, axis=1) * 0.8 + 0.1, 0.01, 0.99)
    truth = np.repeat(random.random((400, 1)) < base, 4, axis=1)  # all four or none
    one = SetAnswers.of(truth, scores, 0.5)
    found = score("ece", zeros(truth), one, 0.05)
    assert found.high is not None
    assert found.low is not None
    error = (found.high - found.low) / 2 / normal_quantile(0.05) if found.low > 0 else math.inf
    drawn_ = []
    for _ in range(300):
        at = random.integers(0, 400, 400)
        drawn_.append(METRICS["ece"].value(zeros(truth), SetAnswers.of(truth[at], scores[at], 0.5)))
    assert error == pytest.approx(np.std(drawn_), rel=0.35) or found.low == 0.0


@pytest.mark.parametrize("name", OF_SETS)
def test_how_far_rows_move_a_value_is_what_leaving_them_out_does(name: str) -> None:
    truth = drawn(300, 3)
    foreign = np.random.default_rng(5).random(300) < 0.1
    one = said(truth, with_errors(truth, 0.15, 4), foreign)
    function: FromCounts = METRICS[name]._function  # type: ignore[attr-defined]
    value, slopes = function(counts_of(one))
    moved = moved_by_rows(one, slopes)
    assert moved.sum() == pytest.approx(0.0, abs=1e-9)
    for row in range(0, 300, 37):
        rest = np.arange(300) != row
        without = METRICS[name].value(zeros(truth[rest]), said(truth[rest], one.applies[rest], foreign[rest]))
        assert (value - without) * 299 == pytest.approx(moved[row], abs=0.02)


@pytest.mark.parametrize("name", names_of("multi_label"))
def test_few_rows_on_which_models_agree_prove_nothing(name: str) -> None:
    for n in (3, 30):
        truth = drawn(n, 5) | np.eye(n, 3, dtype=np.bool_)
        one = said(truth, truth)
        found = compare(name, zeros(truth), one, said(truth, truth), 0.05)
        assert found.estimate == 0.0
        assert found.low < -0.01 < 0.01 < found.high
        if KNOWN_METRICS[name].highest == 1.0 and KNOWN_METRICS[name].greater_is_better:
            alone = score(name, zeros(truth), one, 0.05)
            assert alone.low is not None
            assert alone.low < 0.99
    truth = drawn(6000, 5)
    assert compare(name, zeros(truth), said(truth, truth), said(truth, truth), 0.05).low > -0.01


@pytest.mark.parametrize(
    ("name", "has", "gives"),
    [
        ("precision_micro", True, False),  # nobody is given anything
        ("recall_micro", False, True),
        ("f1_micro", False, True),
        ("f1_macro", False, True),
        ("f1_micro", False, False),
    ],
)
def test_where_nothing_is_there_to_count_nothing_is_proven(name: str, has: bool, gives: bool) -> None:
    nothing = np.zeros((1000, 3), dtype=np.bool_)
    truth = drawn(1000, 1) if has else nothing
    one = said(truth, drawn(1000, 2) if gives else nothing)
    found = compare(name, zeros(truth), one, one, 0.05)
    assert (found.estimate, found.low, found.high) == (0.0, -1.0, 1.0)
    alone = score(name, zeros(truth), one, 0.05)
    assert (alone.value, alone.low, alone.high) == (0.0, 0.0, 1.0)
    # Nor is such a model worse, or better, than another by what it does not do.
    if has:
        other = compare(name, zeros(truth), one, said(truth, truth), 0.05)
        assert (other.low, other.high) == (-1.0, 1.0)


@pytest.mark.parametrize("name", OF_SETS)
def test_bounds_turn_with_the_models(name: str) -> None:
    truth = drawn(400, 6)
    one, two = said(truth, with_errors(truth, 0.1, 7)), said(truth, with_errors(truth, 0.2, 8))
    there, back = compare(name, zeros(truth), one, two, 0.01), compare(name, zeros(truth), two, one, 0.01)
    assert there.low == pytest.approx(-back.high, abs=1e-9)
    assert 0 < there.low < there.estimate < there.high
    assert "delta method" in there.method


@pytest.mark.parametrize("name", ["f1_micro", "f1_macro", "recall_micro"])
@pytest.mark.parametrize("scene", SCENES)
def test_bounds_of_a_difference_exclude_the_truth_as_often_as_alpha_says(scene: str, name: str) -> None:
    """On 300 rows, of which the rarest label may have three."""
    trials = 600
    by_score, by_error = distances(name, SCENES[scene], 300, trials)
    for alpha in (0.05, 0.01, 0.001):
        # Both ends; the slack is four standard errors of so few trials.
        excluded = int((by_score > normal_quantile(alpha)).sum())
        assert excluded <= trials * 2 * alpha * 1.1 + 4 * math.sqrt(trials * 2 * alpha)
    if scene == "alike":  # which is why it is not used
        assert (by_error > normal_quantile(0.001)).mean() > 0.02


# --- the evidence ----------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 1000))
def test_packed_sets_are_equal_where_the_sets_are(n_labels: int, flips: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    one = random.random((20, n_labels)) < 0.5
    two = one.copy()
    two[random.integers(0, 20, flips), random.integers(0, n_labels, flips)] ^= True
    foreign, none = random.random(20) < 0.1, np.zeros(20, dtype=np.bool_)
    same = packed(one, none) == packed(two, foreign)
    np.testing.assert_array_equal(same, (one == two).all(axis=1) & ~foreign)


def write(folder: Path, labels: list[list[int]], predictions: list[list[int]], scores: list[list[float]]) -> None:
    lists = pa.list_(pa.int64())
    table = pa.table(
        {
            "row_id": [f"{row:016x}" for row in range(len(labels))],
            "label": pa.array(labels, lists),
            "prediction": pa.array(predictions, lists),
            "scores": pa.array(scores, pa.list_(pa.float64())),
        }
    )
    (folder / "predictions").mkdir()
    pq.write_table(table, folder / "predictions/challenger_fp32.parquet")
    truth = np.zeros((2, 3), dtype=np.bool_)
    record = set_evidence(truth, {"fp32": said(truth, truth)}, record={"rows": len(labels)}).record
    file = "predictions/challenger_fp32.parquet"
    named = PredictionsFile(file=file, sha256=sha256_file(folder / file))
    model = record.challenger["fp32"].model_copy(update={"predictions": named})
    record.model_copy(update={"challenger": {"fp32": model}}).save(folder)


def test_a_file_of_answers_is_read(tmp_path: Path) -> None:
    write(tmp_path, [[0, 2], []], [[0], [1]], [[0.9, 0.1, 0.2], [0.1, 0.4, 0.2]])
    evidence = load_evidence(tmp_path)
    assert not evidence.problems
    table = evidence.tables["fp32"]
    assert isinstance(table, SetTable)
    np.testing.assert_array_equal(table.true_sets, [[True, False, True], [False] * 3])
    np.testing.assert_array_equal(table.applies, [[True, False, False], [False, True, False]])
    assert table.in_words(0, NAMES) == ("mud, crowd", "mud")
    assert table.in_words(1, NAMES) == ("(none)", "trees")
    stranger = replace(table, foreign=np.array([True, False]))
    assert stranger.in_words(0, NAMES) == ("mud, crowd", "mud, (another label)")
    rows, reasons = check(evidence)
    assert reasons == []
    assert rows is not None
    assert rows.counts(3).tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("predictions", "scores", "code"),
    [
        ([[0, 0], [1]], None, ReasonCode.LABELS_INVALID),  # twice
        ([[0, 3], [1]], None, ReasonCode.LABELS_INVALID),  # the fourth of three
        ([[-1, 0], [1]], None, ReasonCode.LABELS_INVALID),  # only a champion has others
        ([[0, 1], [1]], None, ReasonCode.PREDICTIONS_INCONSISTENT),  # below its threshold
        ([[], [1]], None, ReasonCode.PREDICTIONS_INCONSISTENT),  # above it, and not given
        ([[0], [1]], [[0.9, 0.1, math.nan], [0.1, 0.4, 0.2]], ReasonCode.SCORES_INVALID),
        ([[0], [1]], [[1.2, 0.1, 0.2], [0.1, 0.4, 0.2]], ReasonCode.SCORES_INVALID),
        ([[0], [1]], [[0.9, 0.1], [0.1, 0.4]], ReasonCode.SCORES_INVALID),
    ],
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, predictions: list[list[int]], scores: list[list[float]] | None, code: ReasonCode
) -> None:
    write(tmp_path, [[0, 1], []], predictions, scores or [[0.9, 0.1, 0.2], [0.1, 0.4, 0.2]])
    _, reasons = check(load_evidence(tmp_path))
    assert code in {reason.code for reason in reasons}


def test_labels_that_are_not_lists_are_unreadable(tmp_path: Path) -> None:
    write(tmp_path, [[0], []], [[0], []], [[0.9, 0.1, 0.2], [0.1, 0.1, 0.2]])
    file = tmp_path / "predictions/challenger_fp32.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "label", pa.array([0, 1])), file)
    record = load_evidence(tmp_path).record
    model: ModelEvidence = record.challenger["fp32"]
    named = PredictionsFile(file=model.predictions.file, sha256=sha256_file(file))
    changed = record.model_copy(update={"challenger": {"fp32": model.model_copy(update={"predictions": named})}})
    (tmp_path / record.file).unlink()
    changed.save(tmp_path)
    problem = load_evidence(tmp_path).problems["fp32"]
    assert problem.code is ReasonCode.PREDICTIONS_UNREADABLE
    assert "not a list" in problem.detail


@pytest.mark.parametrize(("thresholds", "words"), [(None, "no thresholds"), ((0.5, 0.5), "2 thresholds for 3 labels")])
def test_a_record_without_its_thresholds_contradicts_itself(thresholds: Any, words: str) -> None:
    truth = drawn(100)
    evidence = set_evidence(truth, {"fp32": said(truth, truth)})
    model = evidence.record.challenger["fp32"].model_copy(update={"thresholds": thresholds})
    record = evidence.record.model_copy(update={"challenger": {"fp32": model}})
    reasons = check(replace(evidence, record=record))[1]
    assert any(reason.code is ReasonCode.EVIDENCE_INCONSISTENT and words in reason.detail for reason in reasons)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, 0.0, 1.0, -0.1])
def test_a_threshold_is_between_0_and_1(threshold: float) -> None:
    """In the record; and NaN agrees with no answer, should it come that far."""
    truth = drawn(100)
    evidence = set_evidence(truth, {"fp32": said(truth, truth)})
    model = evidence.record.challenger["fp32"]
    written = model.model_dump() | {"thresholds": (0.5, threshold, 0.5)}
    with pytest.raises(ValidationError, match="thresholds"):
        ModelEvidence.model_validate(written)
    if math.isnan(threshold):
        model = model.model_copy(update={"thresholds": written["thresholds"]})
        record = evidence.record.model_copy(update={"challenger": {"fp32": model}})
        reasons = check(replace(evidence, record=record))[1]
        assert {reason.code for reason in reasons} == {ReasonCode.PREDICTIONS_INCONSISTENT}


def test_rows_that_all_have_the_same_labels_tell_nothing() -> None:
    truth = np.zeros((100, 3), dtype=np.bool_)
    receipt = decide(policy(), set_evidence(truth, {"fp32": said(truth, truth)}))
    assert ReasonCode.SINGLE_LABEL in codes(receipt)
    assert "none of the labels" in receipt.reasons[0].detail


# --- the decision ----------------------------------------------------------------------------------------


def decided(errors: Mapping[str, float], n: int = 800, gate: Gate | None = None, **more: Any) -> Receipt:
    truth = drawn(n)
    models = {name: said(truth, with_errors(truth, share, at)) for at, (name, share) in enumerate(errors.items(), 1)}
    return decide(gate or policy(), set_evidence(truth, models, **more))


def test_it_is_compared_with_the_champion() -> None:
    better = decided({"fp32": 0.05, "champion": 0.1, "int8": 0.05, "baseline": 0.2})
    assert better.promoted, better.reasons
    assert better.comparison is not None
    assert (better.comparison.metric, better.comparison.n) == ("f1_micro", 800)
    assert better.baseline_comparison is not None
    assert set(better.metrics["fp32"]) == {"f1_micro", "f1_macro", "subset_accuracy", "hamming_loss", "ece"}
    assert sum(better.label_counts.values()) == int(drawn(800).sum())
    assert any("f1_micro" in line for line in explain(better))
    worse = decided({"fp32": 0.2, "champion": 0.1})
    assert codes(worse) == {ReasonCode.WORSE_THAN_CHAMPION}


def test_the_same_rows_in_any_order_give_the_same_receipt() -> None:
    truth = drawn(200)
    evidence = set_evidence(truth, {"fp32": said(truth, truth), "champion": said(truth, with_errors(truth, 0.1, 3))})
    order = np.random.default_rng(0).permutation(200)
    mixed = {name: table.taken(lambda column: column[order]) for name, table in evidence.tables.items()}
    assert receipt_bytes(decide(policy(), replace(evidence, tables=mixed))) == receipt_bytes(decide(policy(), evidence))


@pytest.mark.parametrize("metric", names_of("multi_label"))
def test_any_of_its_metrics_can_judge(metric: str) -> None:
    gate = policy(against_champion={"metric": metric, "margin": 0.5}, floors={metric: KNOWN_METRICS[metric].lowest})
    truth = drawn(400)
    models = {"fp32": said(truth, with_errors(truth, 0.05, 1)), "champion": said(truth, with_errors(truth, 0.08, 2))}
    evidence = set_evidence(truth, models)
    values = {name: METRICS[metric].value(zeros(truth), one) for name, one in models.items()}
    changed = {
        name: model.model_copy(update={"metrics": {**model.metrics, metric: values[name]}})
        for name, model in evidence.record.models.items()
    }
    record = evidence.record.model_copy(
        update={"challenger": {"fp32": changed["fp32"]}, "champion": changed["champion"]}
    )
    receipt = decide(gate, replace(evidence, record=record))
    assert receipt.comparison is not None
    assert receipt.comparison.metric == metric
    assert receipt.overturn is not None
    assert receipt.overturn.exact is (metric == "subset_accuracy")


def test_a_metric_of_one_label_is_unknown_here() -> None:
    receipt = decided({"fp32": 0.05}, gate=policy(floors={"accuracy": 0.5}))
    assert ReasonCode.METRIC_UNKNOWN in codes(receipt)


def test_each_label_is_a_slice_and_so_is_none() -> None:
    truth = drawn(800)
    challenger = truth.copy()
    challenger[:, 2] = False  # never gives the rarest
    models = {"fp32": said(truth, challenger), "champion": said(truth, truth)}
    gate = policy(against_champion={"metric": "f1_micro", "margin": 0.5}, slices={"by": ["label"], "min_rows": 20})
    receipt = decide(gate, set_evidence(truth, models))
    found = {one.value: one for one in receipt.slices}
    assert list(found) == [*NAMES, "(none)"]
    assert {one.metric for one in receipt.slices} == {"subset_accuracy"}
    assert [found[name].rows for name in NAMES] == truth.sum(axis=0).tolist()
    assert found["(none)"].rows == int((~truth.any(axis=1)).sum())
    assert found["crowd"].challenger_score == 0.0
    assert found["(none)"].status == "ok"
    assert ReasonCode.SLICE_WORSE in codes(receipt)


def test_a_label_may_be_called_as_rows_without_any_are() -> None:
    names = ("(none)", "mud", "((none))")
    rows, _ = check(set_evidence(drawn(300), {"fp32": said(drawn(300), drawn(300))}))
    assert rows is not None
    groupings, reasons = groups(Slices(by=("label",)), rows, names)
    assert reasons == []
    found = [(grouping.values[0], int(grouping.counts()[0])) for grouping in groupings]
    assert found == [
        *zip(names, drawn(300).sum(axis=0).tolist(), strict=True),
        ("(((none)))", int((~drawn(300).any(axis=1)).sum())),
    ]


def test_flips_are_of_whole_sets_and_the_surest_mistake_comes_first() -> None:
    truth = drawn(300)
    applies, scores = truth.copy(), np.where(truth, 0.9, 0.1)
    for row, (label, sure) in {10: (0, 0.99), 20: (1, 0.8)}.items():
        applies[row, label] ^= True
        scores[row, label] = sure if applies[row, label] else 1 - sure
    challenger = SetAnswers(truth, applies, scores, np.zeros(300, dtype=np.bool_))
    receipt = decide(policy(), set_evidence(truth, {"fp32": challenger, "champion": said(truth, truth)}))
    assert receipt.flips is not None
    assert (receipt.flips.harmful, receipt.flips.helpful) == (2, 0)
    assert receipt.flips.rows == (f"{10:016x}", f"{20:016x}")


def test_a_champions_label_that_is_gone_makes_its_row_wrong() -> None:
    truth = drawn(400)
    foreign = np.arange(400) < 40
    models = {"fp32": said(truth, truth), "champion": said(truth, truth, foreign)}
    evidence = set_evidence(truth, models)
    champion = evidence.record.champion
    assert champion is not None
    known = champion.model_copy(update={"labels": (*NAMES, "snow"), "thresholds": (*THRESHOLDS, 0.5)})
    receipt = decide(policy(), replace(evidence, record=evidence.record.model_copy(update={"champion": known})))
    assert receipt.metrics["champion"]["subset_accuracy"].value == 0.9
    # One decision more on each of these rows, and a wrong one; of a macro average it has no place.
    given_ = truth.sum() + 40
    expected = {"f1_micro": 2 * truth.sum() / (truth.sum() + given_), "f1_macro": 1.0, "hamming_loss": 40 / 1240}
    for name, value in expected.items():
        assert receipt.metrics["champion"][name].value == pytest.approx(value)
    precision = METRICS["precision_micro"].value(zeros(truth), models["champion"])
    assert precision == pytest.approx(truth.sum() / given_)
    assert METRICS["recall_micro"].value(zeros(truth), models["champion"]) == 1.0
    assert any("snow" in note for note in receipt.notes)
    assert not {ReasonCode.LABELS_INVALID, ReasonCode.PREDICTIONS_INCONSISTENT} & codes(receipt)


def test_a_label_that_a_champion_lacks_it_never_gives() -> None:
    truth = drawn(400)
    applies = truth & np.array([True, True, False])
    champion = SetAnswers(truth, applies, np.where(applies, 0.9, 0.0), np.zeros(400, dtype=np.bool_))
    evidence = set_evidence(truth, {"fp32": said(truth, truth), "champion": champion})
    known = evidence.record.champion
    assert known is not None
    fewer = known.model_copy(update={"labels": NAMES[:2], "thresholds": THRESHOLDS[:2]})
    record = evidence.record.model_copy(update={"champion": fewer})
    assert check(replace(evidence, record=record))[1] == []
    given_ = replace(champion, applies=truth)
    tables = {
        **evidence.tables,
        "champion": SetTable.of(evidence.tables["fp32"].row_ids, given_, sha256=f"{'champion':0>64}"),
    }
    reasons = check(replace(evidence, record=record, tables=tables))[1]
    assert {reason.code for reason in reasons} == {ReasonCode.PREDICTIONS_INCONSISTENT}


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_fewer_wrong_sets_than_counted_do_not_overturn(seed: int) -> None:
    """As for one label: of the rows on which the models differ, so many given the other's set turn the comparison."""
    truth = drawn(120, seed)
    one, two = said(truth, with_errors(truth, 0.03, seed + 1)), said(truth, with_errors(truth, 0.15, seed + 2))
    rows, _ = check(set_evidence(truth, {"fp32": one, "champion": two}))
    assert rows is not None
    interval = compare("subset_accuracy", rows.labels, one, two, 0.05)
    found = overturn_of(rows, interval, -0.02, level=0.05)
    assert found is not None
    assert found.exact
    if found.labels is None or interval.low <= -0.02:
        return
    better = np.flatnonzero(one.right(rows.labels) & ~two.right(rows.labels))

    def shown(changed: int) -> bool:
        _, ours = one.corrected(rows.labels, better[:changed], two)
        _, theirs = two.corrected(rows.labels, better[:changed], two)
        return compare("subset_accuracy", rows.labels, ours, theirs, 0.05).low > -0.02

    assert shown(found.labels - 1)
    assert not shown(found.labels)


def test_a_replay_holds_another_champion_by_its_own_thresholds() -> None:
    truth = drawn(400)
    models = {"fp32": said(truth, with_errors(truth, 0.05, 1)), "champion": said(truth, with_errors(truth, 0.1, 2))}
    evidence = set_evidence(truth, models)
    asked = evidence.record.challenger["fp32"]
    other = Stand("another", Found(evidence.tables["champion"], asked, NAMES))
    receipt = decide(policy(), with_models(evidence, other, None))
    assert receipt.promoted, receipt.reasons
    assert receipt.champion_version == "another"


def test_one_of_several_base_models_is_chosen() -> None:
    truth = drawn(400)
    row_ids = np.array([f"{row:016x}" for row in range(400)])
    contenders = [
        Contender(
            base=name,
            export=name,
            table=SetTable.of(row_ids, said(truth, with_errors(truth, share, 3))),
            parameters=1,
            size_mb=size,
            latency=set_evidence(truth, {"fp32": said(truth, truth)}).record.challenger["fp32"].latency_ms,  # type: ignore[arg-type]
            rows_per_second=10.0,
        )
        for name, share, size in (("good", 0.02, 90.0), ("bad", 0.3, 10.0))
    ]
    found = select(contenders, metric="f1_macro", metrics=["subset_accuracy"], alpha=0.05)
    assert found.chosen == "good"
    assert found.agreement["good"]["bad"] < 1.0


def test_every_label_by_itself() -> None:
    truth = drawn(200)
    found = scores_of_each(said(truth, with_errors(truth, 0.1, 2)), NAMES, THRESHOLDS)
    given_ = with_errors(truth, 0.1, 2)
    precision, recall, f1, rows = sklearn.metrics.precision_recall_fscore_support(truth, given_, zero_division=0.0)
    assert [one.label for one in found] == list(NAMES)
    np.testing.assert_allclose([one.precision for one in found], precision)
    np.testing.assert_allclose([one.recall for one in found], recall)
    np.testing.assert_allclose([one.f1 for one in found], f1)
    assert [one.rows for one in found] == rows.tolist()
    assert [one.threshold for one in found] == list(THRESHOLDS)


# --- drift -----------------------------------------------------------------------------------------------


def profile(like: TrainingProfile, truth: Rights) -> TrainingProfile:
    """Of the same texts as another, with these labels."""
    counts = dict(zip(NAMES, truth.sum(axis=0).tolist(), strict=True))
    sizes = tuple(np.bincount(truth.sum(axis=1), minlength=4).tolist())
    return like.model_copy(update={"label_counts": counts, "set_sizes": sizes})


def test_drift_is_of_each_label_and_of_how_many_a_row_has(profiled: TrainingProfile) -> None:
    n = profiled.rows
    before, same = profile(profiled, drawn(n, 1)), profile(profiled, drawn(n, 2))
    moved = profile(profiled, drawn(n, 3, (0.5, 0.3, 0.4)))
    for after, drifted in ((same, False), (moved, True)):
        shares, sizes = (one for one in measure_drift(before, after) if one.kind == "labels")
        assert (shares.measure, sizes.measure) == ("label shares", "labels a row")
        for one in (shares, sizes):
            assert one.p_value is not None
            assert (one.p_value < 0.001) is drifted
        assert shares.distance is not None
        assert shares.distance == pytest.approx(0.3 if drifted else 0.0, abs=0.08)
    assert "crowd" in measure_drift(before, moved)[0].detail


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> TrainingProfile:
    from retrainer.work.profile import profile_of

    n, file = 600, tmp_path_factory.mktemp("profile") / "train.parquet"
    table = {"row_id": [f"{row:016x}" for row in range(n)], "text": [f"row {row} of many" for row in range(n)]}
    pq.write_table(pa.table({**table, "label": pa.array([[0]] * n, pa.list_(pa.int64()))}), file)
    return profile_of(file, NAMES, None)
