"""The checks of one model by itself: reported metrics, floors, budgets, parity of the export."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from retrainer.gate.metrics import METRICS
from retrainer.gate.paired import tidy
from retrainer.gate.records import (
    BudgetResult,
    ChampionEvidence,
    FloorResult,
    ModelEvidence,
    ParityEvidence,
    Reason,
    ReasonCode,
    Score,
)
from retrainer.spec.metric_names import LOWER_IS_BETTER
from retrainer.spec.model import Budgets, Gate

# Reported metrics were computed from the same numbers, so only the last digits may differ.
METRIC_SLACK = 1e-6


def judge_metrics(name: str, model: ModelEvidence, scores: Mapping[str, Score], needed: Iterable[str]) -> list[Reason]:
    """Whether each metric that the policy needs was measured, has a value, and is what the rows give.

    :param name: whose: a precision, or ``champion``.
    :param scores: computed from the rows.
    :param needed: metrics that the policy judges this model by.
    """
    reasons = []
    for metric in needed:
        if metric not in METRICS:
            continue
        if metric not in model.metrics:
            detail = f"{name}: {metric} was not measured"
            reasons.append(Reason(code=ReasonCode.METRIC_MISSING, detail=detail))
        elif not is_number(model.metrics[metric]) or (metric in scores and scores[metric].value is None):
            detail = f"{name}: {metric} has no value on these rows"
            reasons.append(Reason(code=ReasonCode.METRIC_UNDEFINED, detail=detail))
    for metric, reported in model.metrics.items():
        computed = scores[metric].value if metric in scores else None
        if computed is None or reported is None or not math.isfinite(reported):
            continue
        if abs(reported - computed) > METRIC_SLACK:
            detail = f"{name}: {metric} was reported as {reported:.6f}, the predictions give {computed:.6f}"
            reasons.append(Reason(code=ReasonCode.METRIC_MISMATCH, detail=detail))
    return reasons


def judge_floors(policy: Gate, scores: Mapping[str, Score]) -> tuple[tuple[FloorResult, ...], list[Reason]]:
    """Every floor against the value, or with ``confident`` against its bound on the bad side."""
    results, reasons = [], []
    for metric, bound in policy.floors.items():
        score = scores.get(metric, Score(value=None))
        lower_is_better = metric in LOWER_IS_BETTER
        confident = score.high if lower_is_better else score.low
        judged = confident if policy.confident else score.value
        met = _within(judged, bound, lower_is_better=lower_is_better)
        results.append(FloorResult(metric=metric, value=score.value, judged=judged, bound=bound, met=met))
        if met or score.value is None:
            continue  # without a value there is a reason already
        side, verb = ("at most", "above") if lower_is_better else ("at least", "below")
        if _within(score.value, bound, lower_is_better=lower_is_better):
            edge = "upper" if lower_is_better else "lower"
            shown = f"its {edge} bound {confident:.4f} is {verb} it" if confident is not None else "it has no bound"
            detail = f"{metric} {score.value:.4f} meets {side} {bound:g}, but {shown}"
            reasons.append(Reason(code=ReasonCode.FLOOR_NOT_CONFIDENT, detail=detail))
        else:
            detail = f"{metric} {score.value:.4f}, wanted is {side} {bound:g}"
            reasons.append(Reason(code=ReasonCode.FLOOR_MISSED, detail=detail))
    return tuple(results), reasons


def _within(value: float | None, bound: float, *, lower_is_better: bool) -> bool:
    if value is None or not math.isfinite(value):
        return False
    return value <= bound if lower_is_better else value >= bound


# Budgets of which more is better; the others are ceilings.
AT_LEAST = frozenset({"min_rows_per_second", "min_throughput_ratio"})
# Budgets that compare with the champion.
RATIOS = ("max_latency_ratio", "min_throughput_ratio", "max_size_ratio", "max_memory_ratio")


def judge_budgets(
    policy: Budgets, precision: str, model: ModelEvidence, champion: ChampionEvidence | None
) -> tuple[tuple[BudgetResult, ...], list[Reason]]:
    """Every budget of one precision.

    :param champion: the base of the ratios, which are skipped without a champion.
    """
    measured = {
        "p50_latency_ms": _p50(model),
        "p95_latency_ms": model.latency_ms.p95 if model.latency_ms else None,
        "min_rows_per_second": model.rows_per_second,
        "size_mb": model.size_mb,
        "peak_memory_mb": model.peak_memory_mb,
    }
    if champion is not None:
        measured |= {
            "max_latency_ratio": _ratio(_p50(model), _p50(champion)),
            "min_throughput_ratio": _ratio(model.rows_per_second, champion.rows_per_second),
            "max_size_ratio": _ratio(model.size_mb, champion.size_mb),
            "max_memory_ratio": _ratio(model.peak_memory_mb, champion.peak_memory_mb),
        }
    results, reasons = [], []
    for budget, value in measured.items():
        limit: float | None = getattr(policy, budget)
        if limit is None:
            continue
        usable = value if _positive(value) else None
        met = usable is not None and (usable >= limit if budget in AT_LEAST else usable <= limit)
        shown = tidy(usable) if usable is not None else None
        results.append(BudgetResult(budget=budget, precision=precision, measured=shown, limit=limit, met=met))
        if usable is None:
            detail = f"{precision}: {budget} is limited to {limit:g}, but was not measured"
            reasons.append(Reason(code=ReasonCode.BUDGET_NOT_MEASURED, detail=detail))
        elif not met:
            wanted = "at least" if budget in AT_LEAST else "at most"
            detail = f"{precision}: {budget} is {usable:.4g}, wanted is {wanted} {limit:g}"
            reasons.append(Reason(code=ReasonCode.BUDGET_EXCEEDED, detail=detail))
    return tuple(results), reasons


def _p50(model: ModelEvidence) -> float | None:
    return model.latency_ms.p50 if model.latency_ms else None


def _ratio(after: float | None, before: float | None) -> float | None:
    return after / before if after and before and _positive(after) and _positive(before) else None


def judge_parity(precision: str, parity: ParityEvidence | None, *, needs_tolerance: bool) -> Reason | None:
    """Whether the exported graph computes what the checkpoint computes.

    :param needs_tolerance: false for int8, which is judged by its predictions.
    """
    if parity is None or parity.rows < 1 or not is_number(parity.max_difference):
        detail = f"{precision}: the graph was not compared with the checkpoint"
        return Reason(code=ReasonCode.PARITY_MISSING, detail=detail)
    if parity.tolerance is None and not needs_tolerance:
        return None
    difference, tolerance = parity.max_difference, parity.tolerance
    if difference is None or tolerance is None or not math.isfinite(tolerance):
        detail = f"{precision}: no tolerance was set for the comparison with the checkpoint"
        return Reason(code=ReasonCode.PARITY_MISSING, detail=detail)
    if not 0 <= difference <= tolerance:
        detail = f"{precision}: logits differ from the checkpoint by {difference:.3g}, allowed is {tolerance:g}"
        return Reason(code=ReasonCode.PARITY_EXCEEDED, detail=detail)
    return None


def is_number(value: float | None) -> bool:
    """Whether it is there and finite."""
    return value is not None and math.isfinite(value)


def _positive(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0
