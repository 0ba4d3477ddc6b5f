"""Every metric of every model, computed from the rows, and whether what was reported is what the rows give.

Not here: how a metric and its bounds are computed (``metrics.py``, ``compare.py``), what follows (``decide.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from retrainer.gate.checks import judge_metrics
from retrainer.gate.compare import Answers, score, value_of
from retrainer.gate.evidence import BASELINE, CHAMPION
from retrainer.gate.findings import Findings
from retrainer.gate.metrics import METRICS
from retrainer.gate.paired import tidy
from retrainer.gate.records import EvaluationRecord, Score
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.model import Gate

Scores = Mapping[str, Mapping[str, Score]]

# Bounds for what is shown and judged by them. int8 is judged by comparison with fp32.
WITH_BOUNDS = frozenset({FP32, CHAMPION, BASELINE})


def all_scores(policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float) -> dict[str, dict[str, Score]]:
    """Every metric that was reported or is needed, of every model: precision, ``champion`` or ``baseline``."""
    if rows is None:
        return {}
    against = policy.against_champion
    wanted = {"accuracy", *policy.floors, *([against.metric] if against else [])}
    for model in record.challenger.values():
        wanted |= set(model.metrics)
    names = [name for name in METRICS if name in wanted]
    return {
        model: {
            name: score(name, rows.labels, answers, alpha) if model in WITH_BOUNDS else _point(name, rows, answers)
            for name in names
        }
        for model, answers in rows.answers.items()
    }


def _point(name: str, rows: Rows, answers: Answers) -> Score:
    value = value_of(METRICS[name], rows.labels, answers)
    return Score(value=tidy(value) if math.isfinite(value) else None)


def check_reported(policy: Gate, record: EvaluationRecord, scores: Scores, findings: Findings) -> None:
    """Refuse a metric that is needed and missing or undefined, and one that the predictions do not give."""
    against = policy.against_champion
    compared = [against.metric] if against and record.champion_state != "none" else []
    for name, model in record.challenger.items():
        needed = dict.fromkeys([*policy.floors, *compared]) if name == FP32 else {}
        findings.extend(judge_metrics(name, model, scores.get(name, {}), needed))
    if record.champion is not None:
        findings.extend(judge_metrics(CHAMPION, record.champion, scores.get(CHAMPION, {}), compared))
    if record.baseline is not None:
        findings.extend(judge_metrics(BASELINE, record.baseline, scores.get(BASELINE, {}), ()))
