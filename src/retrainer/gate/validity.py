"""Whether the evidence can be judged at all: same rows, same true answers, real probabilities or scores.

Every table is brought into the order of its row ids, so nothing after this depends on the order in which rows
were written. A table that fails is left out, with a reason for each failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.artifacts.evaluation import ANCHOR, CHAMPION, ChampionEvidence, EvaluationRecord
from retrainer.gate.answers import EXACT_MATCH, Rights, Said, same_text
from retrainer.gate.evidence import Evidence
from retrainer.gate.receipt import Reason, ReasonCode
from retrainer.gate.tables import SetTable, Table, TextTable
from retrainer.precisions import REFERENCE
from retrainer.spec.known_metrics import KNOWN_METRICS

FP32 = REFERENCE
# Rounding of probabilities that were stored as 32-bit floats somewhere on their way.
PROBABILITY_SLACK = 1e-3
TIE_SLACK = 1e-6
# They may know labels that the challenger does not.
LIVE_BEFORE = frozenset({CHAMPION, ANCHOR})


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The test rows in the order of their ids, with what each model said.

    :param labels: true labels, ``[n]``; all 0 where the task writes text, or a row has any number of labels.
    :param answers: precision, ``champion``, ``anchor`` or ``baseline``, to answers; those that can be trusted.
    :param characters: ``[n]`` or ``None``.
    :param slices: column to ``[n]`` of str.
    :param patterns: pattern to ``[n]`` bool.
    :param row_ids: ``[n]`` of str; empty where nobody asks for them.
    :param sets: which labels each row has, ``[n, labels]``; ``None`` where that is not any number of them.
    """

    labels: NDArray[np.int64]
    answers: Mapping[str, Said]
    characters: NDArray[np.int64] | None
    slices: Mapping[str, NDArray[Any]]
    patterns: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    row_ids: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    sets: Rights | None = None

    def counts(self, n_labels: int) -> NDArray[np.int64]:
        """How many rows have each label, ``[labels]``."""
        if self.sets is None:
            return np.bincount(self.labels, minlength=n_labels)
        counts: NDArray[np.int64] = np.count_nonzero(self.sets, axis=0)
        return counts


def check(evidence: Evidence) -> tuple[Rows | None, list[Reason]]:
    """The rows that can be judged, and everything that is wrong with the evidence.

    ``None`` when the challenger itself cannot be judged.
    """
    record = evidence.record
    reasons = [*evidence.problems.values(), *_contradictions(record)]
    reasons += [
        _reason(ReasonCode.EVIDENCE_INCONSISTENT, f"{name}: there are predictions of a model that was not measured")
        for name in sorted(set(evidence.tables) - set(record.models))
    ]
    ordered: dict[str, Table] = {}
    orders = _Orders()
    for name in record.models:
        table = evidence.tables.get(name)
        if table is None:
            if name not in evidence.problems:
                reasons.append(_reason(ReasonCode.PREDICTIONS_MISSING, f"{name}: there are no predictions"))
            continue
        problems = list(_table_problems(name, table, record, orders))
        reasons += problems
        if not problems:
            ordered[name] = _sorted(table, orders)
    reference = ordered.get(FP32)
    if reference is None:
        return None, reasons
    if reference.labels.size != record.rows:
        detail = f"{reference.labels.size} rows were written, while the evaluation counted {record.rows}"
        reasons.append(_reason(ReasonCode.EVIDENCE_INCONSISTENT, detail))
    answers = {}
    for name, table in ordered.items():
        if table.row_ids is not reference.row_ids and not np.array_equal(table.row_ids, reference.row_ids):
            differing = np.setxor1d(table.row_ids, reference.row_ids).size
            detail = f"{name}: {differing} row ids are not those of {FP32}"
            reasons.append(_reason(ReasonCode.ROWS_MISALIGNED, detail))
        elif not np.array_equal(table.truth, reference.truth):
            differing = int((table.truth != reference.truth).sum())
            detail = f"{name}: {differing} rows have another true label than in {FP32}"
            reasons.append(_reason(ReasonCode.ROWS_MISALIGNED, detail))
        else:
            answers[name] = table.said(record.positive)
    if record.writes != "text" and np.unique(reference.truth).size < 2:
        detail = f"all {reference.labels.size} test rows have {_only(record, reference)}"
        reasons.append(_reason(ReasonCode.SINGLE_LABEL, detail))
        return None, reasons
    found = Rows(
        reference.labels,
        answers,
        reference.characters,
        reference.slices,
        _patterns(record, reference),
        row_ids=reference.row_ids,
        sets=reference.sets,
    )
    return found, reasons


