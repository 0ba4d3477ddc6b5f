"""The checks of one model by itself: scores from the rows, reported metrics, floors, budgets, parity of the export.

Each adds what it finds to the findings. Not here: comparing models (``against_champion.py``, ``precisions.py``), how a
metric and its bounds are computed (``metrics.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from retrainer.artifacts.evaluation import (
    ANCHOR,
    BASELINE,
    CHAMPION,
    ChampionEvidence,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    cost_of,
)
from retrainer.artifacts.measures import Score
from retrainer.gate.metrics import metrics_of, score
from retrainer.gate.paired import tidy
from retrainer.gate.receipt import BudgetResult, Findings, FloorResult, ReasonCode
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.budgets import BUDGETS, Budgets
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import lower_is_better

# Reported metrics were computed from the same numbers, so only the last digits may differ.
METRIC_SLACK = 1e-6
# Bounds for what is shown and judged by them. int8 is judged by comparison with fp32.
WITH_BOUNDS = frozenset({FP32, CHAMPION, ANCHOR, BASELINE})

Scores = Mapping[str, Mapping[str, Score]]


def all_scores(policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float) -> dict[str, dict[str, Score]]:
    """Every metric that was reported or is needed, of every model that was scored on the rows."""
    if rows is None:
        return {}
    against = policy.against_champion
    wanted = {record.share_right, *policy.floors, *([against.metric] if against else [])}
    for model in record.challenger.values():
        wanted |= set(model.metrics)
    names = [name for name in metrics_of(record.family) if name in wanted]
    return {
        model: {name: score(name, rows.labels, answers, alpha if model in WITH_BOUNDS else None) for name in names}
        for model, answers in rows.answers.items()
    }


def check_reported(policy: Gate, record: EvaluationRecord, scores: Scores, findings: Findings) -> None:
    """Refuse a metric that is needed and missing or undefined, and one that the predictions do not give."""
    against = policy.against_champion
    known = metrics_of(record.family)
    compared = [against.metric] if against and record.champion_state != "none" and against.metric in known else []
    floors = [name for name in policy.floors if name in known]
    needed = {FP32: list(dict.fromkeys([*floors, *compared])), CHAMPION: compared}
    for name, model in record.models.items():
        _check_metrics(name, model, scores.get(name, {}), needed.get(name, ()), findings)


def _check_metrics(
    name: str, model: ModelEvidence, scores: Mapping[str, Score], needed: Iterable[str], findings: Findings
) -> None:
    for metric in needed:
        if metric not in model.metrics:
            findings.refuse(ReasonCode.METRIC_MISSING, f"{name}: {metric} was not measured")
        elif not is_number(model.metrics[metric]) or (metric in scores and scores[metric].value is None):
            findings.refuse(ReasonCode.METRIC_UNDEFINED, f"{name}: {metric} has no value on these rows")
    for metric, reported in model.metrics.items():
        computed = scores[metric].value if metric in scores else None
        if computed is None or reported is None or not math.isfinite(reported):
            continue
        if abs(reported - computed) > METRIC_SLACK:
            detail = f"{name}: {metric} was reported as {reported:.6f}, the predictions give {computed:.6f}"
            findings.refuse(ReasonCode.METRIC_MISMATCH, detail)


def judge_floors(policy: Gate, scores: Mapping[str, Score], findings: Findings) -> tuple[FloorResult, ...]:
    """Every floor against the value, or with ``confident`` against its bound on the bad side."""
    results = []
    for metric, bound in policy.floors.items():
        found = scores.get(metric, Score(value=None))
        less = lower_is_better(metric)
        confident = found.high if less else found.low
        judged = confident if policy.confident else found.value
        met = _within(judged, bound, less=less)
        results.append(FloorResult(metric=metric, value=found.value, judged=judged, bound=bound, met=met))
        if met or found.value is None:
            continue  # without a value there is a reason already
        what, verb, edge = ("ceiling", "above", "upper") if less else ("floor", "below", "lower")
        if _within(found.value, bound, less=less):
            shown = f"its {edge} bound {confident:.4f} is {verb} it" if confident is not None else "it has no bound"
            detail = f"{metric} {found.value:.4f} meets the {what} of {bound:g}, but {shown}"
            findings.refuse(ReasonCode.FLOOR_NOT_CONFIDENT, detail)
        else:
            findings.refuse(ReasonCode.FLOOR_MISSED, f"{metric} {found.value:.4f} is {verb} the {what} of {bound:g}")
    return tuple(results)


def _within(value: float | None, bound: float, *, less: bool) -> bool:
    if value is None or not math.isfinite(value):
        return False
    return value <= bound if less else value >= bound


def judge_budgets(
    policy: Budgets, precision: str, model: ModelEvidence, champion: ChampionEvidence | None, findings: Findings
) -> tuple[BudgetResult, ...]:
    """Every budget of one precision.

    :param champion: the base of the ratios, which are skipped without a champion.
    """
    results = []
    for name, budget in BUDGETS.items():
        limit: float | None = getattr(policy, name)
        if limit is None or (budget.ratio and champion is None):
            continue
        measured = _positive(cost_of(model, budget.cost))
        if budget.ratio and champion is not None:
            base = _positive(cost_of(champion, budget.cost))
            measured = _positive(measured / base) if measured and base else None
        met = _within(measured, limit, less=not budget.at_least)
        shown = tidy(measured) if measured is not None else None
        results.append(BudgetResult(budget=name, precision=precision, measured=shown, limit=limit, met=met))
        allowed = f"the limit of {budget.amount(limit)}"
        if measured is None:
            detail = f"{precision}: {budget.words} was not measured, so {allowed} cannot be checked ({name})"
            findings.refuse(ReasonCode.BUDGET_NOT_MEASURED, detail)
        elif not met:
            side = "below" if budget.at_least else "above"
            detail = f"{precision}: {budget.words} is {budget.amount(measured)}, {side} {allowed} ({name})"
            findings.refuse(ReasonCode.BUDGET_EXCEEDED, detail)
    return tuple(results)


def judge_parity(precision: str, parity: ParityEvidence | None, findings: Findings, *, needs_tolerance: bool) -> None:
    """Whether the exported graph computes what the checkpoint computes.

    :param needs_tolerance: false for one that is judged by its predictions, such as int8.
    """
    if parity is None or parity.rows < 1 or not is_number(parity.max_difference):
        findings.refuse(ReasonCode.PARITY_MISSING, f"{precision}: the graph was not compared with the checkpoint")
        return
    difference, tolerance = parity.max_difference, parity.tolerance
    if tolerance is None and not needs_tolerance:
        return
    if difference is None or tolerance is None or not math.isfinite(tolerance):
        detail = f"{precision}: no tolerance was set for the comparison with the checkpoint"
        findings.refuse(ReasonCode.PARITY_MISSING, detail)
    elif not 0 <= difference <= tolerance:
        detail = f"{precision}: logits differ from the checkpoint by {difference:.3g}; the tolerance is {tolerance:g}"
        findings.refuse(ReasonCode.PARITY_EXCEEDED, detail)


def is_number(value: float | None) -> bool:
    """Whether it is there and finite."""
    return value is not None and math.isfinite(value)


def _positive(value: float | None) -> float | None:
    """The same, or ``None`` where it cannot be a cost."""
    return value if value is not None and math.isfinite(value) and value > 0 else None
