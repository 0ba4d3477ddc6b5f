"""The evidence of a night as it would have been: with another champion or anchor than the recorded ones.

Answers come from other evaluations of the same rows. What was measured in one breath with the champion cannot be had:
ratios of time and memory, and how far the training rows moved from its own. Such conditions are left out, and named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from retrainer.artifacts.evaluation import ANCHOR, CHAMPION, ChampionEvidence, EvaluationRecord, PredictionsFile
from retrainer.audit.answers import Found
from retrainer.gate.evidence import Evidence
from retrainer.gate.metrics import METRICS, metrics_of
from retrainer.gate.tables import Table
from retrainer.precisions import REFERENCE
from retrainer.spec.budgets import BUDGETS
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import OF_ONE_LABEL


@dataclass(frozen=True, slots=True, eq=False)
class Stand:
    """A model that a challenger is held against instead of the recorded one.

    :param name: its version, or what stands for it.
    """

    name: str
    found: Found


def with_models(evidence: Evidence, champion: Stand | None, anchor: Stand | None) -> Evidence:
    """The evidence against these two.

    :param champion: ``None`` for a channel that has none.
    :param anchor: ``None`` where it is the champion, or nobody asks for it.
    """
    record = evidence.record
    others = {CHAMPION: champion, ANCHOR: anchor}
    changes = {
        "champion_state": "none" if champion is None else "present",
        "champion": _measured(record, champion, with_size=True),
        "champion_error": None,
        "anchor": _measured(record, anchor, with_size=False),
        "anchor_error": None,
        "drift": None,
        "drift_error": "it was measured against the champion of the record only",
    }
    tables = {name: table for name, table in evidence.tables.items() if name not in others}
    tables |= {name: stand.found.table for name, stand in others.items() if stand is not None}
    return replace(evidence, record=record.model_copy(update=changes), tables=tables)


def with_anchor(evidence: Evidence, anchor: Stand | None) -> Evidence:
    """The same with another anchor only."""
    changes = {"anchor": _measured(evidence.record, anchor, with_size=False), "anchor_error": None}
    tables = {name: table for name, table in evidence.tables.items() if name != ANCHOR}
    tables |= {ANCHOR: anchor.found.table} if anchor is not None else {}
    return replace(evidence, record=evidence.record.model_copy(update=changes), tables=tables)


def _measured(record: EvaluationRecord, stand: Stand | None, *, with_size: bool) -> ChampionEvidence | None:
    if stand is None:
        return None
    table, measured = stand.found.table, stand.found.measured
    return ChampionEvidence(
        metrics={name: _value(record, table, name) for name in record.challenger[REFERENCE].metrics},
        # Files have the same size each night; time and memory are compared within one only.
        size_mb=measured.size_mb if with_size else None,
        temperature=measured.temperature,
        thresholds=measured.thresholds,
        predictions=PredictionsFile(file=measured.predictions.file, sha256=table.sha256),
        version=stand.name,
        labels=stand.found.labels,
    )


def without_what_needs_the_champion(policy: Gate, evidence: Evidence) -> tuple[Gate, list[str]]:
    """The policy as far as it can be applied to a champion that is not the recorded one, and what was left out."""
    champion = evidence.record.champion
    if champion is None:
        return policy, []
    ratios = [
        name
        for name, budget in BUDGETS.items()
        if budget.ratio
        and getattr(policy.budgets, name) is not None
        and not (budget.cost == "size_mb" and champion.size_mb is not None)
    ]
    left_out = [f"budgets.{name}" for name in ratios] + [f"drift.block.{kind}" for kind in policy.drift.block]
    changes = {
        "budgets": policy.budgets.model_copy(update=dict.fromkeys(ratios)),
        "drift": policy.drift.model_copy(update={"block": {}}),
    }
    return policy.model_copy(update=changes), left_out


def with_metrics(policy: Gate, evidence: Evidence) -> Evidence:
    """The same with the metrics that a policy needs and nobody asked for then: they follow from the answers."""
    record = evidence.record
    against = policy.against_champion
    needed = {*policy.floors, *([against.metric] if against else [])} & metrics_of(record.family).keys()
    if record.positive_label is None:
        needed -= OF_ONE_LABEL  # whose score it would be, nobody said

    def complete(name: str) -> dict[str, float | None]:
        known, table = record.models[name].metrics, evidence.tables.get(name)
        more = needed - known.keys() if table is not None else set()
        return {**known, **{metric: _value(record, table, metric) for metric in sorted(more) if table is not None}}

    challenger = {
        name: model.model_copy(update={"metrics": complete(name)}) for name, model in record.challenger.items()
    }
    changes = {"challenger": challenger}
    if record.champion is not None:
        changes["champion"] = record.champion.model_copy(update={"metrics": complete(CHAMPION)})  # type: ignore[assignment]
    return replace(evidence, record=record.model_copy(update=changes))


def _value(record: EvaluationRecord, table: Table, metric: str) -> float | None:
    value = float(METRICS[metric].value(table.labels, table.said(record.positive)))
    return value if math.isfinite(value) else None