def _only(record: EvaluationRecord, table: Table) -> str:
    """What the first row has."""
    if table.sets is None:
        return f"the label {record.labels[int(table.labels[0])]!r}"
    names = [record.labels[at] for at in np.flatnonzero(table.sets[0])]
    return f"the labels {names}" if names else "none of the labels"


def _patterns(record: EvaluationRecord, table: Table) -> dict[str, NDArray[np.bool_]]:
    """Which rows each pattern is found in; none of them where the columns are not those of the record."""
    found = table.patterns
    if found is None or found.ndim != 2 or found.shape[1] != len(record.patterns):
        return {}
    return {pattern: found[:, position] for position, pattern in enumerate(record.patterns)}


def _reason(code: ReasonCode, detail: str) -> Reason:
    return Reason(code=code, detail=detail)


def _contradictions(record: EvaluationRecord) -> list[Reason]:
    """What the record says against itself."""
    found = []
    if FP32 not in record.challenger:
        found.append(f"the challenger was not evaluated in {FP32}")
    if record.writes == "text" and record.labels:
        found.append(f"its task writes text, and it has the labels {list(record.labels)}")
    elif record.writes != "text" and (len(record.labels) < 2 or len(set(record.labels)) != len(record.labels)):
        found.append(f"the labels {list(record.labels)} are not at least two different ones")
    for name, model in record.models.items():
        if (model.thresholds is not None) is not (record.writes == "labels"):
            has = "has no thresholds" if model.thresholds is None else "has thresholds for its labels"
            found.append(f"{name} {has}, and its task is {record.task}")
        elif model.thresholds is not None and len(model.thresholds) != len(_own_labels(name, record)):
            found.append(f"{name} has {len(model.thresholds)} thresholds for {len(_own_labels(name, record))} labels")
    if record.champion_state == "present" and record.champion is None:
        found.append("there is a champion, but nothing was measured of it")
    if record.champion_state == "none" and record.champion is not None:
        found.append("there is no champion, but something was measured of it")
    if record.champion_state == "none" and record.anchor is not None:
        found.append("there is no champion, but an anchor was measured")
    if record.champion_state == "none" and record.champion_error:
        found.append(f"there is no champion, but it had an error: {record.champion_error}")
    if record.excluded_rows < 0:
        found.append(f"{record.excluded_rows} rows were left out")
    return [_reason(ReasonCode.EVIDENCE_INCONSISTENT, detail) for detail in found]


def _table_problems(name: str, table: Table, record: EvaluationRecord, orders: _Orders) -> list[Reason]:
    n = table.row_ids.size
    if n == 0:
        return [_reason(ReasonCode.NO_ROWS, f"{name}: no test row was scored")]
    columns = [table.truth, table.predictions, *table.slices.values()]
    columns += [table.characters] if table.characters is not None else []
    if any(column.shape != (n,) for column in columns):
        return [_reason(ReasonCode.ROWS_MISALIGNED, f"{name}: the columns differ in length")]
    problems = []
    repeated = orders.of(table.row_ids).repeated
    if repeated:
        problems.append(_reason(ReasonCode.ROWS_DUPLICATED, f"{name}: {repeated} rows occur more than once"))
    return problems + _said_problems(table, name, record)


