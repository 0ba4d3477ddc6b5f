"""The decision on models that write text: by scores of each row, with the same functions as on labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.text_scores import DRAWS, Draw, common, distances, true_mean
from retrainer.artifacts.measures import Latency
from retrainer.errors import IntegrityError
from retrainer.gate.answers import Answers, TextAnswers
from retrainer.gate.decide import decide
from retrainer.gate.mean_interval import Mean
from retrainer.gate.metrics import compare, score
from retrainer.gate.paired import normal_quantile, tango_interval
from retrainer.gate.receipt import ReasonCode, Receipt
from retrainer.gate.selection import Contender, select
from retrainer.gate.verify import receipt_bytes
from retrainer.report.decision import explain, parts
from retrainer.spec.gate import Gate
from tests.gate.texts import Floats, text_evidence, text_table


def policy(**more: Any) -> Gate:
    return Gate.model_validate({"against_champion": {"metric": "chrf", "margin": 0.02}, **more})


def draw(n: int = 400, seed: int = 0, mean: float = 0.6) -> Floats:
    """Scores as texts have them: some rows are right, most are near."""
    random = np.random.default_rng(seed)
    return np.where(random.random(n) < 0.3, 1.0, random.beta(6 * mean, 6 * (1 - mean), n))


def codes(receipt: Receipt) -> set[ReasonCode]:
    return {reason.code for reason in receipt.reasons}


# --- the interval ----------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200), st.sampled_from([0.05, 0.01, 1e-4]))
@settings(max_examples=40)
def test_of_right_and_wrong_rows_it_is_tangos_interval(better: int, worse: int, rest: int, alpha: float) -> None:
    n = better + worse + rest
    if n == 0:
        return
    found = Mean(np.repeat([1.0, -1.0, 0.0], [better, worse, rest]), -1.0, 1.0).bounds(alpha)
    assert found == pytest.approx([float(bound) for bound in tango_interval(better, worse, n, alpha)], abs=1e-9)


@pytest.mark.parametrize(("right", "n"), [(0, 20), (3, 20), (50, 100), (99, 100), (100, 100)])
def test_of_scores_that_are_0_or_1_it_is_wilsons(right: int, n: int) -> None:
    wilson = stats.binomtest(right, n).proportion_ci(0.9, method="wilson")
    found = Mean(np.repeat([1.0, 0.0], [right, n - right]), 0.0, 1.0).bounds(0.05)
    assert found == pytest.approx([wilson.low, wilson.high], abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.sampled_from([0.05, 1e-3]))
@settings(max_examples=40)
def test_bounds_enclose_the_mean_and_are_where_the_test_says(values: list[float], alpha: float) -> None:
    mean = Mean(np.array(values), -1.0, 1.0)
    low, high = mean.bounds(alpha)
    assert -1 <= low <= mean.estimate <= high <= 1
    if low > -1:
        assert mean.distance(low) <= normal_quantile(alpha) + 1e-6
        assert mean.distance(low - 1e-4 * (low + 1)) > normal_quantile(alpha) - 1e-6


@pytest.mark.parametrize("drawn", DRAWS, ids=lambda drawn: drawn.__name__)
def test_a_challenger_at_the_margin_is_promoted_as_often_as_alpha_says(drawn: Draw) -> None:
    """Non-inferiority of chrF with a true loss of exactly the margin. At 5 % a rate of 5.6 % is what Tango's interval
    of accuracy may have; the rest is what so few trials may be off by chance.
    """
    trials = 4_000
    found, naive = distances(drawn, true_mean(drawn), 400, trials, seed=7)
    for alpha in (0.05, 0.01):
        rate = float((found > normal_quantile(alpha)).mean())
        assert rate < alpha * 1.12 + 3 * np.sqrt(alpha * (1 - alpha) / trials)
        assert rate > alpha / 4  # and it is not for never promoting
    if drawn is not common:
        assert (naive > normal_quantile(0.05)).mean() > 0.07  # which is why it is not used


# --- the metrics -----------------------------------------------------------------------------------------


def test_exact_match_is_judged_as_accuracy_is() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 300)
    first, second = (np.where(random.random(300) < 0.2, 1 - labels, labels) for _ in range(2))
    said = [Answers(predictions, np.full((300, 2), 0.5)) for predictions in (first, second)]
    texts = [
        TextAnswers(one.predictions.astype(np.object_), {"exact_match": one.right(labels).astype(np.float64)})
        for one in said
    ]
    accuracy = compare("accuracy", labels, said[0], said[1], 0.05)
    exact = compare("exact_match", labels, texts[0], texts[1], 0.05)
    assert exact == accuracy.model_copy(update={"metric": "exact_match"})
    assert exact.method == "Tango score interval"
    assert score("exact_match", labels, texts[0], 0.05) == score("accuracy", labels, said[0], 0.05)


def test_a_metric_that_was_not_measured_has_no_value() -> None:
    answers = TextAnswers(np.array(["a", "b"], dtype=np.object_), {"exact_match": np.array([1.0, 0.0])})
    labels = np.zeros(2, dtype=np.int64)
    assert score("chrf", labels, answers, 0.05).value is None
    with pytest.raises(ValueError, match="chrf has no value"):
        compare("chrf", labels, answers, answers, 0.05)


# --- the decision ----------------------------------------------------------------------------------------


def test_a_challenger_that_writes_as_well_is_promoted() -> None:
    champion = draw()
    better = np.where(champion < 1.0, np.minimum(champion + 0.05, 0.99), 1.0)
    evidence = text_evidence({"fp32": better, "int8": better, "champion": champion})
    receipt = decide(policy(floors={"chrf": 0.5, "exact_match": 0.2}, confident=True), evidence)
    assert receipt.promoted, receipt.reasons
    assert receipt.publishable == ("fp32", "int8")
    assert receipt.comparison is not None
    assert (receipt.comparison.metric, receipt.comparison.method) == (
        "chrf",
        "paired score interval, empirical likelihood",
    )
    assert (receipt.labels, receipt.label_counts, receipt.temperatures, receipt.overturn) == ((), {}, {}, None)
    assert "no baseline: TF-IDF with logistic regression does not write text" in receipt.notes
    assert Receipt.from_json(receipt_bytes(receipt), where="here") == receipt


def test_the_order_of_the_rows_does_not_matter() -> None:
    evidence = text_evidence({"fp32": draw(seed=1), "champion": draw(seed=2)}, characters=np.arange(400))
    order = np.random.default_rng(0).permutation(400)
    shuffled = {name: table.of_rows(order, _taken(table, order)) for name, table in evidence.tables.items()}
    slices = {"slices": {"by": ["length"], "min_rows": 20}}
    one, other = (decide(policy(**slices), each) for each in (evidence, replace(evidence, tables=shuffled)))
    assert receipt_bytes(one) == receipt_bytes(other)


def _taken(table: Any, order: Any) -> Any:
    columns = ("row_ids", "labels", "targets", "characters")
    return replace(table, **{name: getattr(table, name)[order] for name in columns})


def test_one_that_writes_worse_is_refused() -> None:
    champion = draw()
    worse = np.maximum(champion - 0.1, 0.0)
    receipt = decide(policy(floors={"chrf": 0.9}), text_evidence({"fp32": worse, "champion": champion}))
    assert codes(receipt) == {ReasonCode.WORSE_THAN_CHAMPION, ReasonCode.FLOOR_MISSED}


def test_superiority_and_too_few_rows() -> None:
    champion = draw(60)
    same = text_evidence({"fp32": champion, "champion": champion})
    superior = decide(policy(against_champion={"metric": "chrf", "mode": "superiority"}), same)
    assert codes(superior) == {ReasonCode.NOT_BETTER}
    apart = text_evidence({"fp32": draw(60, 1), "champion": champion})
    receipt = decide(policy(against_champion={"metric": "chrf", "margin": 0.005}), apart)
    assert codes(receipt) <= {ReasonCode.INSUFFICIENT_ROWS, ReasonCode.WORSE_THAN_CHAMPION}
    assert not receipt.promoted


@pytest.mark.parametrize("metric", ["chrf", "exact_match"])
def test_a_slice_by_column_that_got_worse_refuses_by_the_metric_that_is_compared(metric: str) -> None:
    champion = draw(800)
    source = np.array(["mail", "chat"])[np.arange(800) % 2]
    challenger = np.where(source == "mail", champion * 0.85, 1.0)
    gate = policy(against_champion={"metric": metric, "margin": 0.02}, slices={"by": ["source", "length"]})
    evidence = text_evidence(
        {"fp32": challenger, "champion": champion}, slices={"source": source}, characters=np.arange(800)
    )
    receipt = decide(gate, evidence)
    assert codes(receipt) == {ReasonCode.SLICE_WORSE}
    found = {result.value: result for result in receipt.slices if result.by == "source"}
    assert (found["mail"].status, found["chat"].status) == ("worse", "ok")
    mail = source == "mail"
    expected = champion[mail] if metric == "chrf" else champion[mail] == 1.0
    assert found["mail"].champion_score == pytest.approx(expected.mean())
    assert found["mail"].metric == metric
    assert len([result for result in receipt.slices if result.by == "length"]) == 4
    written = receipt_bytes(receipt).decode()
    assert '"challenger_score"' in written
    assert '"challenger_accuracy"' not in written
    shown = parts(receipt)["slices"]
    assert shown.tables[0].title == f"{metric} by slice"
    assert f": {metric} 0." in receipt.reasons[0].detail


def test_flips_are_of_exact_matches_and_say_so_where_these_are_rare() -> None:
    champion = draw(seed=4)
    challenger = champion.copy()
    lost = np.flatnonzero(champion == 1.0)[:9]
    challenger[lost] = np.linspace(0.9, 0.1, 9)
    receipt = decide(policy(max_harmful_flips=0.01), text_evidence({"fp32": challenger, "champion": champion}))
    assert ReasonCode.HARMFUL_FLIPS in codes(receipt)
    assert receipt.flips is not None
    assert receipt.flips.harmful == 9
    # The furthest from its target first.
    assert receipt.flips.rows[0] == f"{lost[-1]:016x}"
    assert "Right is what matches its target exactly." in parts(receipt)["flips"].sentences
    rarely = np.minimum(champion, 0.99)
    rare_ones = decide(policy(max_harmful_flips=0.01), text_evidence({"fp32": rarely, "champion": rarely}))
    assert any(note.startswith("flips say little") for note in rare_ones.notes)


def test_a_first_release_is_judged_by_its_floors() -> None:
    receipt = decide(policy(floors={"chrf": 0.5}), text_evidence({"fp32": draw()}))
    assert receipt.promoted
    assert any("no champion yet" in note for note in receipt.notes)
    said = "\n".join(explain(receipt))
    assert "does not write text" in said
    assert parts(receipt)["calibration"].said


def test_a_metric_of_labels_is_refused_not_computed() -> None:
    evidence = text_evidence({"fp32": draw(), "champion": draw()})
    for gate in ({"floors": {"f1": 0.5}}, {"against_champion": {"metric": "accuracy"}}):
        receipt = decide(policy(**gate), evidence)
        assert codes(receipt) == {ReasonCode.METRIC_UNKNOWN}
        assert receipt.reasons[0].detail.endswith("is not one of chrf, exact_match, rouge_l")
    unmeasured = decide(policy(floors={"rouge_l": 0.5}), evidence)
    assert codes(unmeasured) == {ReasonCode.METRIC_MISSING}


def _changed(column: str, value: Any) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        values = getattr(table, column).copy()
        values[0] = value
        return replace(table, **{column: values})

    return change


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_changed("scores", np.array([np.nan, 0.0])), ReasonCode.SCORES_INVALID),
        (_changed("scores", np.array([1.2, 0.0])), ReasonCode.SCORES_INVALID),
        (_changed("predictions", "something else entirely"), ReasonCode.PREDICTIONS_INCONSISTENT),
        (_changed("targets", ("another truth",)), ReasonCode.PREDICTIONS_INCONSISTENT),
        (_changed("row_ids", f"{1:016x}"), ReasonCode.ROWS_DUPLICATED),
        (functools.partial(replace, metrics=("chrf", "rouge_l")), ReasonCode.PREDICTIONS_UNREADABLE),
    ],
)
def test_what_contradicts_itself_is_refused(change: Callable[[Any], Any], code: ReasonCode) -> None:
    scores = np.r_[1.0, draw(399)]
    evidence = text_evidence({"fp32": scores, "champion": scores})
    tables = {**evidence.tables, "fp32": change(evidence.tables["fp32"])}
    assert code in codes(decide(policy(), replace(evidence, tables=tables)))


def test_slices_by_scores_that_nobody_wrote_down_refuse() -> None:
    scores = draw()
    evidence = text_evidence({"fp32": scores, "champion": scores}, characters=np.arange(400))
    tables = {**evidence.tables, "champion": replace(evidence.tables["champion"], metrics=("rouge_l", "exact_match"))}  # type: ignore[call-arg]
    receipt = decide(policy(slices={"by": ["length"]}), replace(evidence, tables=tables))
    assert any("which slices go by" in reason.detail for reason in receipt.reasons)
    assert receipt.slices == ()


def test_models_must_be_held_against_the_same_targets() -> None:
    scores = np.r_[0.5, draw(399)]
    evidence = text_evidence({"fp32": scores, "champion": scores})
    tables = {**evidence.tables, "champion": _changed("targets", ("another",))(evidence.tables["champion"])}
    assert codes(decide(policy(), replace(evidence, tables=tables))) >= {ReasonCode.ROWS_MISALIGNED}


def test_labels_in_the_record_of_texts_contradict_its_task() -> None:
    receipt = decide(policy(), text_evidence({"fp32": draw()}, record={"labels": ("a", "b")}))
    assert ReasonCode.EVIDENCE_INCONSISTENT in codes(receipt)


# --- one of several base models --------------------------------------------------------------------------


def test_of_several_base_models_the_best_writer_is_chosen() -> None:
    scores = {"good": draw(seed=1, mean=0.8), "bad": draw(seed=2, mean=0.3), "as good": draw(seed=1, mean=0.8)}
    contenders = [
        Contender(
            base=base,
            export=base,
            table=text_table(values),
            parameters=None,
            size_mb=90.0 if base == "good" else 40.0,
            latency=Latency(p50=10.0, p95=20.0),
            rows_per_second=10.0,
        )
        for base, values in scores.items()
    ]
    found = select(contenders, metric="chrf", metrics=("exact_match",), alpha=0.05)
    assert found.chosen == "as good"  # and smaller
    assert [one.distinguishable for one in found.candidates if one.base == "bad"] == [True]
    other = replace(contenders[1], table=_changed("targets", ("another",))(contenders[1].table))
    with pytest.raises(IntegrityError, match="did not answer the same rows"):
        select([contenders[0], other], metric="chrf", alpha=0.05)
