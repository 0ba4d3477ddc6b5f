"""The decision: a policy and the evidence in, a receipt out.

Pure: no file, no clock, no randomness that is not seeded. Same policy and evidence, same receipt, byte for byte,
in whatever order the rows were written. It fails closed: what is missing, undefined, misaligned or unreadable is
a reason to refuse. All reasons are collected, not only the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from retrainer.errors import GateError
from retrainer.gate.against_champion import judge_against_champion
from retrainer.gate.checks import judge_budgets, judge_floors, judge_metrics, judge_parity
from retrainer.gate.compare import Answers, score, value_of
from retrainer.gate.evidence import CHAMPION, Evidence
from retrainer.gate.findings import Findings
from retrainer.gate.metrics import METRICS
from retrainer.gate.paired import tidy
from retrainer.gate.precisions import judge_precisions
from retrainer.gate.records import (
    BudgetResult,
    EvaluationRecord,
    ParityEvidence,
    ReasonCode,
    Receipt,
    Score,
    SliceResult,
)
from retrainer.gate.slices import judge_slices
from retrainer.gate.validity import FP32, Rows, check
from retrainer.spec.model import Gate


def decide(policy: Gate, evidence: Evidence) -> Receipt:
    """Judge a challenger.

    :raises GateError: the policy itself cannot be applied: a floor that is not a number, an alpha of one half or
        more. The pipeline file has to change.
    """
    _check_policy(policy)
    record = evidence.record
    alpha = policy.alpha
    findings = Findings()
    _judge_policy(policy, findings)
    _judge_state(record, findings)
    rows, problems = check(evidence)
    findings.extend(problems)

    scores = _scores(policy, record, rows, alpha)
    _judge_metrics(policy, record, rows, scores, findings)
    floors, missed = judge_floors(policy, scores.get(FP32, {}))
    findings.extend(missed)
    comparison = judge_against_champion(policy, record, rows, alpha, findings)
    slices = _slices(policy, record, rows, alpha, findings)
    budgets = _judge_costs(policy, record, findings)
    precisions, more_budgets = judge_precisions(policy, record, rows, scores, alpha, findings)

    return Receipt(
        model=record.model,
        task=record.task,
        verdict="refuse" if findings.reasons else "promote",
        reasons=tuple(dict.fromkeys(findings.reasons)),
        notes=tuple(findings.notes),
        policy=policy,
        digests=dict(sorted(record.digests.items())),
        predictions={name: table.sha256 for name, table in sorted(evidence.tables.items())},
        labels=record.labels,
        rows=rows.labels.size if rows else record.rows,
        excluded_rows=record.excluded_rows,
        label_counts=_label_counts(record, rows),
        champion_state=record.champion_state,
        champion_version=record.champion.version if record.champion else None,
        metrics=scores,
        comparison=comparison.interval,
        threshold=comparison.threshold,
        rows_needed=comparison.rows_needed,
        floors=floors,
        slices=slices,
        budgets=(*budgets, *more_budgets),
        parity={name: _finite_parity(parity) for name, parity in sorted(record.parity.items())},
        precisions=precisions,
    )


def _check_policy(policy: Gate) -> None:
    against = policy.against_champion
    numbers = {
        **{f"floors.{name}": bound for name, bound in policy.floors.items()},
        **({"against_champion.margin": against.margin, "against_champion.alpha": against.alpha} if against else {}),
        **{f"budgets.{name}": limit for name, limit in policy.budgets if limit is not None},
        **({"slices.max_drop": policy.slices.max_drop} if policy.slices else {}),
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise GateError(f"{value} is no number to judge by", where=f"gate.{name}", hint="give a finite number")
    if against is not None and against.alpha >= 0.5:
        raise GateError(
            f"an alpha of {against.alpha:g} accepts more often by chance than not",
            where="gate.against_champion.alpha",
            hint="0.05 is usual",
        )


def _judge_policy(policy: Gate, findings: Findings) -> None:
    against = policy.against_champion
    if not policy.floors and against is None:
        findings.refuse(ReasonCode.POLICY_EMPTY, "the gate has neither floors nor against_champion")
    for metric in [*policy.floors, *([against.metric] if against else [])]:
        if metric not in METRICS:
            findings.refuse(ReasonCode.METRIC_UNKNOWN, f"{metric} is none of {', '.join(METRICS)}")


def _judge_state(record: EvaluationRecord, findings: Findings) -> None:
    if record.champion_state == "unreadable":
        cause = record.champion_error or "it could not be read"
        findings.refuse(ReasonCode.CHAMPION_UNREADABLE, f"the channel has a champion, but {cause}")
    if record.challenger_withdrawn:
        detail = "this bundle was live on the channel before and was rolled back from"
        findings.refuse(ReasonCode.CHALLENGER_WITHDRAWN, detail)
    if record.excluded_rows:
        findings.note(f"{record.excluded_rows} test rows were left out: the champion had been trained on them")
    champion = record.champion
    if champion is not None and set(champion.labels) != set(record.labels):
        findings.note(
            f"the champion knows other labels ({', '.join(champion.labels)}): it is wrong on rows of new ones"
        )


def _scores(policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float) -> dict[str, dict[str, Score]]:
    """Every metric that was reported or is needed, of every model, computed from the rows."""
    if rows is None:
        return {}
    against = policy.against_champion
    wanted = {"accuracy", *policy.floors, *([against.metric] if against else [])}
    for model in record.challenger.values():
        wanted |= set(model.metrics)
    names = [name for name in METRICS if name in wanted]
    return {
        model: {
            # Bounds for what is shown and judged by them; int8 is judged by comparison.
            name: score(name, rows.labels, answers, alpha) if model in {FP32, CHAMPION} else _point(name, rows, answers)
            for name in names
        }
        for model, answers in rows.answers.items()
    }


def _point(name: str, rows: Rows, answers: Answers) -> Score:
    value = value_of(METRICS[name], rows.labels, answers)
    return Score(value=tidy(value) if math.isfinite(value) else None)


def _judge_metrics(
    policy: Gate,
    record: EvaluationRecord,
    rows: Rows | None,
    scores: Mapping[str, Mapping[str, Score]],
    findings: Findings,
) -> None:
    against = policy.against_champion
    compared = [against.metric] if against and record.champion_state != "none" else []
    for name, model in record.challenger.items():
        needed = dict.fromkeys([*policy.floors, *compared]) if name == FP32 else {}
        findings.extend(judge_metrics(name, model, scores.get(name, {}), needed))
    if record.champion is not None:
        findings.extend(judge_metrics(CHAMPION, record.champion, scores.get(CHAMPION, {}), compared))


def _slices(
    policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float, findings: Findings
) -> tuple[SliceResult, ...]:
    if policy.slices is None or not policy.slices.by:
        return ()
    if record.champion_state == "none":
        findings.note("slices skipped: the channel has no champion yet")
        return ()
    if rows is None or CHAMPION not in rows.answers:
        if not findings.reasons:
            findings.refuse(ReasonCode.CHAMPION_UNREADABLE, "the slices could not be compared")
        return ()
    champion = rows.answers[CHAMPION].predictions
    results, reasons = judge_slices(policy.slices, rows, record.labels, champion, alpha)
    findings.extend(reasons)
    small = sum(result.status == "insufficient" for result in results)
    if small:
        findings.note(f"{small} slices have fewer than {policy.slices.min_rows} rows: insufficient")
    return results


def _judge_costs(policy: Gate, record: EvaluationRecord, findings: Findings) -> tuple[BudgetResult, ...]:
    """Parity and budgets of fp32, which is served wherever int8 is not: they bind the challenger."""
    parity = judge_parity(FP32, record.parity.get(FP32), needs_tolerance=True)
    if parity is not None:
        findings.extend([parity])
    model = record.challenger.get(FP32)
    if policy.budgets.max_latency_ratio is not None and record.champion_state == "none":
        findings.note("latency ratio skipped: the channel has no champion yet")
    if model is None:
        return ()
    budgets, reasons = judge_budgets(policy.budgets, FP32, model, record.champion)
    findings.extend(reasons)
    return budgets


def _label_counts(record: EvaluationRecord, rows: Rows | None) -> dict[str, int]:
    if rows is None:
        return {}
    counts = np.bincount(rows.labels, minlength=len(record.labels))
    return {name: int(count) for name, count in zip(record.labels, counts, strict=True)}


def _finite_parity(parity: ParityEvidence) -> ParityEvidence:
    """The same without NaN and infinity, which a receipt cannot hold."""
    numbers = {"max_difference": parity.max_difference, "tolerance": parity.tolerance}
    changed = {name: None for name, value in numbers.items() if value is not None and not math.isfinite(value)}
    return parity.model_copy(update=changed)