@singledispatch
def _said_problems(table: Table, name: str, record: EvaluationRecord) -> list[Reason]:
    """What is wrong with what was said: here with one label of each row."""
    n, n_labels = table.row_ids.size, len(record.labels)
    if table.scores.shape != (n, n_labels):
        return [_misshapen(table, name, n_labels)]
    lowest = -1 if name in LIVE_BEFORE else 0
    bad = _outside(table.labels, 0, n_labels) + _outside(table.predictions, lowest, n_labels)
    problems = []
    if bad:
        detail = f"{name}: {bad} labels or predictions are not among the {n_labels} labels"
        problems.append(_reason(ReasonCode.LABELS_INVALID, detail))
    problems += _score_problems(name, table, usable=not bad)
    return problems


def _misshapen(table: Table, name: str, n_labels: int) -> Reason:
    n = table.row_ids.size
    shape = f"{n} rows of {n_labels} labels need scores of shape {(n, n_labels)}, not {table.scores.shape}"
    return _reason(ReasonCode.SCORES_INVALID, f"{name}: {shape}")


@_said_problems.register
def _(table: TextTable, name: str, record: EvaluationRecord) -> list[Reason]:
    """In the scores of texts."""
    if EXACT_MATCH not in table.metrics:
        return [_reason(ReasonCode.PREDICTIONS_UNREADABLE, f"{name}: the rows have no score for {EXACT_MATCH}")]
    ends = [(KNOWN_METRICS[metric].lowest, KNOWN_METRICS[metric].highest) for metric in table.metrics]
    lowest, highest = (np.array(side) for side in zip(*ends, strict=True))
    # So written that NaN is outside, too.
    unfit = int((~((table.scores >= lowest) & (table.scores <= highest))).any(axis=1).sum())
    if unfit:
        return [_reason(ReasonCode.SCORES_INVALID, f"{name}: {unfit} rows have a score that is out of range, or none")]
    matches = table.scores[:, table.metrics.index(EXACT_MATCH)]
    same = np.array([same_text(text, targets) for text, targets in zip(table.predictions, table.targets, strict=True)])
    wrong = int((matches != same).sum())
    if wrong:
        detail = f"{name}: {wrong} rows have a score for {EXACT_MATCH} that their texts do not give"
        return [_reason(ReasonCode.PREDICTIONS_INCONSISTENT, detail)]
    return []


@_said_problems.register
def _(table: SetTable, name: str, record: EvaluationRecord) -> list[Reason]:
    """In any number of labels: each applies from its threshold on."""
    if table.scores.shape != (table.row_ids.size, len(record.labels)):
        return [_misshapen(table, name, len(record.labels))]
    problems = []
    bad = table.malformed + (0 if name in LIVE_BEFORE else int(table.foreign.sum()))
    if bad:
        detail = f"{name}: {bad} rows do not list labels, each once, among the {len(record.labels)}"
        problems.append(_reason(ReasonCode.LABELS_INVALID, detail))
    # So written that NaN is outside, too.
    outside = ~((table.scores >= -PROBABILITY_SLACK) & (table.scores <= 1 + PROBABILITY_SLACK))
    if outside.any():
        detail = f"{name}: {int(outside.any(axis=1).sum())} rows have scores that are not probabilities"
        return [*problems, _reason(ReasonCode.SCORES_INVALID, detail)]
    thresholds = _thresholds(name, record)
    # Below a threshold nothing applies, from it on everything, but for rounding. So written that NaN differs.
    above, below = table.scores >= thresholds - TIE_SLACK, table.scores < thresholds + TIE_SLACK
    differ = ~np.where(table.applies, above, below)
    if differ.any():
        rows = int(differ.any(axis=1).sum())
        detail = f"{name}: {rows} rows are given labels that their scores and thresholds do not give"
        problems.append(_reason(ReasonCode.PREDICTIONS_INCONSISTENT, detail))
    return problems


