"""The decision: a policy and the evidence in, a receipt out.

Pure: no file, no clock, no randomness that is not seeded. Same policy and evidence, same receipt, byte for byte,
in whatever order the rows were written. It fails closed: what is missing, undefined, misaligned or unreadable is
a reason to refuse. All reasons are collected, not only the first.
"""

from __future__ import annotations

import math
from typing import TypeVar

from retrainer.artifacts.evaluation import BASELINE, CHAMPION, EvaluationRecord
from retrainer.errors import GateError
from retrainer.gate.against_champion import judge_against_champion
from retrainer.gate.answers import TextAnswers
from retrainer.gate.baseline import judge_baseline
from retrainer.gate.checks import all_scores, check_reported, is_number, judge_budgets, judge_floors, judge_parity
from retrainer.gate.drift import judge_drift
from retrainer.gate.evidence import Evidence
from retrainer.gate.flips import judge_flips
from retrainer.gate.metrics import compared_by, metrics_of
from retrainer.gate.overturn import overturn_of
from retrainer.gate.paired import tidy
from retrainer.gate.precisions import judge_precisions
from retrainer.gate.receipt import BudgetResult, DriftResult, Findings, ReasonCode, Receipt, SliceResult
from retrainer.gate.slices import judge_slices
from retrainer.gate.validity import FP32, Rows, check
from retrainer.records import Record
from retrainer.spec.budgets import BUDGETS
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import OF_ONE_LABEL

AnyRecord = TypeVar("AnyRecord", bound=Record)


def decide(policy: Gate, evidence: Evidence) -> Receipt:
    """Judge a challenger.

    :raises GateError: the policy itself cannot be applied: a floor that is not a number, an alpha of one half or
        more. The pipeline file has to change.
    """
    _check_policy(policy)
    record = evidence.record
    alpha = policy.alpha
    findings = Findings()
    _judge_policy(policy, record, findings)
    _judge_state(record, findings)
    rows, problems = check(evidence)
    findings.extend(problems)

    scores = all_scores(policy, record, rows, alpha)
    check_reported(policy, record, scores, findings)
    floors = judge_floors(policy, scores.get(FP32, {}), findings)
    comparison = judge_against_champion(policy, evidence.standing, record, rows, findings)
    flips = judge_flips(policy, record, rows, alpha, findings)
    slices = _slices(policy, record, rows, alpha, findings)
    baseline = judge_baseline(policy, record, rows, alpha, findings)
    drift = _judge_drift(policy, record, alpha, findings)
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
        metrics={name: values for name, values in scores.items() if name != BASELINE},
        comparison=comparison.interval,
        threshold=comparison.threshold,
        rows_needed=comparison.rows_needed,
        floors=floors,
        slices=slices,
        budgets=(*budgets, *more_budgets),
        parity={name: _finite(parity, "max_difference", "tolerance") for name, parity in sorted(record.parity.items())},
        precisions=precisions,
        baseline=scores.get(BASELINE),
        baseline_comparison=baseline,
        temperatures=_temperatures(record),
        leakage=record.leakage,
        drift=drift,
        selection=record.selection,
        standing=evidence.standing,
        spending=comparison.spending,
        single=comparison.single,
        anchor=comparison.anchor,
        anchor_moves=not findings.reasons and comparison.anchor is not None and comparison.anchor.better,
        flips=flips,
        overturn=overturn_of(rows, comparison.interval, comparison.threshold, level=comparison.level(alpha)),
        changes=evidence.changes,
    )


