"""The challenger against the sanity baseline: a transformer that does not beat word counts is not worth serving.

Not here: fitting TF-IDF with logistic regression, which the evaluate step does on the same snapshot.
"""

from __future__ import annotations

from retrainer.artifacts.evaluation import BASELINE, EvaluationRecord
from retrainer.artifacts.measures import Interval
from retrainer.gate.metrics import compare, metrics_of
from retrainer.gate.receipt import Findings, ReasonCode
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.gate import Gate


def judge_baseline(
    policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float, findings: Findings
) -> Interval | None:
    """Challenger fp32 minus baseline on the same rows, by the metric that the gate compares models with.

    ``not_worse`` refuses a challenger whose whole interval is below 0. ``floor`` refuses one that is not better: its
    value must be above the baseline's and, with ``confident``, so must the lower bound of the difference. What does not
    refuse is a note where the challenger is not better.

    :return: ``None`` where there is nothing to compare.
    """
    if record.writes == "text":
        findings.note("no baseline: TF-IDF with logistic regression does not write text")
        return None
    required = policy.baseline == "floor"
    against = policy.against_champion
    metric = against.metric if against else record.share_right
    if rows is None or BASELINE not in rows.answers or metric not in metrics_of(record.family):
        cause = record.baseline_error or "it was not fitted"
        if required:
            findings.refuse(ReasonCode.BASELINE_MISSING, f"there is no baseline to beat: {cause}")
        elif record.baseline is None:
            findings.note(f"no baseline: {cause}")
        return None
    try:
        interval = compare(metric, rows.labels, rows.answers[FP32], rows.answers[BASELINE], alpha)
    except ValueError as error:
        if required:
            findings.refuse(ReasonCode.BASELINE_MISSING, str(error))
        else:
            findings.note(f"not compared with the baseline: {error}")
        return None
    judged = interval.low if policy.confident else interval.estimate
    if judged > 0:
        return interval
    shown = f"{metric} differs from that of TF-IDF with logistic regression {interval.seen}"
    if required:
        what = "the lower bound" if policy.confident else "the difference"
        findings.refuse(ReasonCode.BASELINE_NOT_BEATEN, f"{shown}; {what} must be above 0")
    elif policy.baseline == "not_worse" and interval.high < 0:
        findings.refuse(ReasonCode.WORSE_THAN_BASELINE, f"{shown}; the whole interval is below 0")
    else:
        findings.note(f"{shown}: no better than a baseline that costs nothing to serve")
    return interval