def _thresholds(name: str, record: EvaluationRecord) -> NDArray[np.float64]:
    """Of each of the challenger's labels, infinite for one that a model does not know; that there are as many as it has
    labels is looked at elsewhere.
    """
    own = dict(zip(_own_labels(name, record), record.models[name].thresholds or (), strict=False))
    return np.array([own.get(label, np.inf) for label in record.labels])


def _own_labels(name: str, record: EvaluationRecord) -> tuple[str, ...]:
    model = record.models[name]
    return model.labels if isinstance(model, ChampionEvidence) else record.labels


def _score_problems(name: str, table: Table, *, usable: bool) -> list[Reason]:
    scores = table.scores
    unfit = int((~np.isfinite(scores)).any(axis=1).sum())
    if unfit:
        return [_reason(ReasonCode.SCORES_INVALID, f"{name}: {unfit} rows have a score that is NaN or infinite")]
    totals = scores.sum(axis=1)
    # The scores of labels that only it knows are left out, so its rows may sum to less.
    short = np.zeros(totals.shape, dtype=bool) if name in LIVE_BEFORE else totals < 1 - PROBABILITY_SLACK
    outside = (scores < -PROBABILITY_SLACK).any(axis=1) | (totals > 1 + PROBABILITY_SLACK) | short
    if outside.any():
        detail = f"{name}: {int(outside.sum())} rows have scores that are not probabilities"
        return [_reason(ReasonCode.SCORES_INVALID, detail)]
    if not usable:
        return []
    known = table.predictions >= 0
    chosen = scores[np.arange(known.size), np.maximum(table.predictions, 0)]
    lower = int((known & (chosen < scores.max(axis=1) - TIE_SLACK)).sum())
    if lower:
        detail = f"{name}: {lower} rows have a prediction that does not score highest"
        return [_reason(ReasonCode.PREDICTIONS_INCONSISTENT, detail)]
    return []


def _outside(values: NDArray[np.int64], low: int, high: int) -> int:
    return int(((values < low) | (values >= high)).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Order:
    """How rows are brought into the order of their ids.

    :param given: the ids as they stood; ``row_ids`` in order.
    :param order: position of each row in ``given``; ``None`` when they are in order already.
    :param repeated: rows whose id another row has too.
    """

    given: NDArray[Any]
    row_ids: NDArray[Any]
    order: NDArray[np.int64] | None
    repeated: int

    def apply(self, column: NDArray[Any]) -> NDArray[Any]:
        """A column in the order of the ids."""
        # Several times as fast as indexing; no position is out of range, so nothing is clipped.
        return column if self.order is None else np.take(column, self.order, axis=0, mode="clip")


class _Orders:
    """The order of each table's rows. Models that were scored in the same order share it: sorting ids is slow."""

    def __init__(self) -> None:
        self._known: list[_Order] = []

    def of(self, row_ids: NDArray[Any]) -> _Order:
        """The order of these ids."""
        for known in self._known:
            if row_ids is known.given or np.array_equal(row_ids, known.given):
                return known
        order = np.argsort(row_ids, kind="stable").astype(np.int64)
        in_order = bool((order == np.arange(order.size)).all())
        ordered = row_ids if in_order else row_ids[order]
        repeated = int((ordered[1:] == ordered[:-1]).sum())
        found = _Order(row_ids, ordered, None if in_order else order, repeated)
        self._known.append(found)
        return found


def _sorted(table: Table, orders: _Orders) -> Table:
    found = table.taken(orders.of(table.row_ids).apply)
    if found.scores.min() < 0.0 or found.scores.max() > 1.0:
        found = replace(found, scores=np.clip(found.scores, 0.0, 1.0))
    # One array of ids for all that were scored in the same order.
    return replace(found, row_ids=orders.of(table.row_ids).row_ids)
