"""Which precisions go live with a challenger: each is judged against fp32 on the same rows.

fp32 is what the verdict is about, and is served wherever another precision is not, so it is always published.
Another precision is left out, without refusing the challenger, unless it is non-inferior to fp32 and meets floors
and absolute budgets itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from retrainer.artifacts.evaluation import EvaluationRecord
from retrainer.artifacts.measures import Score
from retrainer.gate.checks import judge_budgets, judge_floors, judge_parity
from retrainer.gate.claims import shows
from retrainer.gate.metrics import compare, compared_by
from retrainer.gate.receipt import BudgetResult, Findings, PrecisionDecision
from retrainer.gate.validity import FP32, Rows
from retrainer.precisions import PRECISIONS
from retrainer.spec.gate import Gate

# Where the policy states no margin, or none that could ever be met.
DEFAULT_MARGIN = 0.01


def judge_precisions(
    policy: Gate,
    record: EvaluationRecord,
    rows: Rows | None,
    scores: Mapping[str, Mapping[str, Score]],
    alpha: float,
    findings: Findings,
) -> tuple[dict[str, PrecisionDecision], tuple[BudgetResult, ...]]:
    """fp32 goes with the verdict; every other precision must be as good as fp32, and is left out otherwise."""
    decisions: dict[str, PrecisionDecision] = {}
    budgets: list[BudgetResult] = []
    if FP32 in record.challenger:
        decisions[FP32] = PrecisionDecision(publish=True, why="the precision that was judged")
    against = policy.against_champion
    metric = compared_by(policy, record.family)
    margin = (against.margin if against else 0.0) or DEFAULT_MARGIN
    for name, model in sorted(record.challenger.items()):
        if name == FP32:
            continue
        if rows is None or name not in rows.answers:
            decisions[name] = PrecisionDecision(publish=False, why=f"it could not be compared with {FP32}")
            continue
        try:
            interval = compare(metric, rows.labels, rows.answers[name], rows.answers[FP32], alpha)
        except ValueError as error:
            decisions[name] = PrecisionDecision(publish=False, why=str(error))
            continue
        against_fp32 = f"{metric} differs from that of {FP32} {interval.seen}"
        found = Findings()
        obstacles = []
        if not shows(interval, -margin):
            said = "it is worse" if interval.high < 0 else "too few rows to tell"
            obstacles.append(f"{said}: {against_fp32}, and the whole interval must be above {-margin:g}")
        judge_floors(policy.model_copy(update={"confident": False}), scores.get(name, {}), found)
        budgets += judge_budgets(policy.budgets, name, model, None, found)
        exact = name in PRECISIONS and PRECISIONS[name].exact
        judge_parity(name, record.parity.get(name), found, needs_tolerance=exact)
        obstacles += [reason.detail for reason in found.reasons]
        why = "; ".join(obstacles) or f"as good as {FP32}: {against_fp32}"
        decisions[name] = PrecisionDecision(publish=not obstacles, why=why, comparison=interval)
        if obstacles:
            findings.note(f"{name} is not published: {why}")
    return decisions, tuple(budgets)
