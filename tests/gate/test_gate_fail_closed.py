"""Whatever is wrong with the evidence or the policy: it is never promoted, and each fault has its own reason."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from retrainer.artifacts.evaluation import DriftMeasure, ParityEvidence
from retrainer.artifacts.measures import Latency
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence
from retrainer.gate.receipt import Reason, ReasonCode
from retrainer.spec.budgets import Budgets
from retrainer.spec.gate import AgainstChampion, Drift, Gate, Slices

POLICY = Gate(
    floors={"accuracy": 0.5, "f1": 0.5},
    against_champion=AgainstChampion(margin=0.02),
    slices=Slices(by=("label", "length", "region"), patterns=("refund",), min_rows=20),
    budgets=Budgets(
        p95_latency_ms=50,
        size_mb=100,
        peak_memory_mb=500,
        min_rows_per_second=10,
        max_latency_ratio=2.0,
        min_throughput_ratio=0.5,
    ),
    baseline="floor",
    drift=Drift(block={"labels": 0.5, "vocabulary": 0.5}),
)
NAN, INF = float("nan"), float("inf")


def moved(kind: Any, distance: float | None, p_value: float | None = 1e-9) -> DriftMeasure:
    return DriftMeasure(kind=kind, measure=kind, distance=distance, method="made up", p_value=p_value)


def sound(make: Any) -> Evidence:
    n = 1200
    regions = np.array([("north", "south")[index % 2] for index in range(n)])
    evidence: Evidence = make.pair(
        n,
        better=30,
        worse=10,
        int8=True,
        characters=np.arange(n) % 97 + 5,
        slices={"region": regions},
        patterns={"refund": np.arange(n) % 5 == 0},
        baseline_wrong=200,
        drift=(moved("labels", 0.01), moved("vocabulary", 0.02)),
        measured=("accuracy", "f1", "mcc"),
    )
    return evidence


def table(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Evidence], Evidence]:
    def apply(evidence: Evidence) -> Evidence:
        before = evidence.tables[name]
        fields = {field.name: getattr(before, field.name) for field in dataclasses.fields(before)}
        after = dataclasses.replace(before, **change(fields))
        return dataclasses.replace(evidence, tables={**evidence.tables, name: after})

    return apply


def record(**changes: Any) -> Callable[[Evidence], Evidence]:
    return lambda evidence: dataclasses.replace(evidence, record=evidence.record.model_copy(update=changes))


def model(name: str, **changes: Any) -> Callable[[Evidence], Evidence]:
    def apply(evidence: Evidence) -> Evidence:
        whole = evidence.record
        if name == "champion":
            assert whole.champion is not None
            return record(champion=whole.champion.model_copy(update=changes))(evidence)
        changed = whole.challenger[name].model_copy(update=changes)
        return record(challenger={**whole.challenger, name: changed})(evidence)

    return apply


def metric(name: str, which: str, value: Any) -> Callable[[Evidence], Evidence]:
    def apply(evidence: Evidence) -> Evidence:
        source = evidence.record.champion if name == "champion" else evidence.record.challenger[name]
        assert source is not None
        metrics = {**source.metrics, which: value}
        if value is ...:
            del metrics[which]
        return model(name, metrics=metrics)(evidence)

    return apply


def without(name: str) -> Callable[[Evidence], Evidence]:
    def apply(evidence: Evidence) -> Evidence:
        kept = {key: value for key, value in evidence.tables.items() if key != name}
        return dataclasses.replace(evidence, tables=kept)

    return apply


def put(column: str, value: Any, rows: Any = 7) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(fields: dict[str, Any]) -> dict[str, Any]:
        changed = fields[column].copy()
        changed[rows] = value
        return {column: changed}

    return change


def cut(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: fields[name][:-1] for name in ("row_ids", "labels", "predictions", "scores", "characters")},
        "slices": {name: column[:-1] for name, column in fields["slices"].items()},
        "patterns": fields["patterns"][:-1],
    }


def emptied(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: fields[name][:0] for name in ("row_ids", "labels", "predictions", "scores", "characters")},
        "slices": {name: column[:0] for name, column in fields["slices"].items()},
        "patterns": fields["patterns"][:0],
    }


def everywhere(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Evidence], Evidence]:
    def apply(evidence: Evidence) -> Evidence:
        for name in evidence.tables:
            evidence = table(name, change)(evidence)
        return evidence

    return apply


def one_label(fields: dict[str, Any]) -> dict[str, Any]:
    return {"labels": np.zeros_like(fields["labels"])}


def parity(name: str, value: ParityEvidence | None) -> Callable[[Evidence], Evidence]:
    def apply(evidence: Evidence) -> Evidence:
        kept = {key: item for key, item in evidence.record.parity.items() if key != name}
        return record(parity={**kept, **({name: value} if value else {})})(evidence)

    return apply


R = ReasonCode
FAULTS: dict[str, tuple[Callable[[Evidence], Evidence], ReasonCode]] = {
    "score NaN": (table("fp32", put("scores", NAN)), R.SCORES_INVALID),
    "score infinite": (table("fp32", put("scores", INF)), R.SCORES_INVALID),
    "score of int8 NaN": (table("int8", put("scores", NAN)), R.SCORES_INVALID),
    "score of champion NaN": (table("champion", put("scores", NAN)), R.SCORES_INVALID),
    "score negative": (table("fp32", put("scores", -0.5)), R.SCORES_INVALID),
    "logits in place of probabilities": (table("fp32", lambda f: {"scores": f["scores"] * 7}), R.SCORES_INVALID),
    "scores of too few labels": (table("fp32", lambda f: {"scores": f["scores"][:, :2]}), R.SCORES_INVALID),
    "prediction that does not score highest": (
        table("fp32", lambda f: {"predictions": (f["predictions"] + 1) % 3}),
        R.PREDICTIONS_INCONSISTENT,
    ),
    "prediction beyond the labels": (table("fp32", put("predictions", 3)), R.LABELS_INVALID),
    "foreign prediction of the challenger": (table("fp32", put("predictions", -1)), R.LABELS_INVALID),
    "true label beyond the labels": (everywhere(put("labels", 9)), R.LABELS_INVALID),
    "no rows": (everywhere(emptied), R.NO_ROWS),
    "no rows of the champion": (table("champion", emptied), R.NO_ROWS),
    "one row less in the champion": (table("champion", cut), R.ROWS_MISALIGNED),
    "one row less everywhere": (everywhere(cut), R.EVIDENCE_INCONSISTENT),
    "another row id": (table("champion", put("row_ids", "f" * 16)), R.ROWS_MISALIGNED),
    "another true label": (
        table("champion", lambda f: put("labels", (f["labels"][7] + 1) % 3)(f)),
        R.ROWS_MISALIGNED,
    ),
    "a column that is shorter": (table("fp32", lambda f: {"labels": f["labels"][:-1]}), R.ROWS_MISALIGNED),
    "a row twice": (everywhere(lambda f: put("row_ids", f["row_ids"][8])(f)), R.ROWS_DUPLICATED),
    "a single label": (everywhere(one_label), R.SINGLE_LABEL),
    "no predictions": (without("fp32"), R.PREDICTIONS_MISSING),
    "no predictions of int8": (without("int8"), R.PREDICTIONS_MISSING),
    "no predictions of the champion": (without("champion"), R.PREDICTIONS_MISSING),
    "changed predictions": (
        lambda e: dataclasses.replace(
            without("champion")(e),
            problems={"champion": Reason(code=R.PREDICTIONS_CHANGED, detail="champion: changed")},
        ),
        R.PREDICTIONS_CHANGED,
    ),
    "no fp32": (
        lambda e: record(challenger={"int8": e.record.challenger["int8"]})(e),
        R.EVIDENCE_INCONSISTENT,
    ),
    "metric missing": (metric("fp32", "f1", ...), R.METRIC_MISSING),
    "metric of the champion missing": (metric("champion", "accuracy", ...), R.METRIC_MISSING),
    "metric None": (metric("fp32", "accuracy", None), R.METRIC_UNDEFINED),
    "metric NaN": (metric("fp32", "accuracy", NAN), R.METRIC_UNDEFINED),
    "metric infinite": (metric("champion", "accuracy", INF), R.METRIC_UNDEFINED),
    "metric made up": (metric("fp32", "accuracy", 0.999), R.METRIC_MISMATCH),
    "metric that nobody asked for made up": (metric("champion", "mcc", 0.0), R.METRIC_MISMATCH),
    "champion unreadable": (
        record(champion_state="unreadable", champion=None, champion_error="its graph is damaged"),
        R.CHAMPION_UNREADABLE,
    ),
    "champion not measured": (record(champion=None), R.EVIDENCE_INCONSISTENT),
    "champion measured that is not there": (record(champion_state="none"), R.EVIDENCE_INCONSISTENT),
    "labels of one name": (record(labels=("a", "a", "b")), R.EVIDENCE_INCONSISTENT),
    "negative exclusion": (record(excluded_rows=-1), R.EVIDENCE_INCONSISTENT),
    "withdrawn": (record(challenger_withdrawn=True), R.CHALLENGER_WITHDRAWN),
    "parity missing": (parity("fp32", None), R.PARITY_MISSING),
    "parity NaN": (parity("fp32", ParityEvidence(max_difference=NAN, tolerance=1e-4, rows=9)), R.PARITY_MISSING),
    "parity None": (parity("fp32", ParityEvidence(max_difference=None, tolerance=1e-4, rows=9)), R.PARITY_MISSING),
    "parity without tolerance": (
        parity("fp32", ParityEvidence(max_difference=0.0, tolerance=None, rows=9)),
        R.PARITY_MISSING,
    ),
    "parity with infinite tolerance": (
        parity("fp32", ParityEvidence(max_difference=3.0, tolerance=INF, rows=9)),
        R.PARITY_MISSING,
    ),
    "parity on no rows": (
        parity("fp32", ParityEvidence(max_difference=0.0, tolerance=1e-4, rows=0)),
        R.PARITY_MISSING,
    ),
    "parity exceeded": (
        parity("fp32", ParityEvidence(max_difference=2e-4, tolerance=1e-4, rows=9)),
        R.PARITY_EXCEEDED,
    ),
    "latency not measured": (model("fp32", latency_ms=None), R.BUDGET_NOT_MEASURED),
    "latency NaN": (model("fp32", latency_ms=Latency(p50=NAN, p95=NAN)), R.BUDGET_NOT_MEASURED),
    "latency zero": (model("fp32", latency_ms=Latency(p50=0.0, p95=0.0)), R.BUDGET_NOT_MEASURED),
    "size None": (model("fp32", size_mb=None), R.BUDGET_NOT_MEASURED),
    "size infinite": (model("fp32", size_mb=INF), R.BUDGET_NOT_MEASURED),
    "latency of the champion not measured": (model("champion", latency_ms=None), R.BUDGET_NOT_MEASURED),
    "memory not measured": (model("fp32", peak_memory_mb=None), R.BUDGET_NOT_MEASURED),
    "throughput NaN": (model("fp32", rows_per_second=NAN), R.BUDGET_NOT_MEASURED),
    "throughput of the champion zero": (model("champion", rows_per_second=0.0), R.BUDGET_NOT_MEASURED),
    "costs measured with other threads": (record(threads=7), R.BUDGET_NOT_MEASURED),
    "throughput too low": (model("fp32", rows_per_second=9.0), R.BUDGET_EXCEEDED),
    "memory exceeded": (model("fp32", peak_memory_mb=501.0), R.BUDGET_EXCEEDED),
    "baseline not fitted": (
        lambda e: without("baseline")(record(baseline=None, baseline_error="no words")(e)),
        R.BASELINE_MISSING,
    ),
    "no predictions of the baseline": (without("baseline"), R.PREDICTIONS_MISSING),
    "score of the baseline NaN": (table("baseline", put("scores", NAN)), R.SCORES_INVALID),
    "predictions of a baseline that was not measured": (record(baseline=None), R.EVIDENCE_INCONSISTENT),
    "baseline as good": (
        lambda e: table(
            "baseline", lambda f: {n: e.tables["fp32"].__getattribute__(n) for n in ("predictions", "scores")}
        )(record(baseline=e.record.challenger["fp32"])(e)),
        R.BASELINE_NOT_BEATEN,
    ),
    "drift not measured": (record(drift=None), R.DRIFT_NOT_MEASURED),
    "drift of a kind that can block not measured": (record(drift=(moved("labels", 0.01),)), R.DRIFT_NOT_MEASURED),
    "drift NaN": (record(drift=(moved("labels", NAN), moved("vocabulary", 0.01))), R.DRIFT_NOT_MEASURED),
    "drift None": (record(drift=(moved("labels", None), moved("vocabulary", 0.01))), R.DRIFT_NOT_MEASURED),
    "drift too large": (record(drift=(moved("labels", 0.6), moved("vocabulary", 0.01))), R.DRIFT_BLOCKED),
    "drift too large without a p value": (
        record(drift=(moved("labels", 0.6, None), moved("vocabulary", 0.01))),
        R.DRIFT_BLOCKED,
    ),
    "pattern not searched": (record(patterns=("other",)), R.SLICE_MISSING),
    "pattern columns not kept": (everywhere(lambda f: {"patterns": None}), R.SLICE_MISSING),
    "pattern found nowhere": (everywhere(lambda f: {"patterns": np.zeros_like(f["patterns"])}), R.SLICE_EMPTY),
    "size exceeded": (model("fp32", size_mb=101.0), R.BUDGET_EXCEEDED),
    "lengths not kept": (everywhere(lambda f: {"characters": None}), R.SLICE_MISSING),
    "slice column not kept": (everywhere(lambda f: {"slices": {}}), R.SLICE_MISSING),
    "slice column empty": (
        everywhere(lambda f: {"slices": {"region": np.full(f["labels"].size, "")}}),
        R.SLICE_EMPTY,
    ),
    "slice column of ids": (everywhere(lambda f: {"slices": {"region": f["row_ids"]}}), R.SLICE_UNUSABLE),
}


def test_the_sound_evidence_is_promoted(make):
    receipt = decide(POLICY, sound(make))
    assert receipt.reasons == ()
    assert receipt.promoted


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_refused_for_its_own_reason(make, fault):
    damage, code = FAULTS[fault]
    receipt = decide(POLICY, damage(sound(make)))
    assert receipt.verdict == "refuse"
    assert code in {reason.code for reason in receipt.reasons}
    assert receipt.publishable == ()
    receipt.to_json()  # whatever was NaN in the evidence, the receipt is JSON


@settings(max_examples=60, deadline=None)
@given(faults=st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=3, unique=True))
@example(faults=["another row id", "pattern columns not kept", "pattern found nowhere"])
@example(faults=["champion unreadable", "champion measured that is not there", "no predictions of the champion"])
@example(faults=["champion measured that is not there", "champion not measured"])
def test_no_combination_of_faults_is_promoted(make, faults):
    # The three together leave the evidence of a first model, in which nothing is wrong.
    assume(
        set(faults)
        != {"champion measured that is not there", "champion not measured", "no predictions of the champion"}
    )
    evidence = sound(make)
    for fault in faults:
        try:
            evidence = FAULTS[fault][0](evidence)
        except (KeyError, AssertionError, TypeError, IndexError):
            continue  # an earlier fault removed what this one would damage
    receipt = decide(POLICY, evidence)
    assert receipt.verdict == "refuse"
    assert receipt.reasons
    receipt.to_json()


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Gate(against_champion=None), R.POLICY_EMPTY),
        (Gate(against_champion=None, budgets=Budgets(size_mb=1000)), R.POLICY_EMPTY),
        (Gate(floors={"accurracy": 0.1}), R.METRIC_UNKNOWN),
        (Gate(against_champion=AgainstChampion(metric="bleu")), R.METRIC_UNKNOWN),
        (Gate(floors={"recall": 0.1}), R.METRIC_MISSING),
        (Gate(slices=Slices(by=("author",))), R.SLICE_MISSING),
    ],
)
def test_each_faulty_policy_is_refused_for_its_own_reason(make, policy, code):
    receipt = decide(policy, sound(make))
    assert receipt.verdict == "refuse"
    assert code in {reason.code for reason in receipt.reasons}


def test_a_metric_that_has_no_value_on_these_rows(make):
    labels = np.arange(300) % 3
    evidence = make(labels, {"fp32": labels}, measured=("f1_binary",))
    receipt = decide(Gate(floors={"f1_binary": 0.1}), evidence)
    assert [reason.code for reason in receipt.reasons] == [R.METRIC_UNDEFINED]


@pytest.mark.parametrize("state", ["none", "unreadable"])
def test_an_empty_policy_is_refused_for_the_first_model_too(make, state):
    labels = np.arange(300) % 3
    evidence = make(labels, {"fp32": labels}, champion_state=state)
    assert decide(Gate(against_champion=None), evidence).verdict == "refuse"
