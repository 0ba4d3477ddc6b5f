"""The comparison with the champion, and how its interval is read.

``[low, high]`` is the interval of the difference, each end a one-sided ``1 - alpha`` bound; the threshold is 0
(superiority) or ``-margin`` (non-inferiority):

- ``low`` above the threshold: shown. When the truth is at the threshold this happens with probability ``alpha``.
- else ``high`` below 0: the challenger is worse, beyond chance.
- else there are too few rows to tell; or, for superiority, the difference seen is not even positive.
"""

from __future__ import annotations

from dataclasses import dataclass

from retrainer.artifacts.evaluation import CHAMPION, EvaluationRecord
from retrainer.artifacts.measures import Interval
from retrainer.gate.metrics import METRICS, compare
from retrainer.gate.paired import rows_needed
from retrainer.gate.receipt import Findings, ReasonCode
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.gate import AgainstChampion, Gate

# Below this no interval is trusted, whatever it says.
FEWEST_ROWS = 20


@dataclass(frozen=True, slots=True)
class Comparison:
    """The interval and what it had to exceed; nothing of it when the comparison was skipped."""

    interval: Interval | None = None
    threshold: float | None = None
    rows_needed: int | None = None


def judge_against_champion(
    policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float, findings: Findings
) -> Comparison:
    """Compare, and refuse what is not shown. Skipped, with a note, where there is no champion."""
    against = policy.against_champion
    if against is None:
        findings.note("not compared with the champion: the gate does not ask for it")
        return Comparison()
    if record.champion_state == "none":
        findings.note("comparison skipped: the channel has no champion yet")
        if not policy.floors:
            findings.note("the gate sets no floor either, so only the export and the budgets were checked")
        return Comparison()
    if rows is None or CHAMPION not in rows.answers or against.metric not in METRICS:
        # Each of these is a reason already, but never rely on that.
        if not findings.reasons:
            findings.refuse(ReasonCode.CHAMPION_UNREADABLE, "the champion could not be compared")
        return Comparison()
    try:
        interval = compare(against.metric, rows.labels, rows.answers[FP32], rows.answers[CHAMPION], alpha)
    except ValueError as error:
        findings.refuse(ReasonCode.METRIC_UNDEFINED, str(error))
        return Comparison()
    return _read(against, interval, findings)


def _read(against: AgainstChampion, interval: Interval, findings: Findings) -> Comparison:
    """What the interval says; see the top of this module."""
    superiority = against.mode == "superiority"
    threshold = 0.0 if superiority else -against.margin
    seen = f"{against.metric} differs {interval.seen}; the whole interval must be above {threshold:g}"
    if interval.low > threshold and interval.n >= FEWEST_ROWS:
        return Comparison(interval, threshold)
    if interval.high < 0:
        findings.refuse(ReasonCode.WORSE_THAN_CHAMPION, seen)
        return Comparison(interval, threshold)
    if superiority and interval.estimate <= 0:
        findings.refuse(ReasonCode.NOT_BETTER, seen)
        return Comparison(interval, threshold)
    # Planned for the difference seen; for non-inferiority at least for models that are equally good.
    assumed = interval.estimate if superiority else max(interval.estimate, 0.0)
    needed = rows_needed(
        n=interval.n,
        half_width=(interval.high - interval.low) / 2,
        distance=assumed - threshold,
        alpha=against.alpha,
    )
    if needed is not None:
        needed = max(needed, FEWEST_ROWS)
        premise = "if this difference is real" if assumed > 0 else "if the models are equally good"
        seen += f". About {needed:,} rows would be needed to tell, {premise}"
    findings.refuse(ReasonCode.INSUFFICIENT_ROWS, seen)
    return Comparison(interval, threshold, needed)