def _check_policy(policy: Gate) -> None:
    against = policy.against_champion
    numbers = {
        **{f"floors.{name}": bound for name, bound in policy.floors.items()},
        **({"against_champion.margin": against.margin, "against_champion.alpha": against.alpha} if against else {}),
        **{f"budgets.{name}": limit for name, limit in policy.budgets if limit is not None},
        "over_time.alpha": policy.over_time.alpha,
        **({} if policy.max_loss is None else {"anchor.max_loss": policy.max_loss}),
        **({} if policy.max_harmful_flips is None else {"max_harmful_flips": policy.max_harmful_flips}),
        **({"slices.max_drop": policy.slices.max_drop} if policy.slices else {}),
        "drift.warn": policy.drift.warn,
        **{f"drift.block.{kind}": distance for kind, distance in policy.drift.block.items()},
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise GateError(f"{value} is not a number to judge by", where=f"gate.{name}", hint="give a finite number")
    for name in ("against_champion.alpha", "over_time.alpha"):
        if numbers.get(name, 0.0) >= 0.5:
            raise GateError(
                f"an alpha of {numbers[name]:g} accepts more often by chance than not",
                where=f"gate.{name}",
                hint="0.05 is usual",
            )


def _judge_policy(policy: Gate, record: EvaluationRecord, findings: Findings) -> None:
    against = policy.against_champion
    if not policy.floors and against is None:
        findings.refuse(ReasonCode.POLICY_EMPTY, "the gate has neither floors nor against_champion")
    for metric in [*policy.floors, *([against.metric] if against else [])]:
        if metric not in (known := metrics_of(record.family)):
            findings.refuse(ReasonCode.METRIC_UNKNOWN, f"{metric} is not one of {', '.join(known)}")


def _judge_state(record: EvaluationRecord, findings: Findings) -> None:
    if record.champion_state == "unreadable":
        cause = record.champion_error or "it could not be read"
        findings.refuse(ReasonCode.CHAMPION_UNREADABLE, f"the channel has a champion, but {cause}")
    if record.challenger_withdrawn:
        detail = "this bundle was live on the channel before and was rolled back from"
        findings.refuse(ReasonCode.CHALLENGER_WITHDRAWN, detail)
    left_out = record.leakage
    if by_champion := left_out.champion_exact + left_out.champion_near:
        also = f", on {left_out.champion_near} of them nearly" if left_out.champion_near else ""
        findings.note(f"{by_champion} test rows were left out: the champion had been trained on them{also}")
    for who, count in (("anchor", left_out.anchor_exact), ("challenger", left_out.challenger_exact)):
        if count:
            findings.note(f"{count} test rows were left out: the {who} had been trained on them")
    if record.leakage.champion_near_unknown:
        why = record.leakage.champion_near_unknown
        findings.note(f"test rows that are nearly a training row of the champion were not looked for: {why}")
    if record.positive_label is not None:
        measured = {name for model in record.models.values() for name in model.metrics}
        named = ", ".join(sorted(measured & OF_ONE_LABEL))
        findings.note(f"{named} is the score of label '{record.positive_label}'")
    if record.suspects is not None and record.suspects.telling and (wrong := record.suspects.wrong.get("test")):
        findings.note(f"about {wrong:,} of {record.suspects.rows['test']:,} test labels seem wrong: see suspects.csv")
    champion = record.champion
    if champion is not None and set(champion.labels) != set(record.labels):
        so = "it is wrong on rows of new ones"
        if record.writes == "labels":
            so = "new ones it never gives, and a row with others of its own is wrong, as one decision more"
        findings.note(f"the champion knows other labels ({', '.join(champion.labels)}): {so}")


def _slices(
    policy: Gate, record: EvaluationRecord, rows: Rows | None, alpha: float, findings: Findings
) -> tuple[SliceResult, ...]:
    if policy.slices is None or not (policy.slices.by or policy.slices.patterns):
        return ()
    if record.champion_state == "none":
        findings.note("slices skipped: the channel has no champion yet")
        return ()
    if rows is None or CHAMPION not in rows.answers:
        if not findings.reasons:
            findings.refuse(ReasonCode.CHAMPION_UNREADABLE, "the slices could not be compared")
        return ()
    # Labels go by what is right, whatever the models are compared by.
    metric = compared_by(policy, record.family) if record.writes == "text" else record.share_right
    for name in (FP32, CHAMPION):
        said = rows.answers[name]
        if isinstance(said, TextAnswers) and metric not in said.scores:
            findings.refuse(ReasonCode.METRIC_MISSING, f"{name}: {metric}, which slices go by, was not measured")
            return ()
    results, reasons = judge_slices(policy.slices, rows, record.labels, rows.answers[CHAMPION], alpha, metric=metric)
    findings.extend(reasons)
    small = sum(result.status == "insufficient" for result in results)
    if small:
        which = "1 slice has" if small == 1 else f"{small} slices have"
        findings.note(f"{which} fewer than {policy.slices.min_rows} rows: insufficient")
    return results


def _judge_costs(policy: Gate, record: EvaluationRecord, findings: Findings) -> tuple[BudgetResult, ...]:
    """Parity and budgets of fp32, which is served wherever int8 is not: they bind the challenger."""
    judge_parity(FP32, record.parity.get(FP32), findings, needs_tolerance=True)
    model = record.challenger.get(FP32)
    if record.champion_state == "none" and any(
        budget.ratio and getattr(policy.budgets, name) is not None for name, budget in BUDGETS.items()
    ):
        findings.note("budgets that are ratios skipped: the channel has no champion yet")
    if model is None:
        return ()
    if record.threads not in (None, policy.budgets.threads):
        detail = f"costs were measured with {record.threads} threads, the gate says {policy.budgets.threads}"
        findings.refuse(ReasonCode.BUDGET_NOT_MEASURED, detail)
    return judge_budgets(policy.budgets, FP32, model, record.champion, findings)


def _judge_drift(
    policy: Gate, record: EvaluationRecord, alpha: float, findings: Findings
) -> tuple[DriftResult, ...] | None:
    """How far the data moved. What was not measured blocks where drift may block."""
    if record.champion_state == "none":
        return None
    if record.drift is None:
        cause = record.drift_error or "the champion's bundle holds no profile of its training rows"
        if policy.drift.block:
            findings.refuse(ReasonCode.DRIFT_NOT_MEASURED, f"drift can block, but it was not measured: {cause}")
        else:
            findings.note(f"drift was not measured: {cause}")
        return None
    measures = [_finite(measure, "distance", "p_value") for measure in record.drift]
    results, reasons = judge_drift(policy.drift, measures, alpha)
    findings.extend(reasons)
    for result in results:
        if result.verdict == "warn":
            findings.note(f"drift of {result.measure}: distance {result.distance:.3f}. {result.detail}".rstrip(". "))
    return results


def _finite(record: AnyRecord, *names: str) -> AnyRecord:
    """The same without NaN and infinity among these fields, which a receipt cannot hold."""
    numbers = {name: getattr(record, name) for name in names}
    return record.model_copy(update={name: None for name, value in numbers.items() if not is_number(value)})


def _temperatures(record: EvaluationRecord) -> dict[str, float]:
    """What each model's logits are divided by, where that is a number; of models that write text nothing is."""
    if record.writes == "text":
        return {}
    return {
        name: tidy(model.temperature)
        for name, model in record.models.items()
        if name != BASELINE and math.isfinite(model.temperature)
    }


def _label_counts(record: EvaluationRecord, rows: Rows | None) -> dict[str, int]:
    if rows is None or record.writes == "text":
        return {}
    counts = rows.counts(len(record.labels))
    return {name: int(count) for name, count in zip(record.labels, counts, strict=True)}
