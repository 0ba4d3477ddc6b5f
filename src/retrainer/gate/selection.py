"""Which of several fine-tuned base models becomes the challenger: the best one, unless a cheaper one is as good.

The candidates are compared on validation rows, never on test rows. Whatever rows choose the best of several, the
winner looks better on them than it is, for it also won by luck; the test rows must not know it beforehand, so that
what the gate then says about it is not biased. (That each candidate's best checkpoint was picked on the same
validation rows favours none of them.)

The rule. The candidate with the best value of the metric is compared with each other one, as pairs, each interval at
``alpha / (k - 1)`` for ``k`` candidates. An interval that is above zero sets that candidate aside; the others tie
with the best. Among those that tie the smaller wins, then the faster, then the one with the better value.

Why this correction: a candidate that is truly as good as all others is set aside only if one of the ``k - 1`` others
beats it beyond its interval, so with probability at most ``alpha``, however many there are. Without it the chance to
lose a good small model would grow with the length of the list. This is subset selection (S. Gupta, On some multiple
decision (selection and ranking) rules, Technometrics 7 (1965) 225-245) with Bonferroni's bound in the place of its
tables, so that it holds for any metric. Holm's procedure would be sharper, but has no intervals that the report could
show beside its verdicts.

Pure: no I/O. Not here: scoring and timing (``work/select``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrainer.artifacts.measures import Interval, Latency
from retrainer.artifacts.selection import Candidate, Selection
from retrainer.errors import GateError, IntegrityError
from retrainer.gate.answers import Said
from retrainer.gate.metrics import METRICS, compare, score
from retrainer.gate.tables import Table

# Within these shares two candidates are of one size, and of one speed: noise and a few more tokens in a vocabulary
# are no reason to prefer a model.
SAME_SIZE = 0.01
SAME_SPEED = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """One candidate before it is judged.

    :param base: the base model, which names it.
    :param export: digest of its export artifact.
    :param table: its answers on the validation rows.
    :param size_mb: files that a client downloads, in 10^6 bytes.
    :param positive: index of the label that metrics of one label score.
    """

    base: str
    export: str
    table: Table
    parameters: int | None
    size_mb: float
    latency: Latency
    rows_per_second: float
    peak_memory_mb: float | None = None
    positive: int = 1

    @property
    def answers(self) -> Said:
        """What the statistics need of its answers."""
        return self.table.said(self.positive)


def select(contenders: Sequence[Contender], *, metric: str, metrics: Sequence[str] = (), alpha: float) -> Selection:
    """Choose one. The order in which they are given does not matter.

    :param metric: by which the best is found.
    :param metrics: further ones to report.
    :param alpha: the chance that a candidate as good as every other is set aside; also of each reported interval's
        ends.
    :return: the candidates from the best to the worst value of the metric.
    :raises IntegrityError: they did not answer the same rows, or an answer is not a number.
    :raises GateError: there is none, two are called alike, or the metric or a cost of one cannot be told.
    """
    _must_be_comparable(contenders)
    labels = contenders[0].table.labels
    better = 1.0 if METRICS[metric].known.greater_is_better else -1.0
    values = {one.base: _value(one, metric, better) for one in contenders}
    ranked = sorted(contenders, key=lambda one: (-values[one.base], one.size_mb, _speed(one), one.base))
    best = ranked[0]
    level = alpha / max(len(ranked) - 1, 1)
    candidates = []
    for one in ranked:
        difference = None if one is best else _difference(metric, best, one, level)
        candidates.append(
            Candidate(
                base=one.base,
                export=one.export,
                parameters=one.parameters,
                size_mb=one.size_mb,
                latency_ms=one.latency,
                rows_per_second=one.rows_per_second,
                peak_memory_mb=one.peak_memory_mb,
                metrics={
                    name: score(name, labels, one.answers, alpha) for name in dict.fromkeys([metric, *sorted(metrics)])
                },
                difference=difference,
                distinguishable=difference is not None and difference.low > 0,
            )
        )
    tied = [one for one, judged in zip(ranked, candidates, strict=True) if not judged.distinguishable]
    chosen = _cheapest(tied)
    return Selection(
        metric=metric,
        rows=int(labels.size),
        candidates=tuple(candidates),
        agreement=_agreement(ranked),
        chosen=chosen.base,
        why=_why(metric, best, chosen, tied, candidates),
    )


def _must_be_comparable(contenders: Sequence[Contender]) -> None:
    if not contenders:
        raise GateError("there is no candidate to choose from")
    if len({one.base for one in contenders}) < len(contenders):
        raise GateError("two candidates have one name", hint="list each base model once")
    first = contenders[0].table
    if not first.labels.size:
        raise GateError(
            "there is no validation row to choose by", hint="give the pipeline validation rows, or one base model"
        )
    if len({one.table.scores.shape[1:] for one in contenders}) != 1:
        raise IntegrityError("the candidates do not know the same labels")
    for one in contenders:
        table, where = one.table, f"candidate {one.base}"
        rows = table.labels.size
        if not (np.array_equal(table.row_ids, first.row_ids) and np.array_equal(table.truth, first.truth)):
            raise IntegrityError("the candidates did not answer the same rows", where=where)
        if table.predictions.shape != (rows,) or table.scores.shape[0] != rows:
            raise IntegrityError("an answer is missing", where=where)
        if not np.isfinite(table.scores).all():
            raise IntegrityError("a score is NaN or infinite", where=where)
        if table.unknown_labels():
            raise IntegrityError("a label, true or predicted, is not one of the labels", where=where)
        costs = (one.size_mb, one.latency.p50, one.rows_per_second)
        if any(cost is None or not math.isfinite(cost) or cost <= 0 for cost in costs):
            raise GateError("its size or speed was not measured", where=where)


def _value(one: Contender, metric: str, better: float) -> float:
    value = METRICS[metric].value(one.table.labels, one.answers)
    if not math.isfinite(value):
        raise GateError(f"{metric} has no value on the validation rows", where=f"candidate {one.base}")
    return better * float(value)


def _difference(metric: str, best: Contender, other: Contender, alpha: float) -> Interval:
    try:
        return compare(metric, best.table.labels, best.answers, other.answers, alpha)
    except ValueError as error:
        raise GateError(str(error), where=f"candidates {best.base} and {other.base}") from None


def _speed(one: Contender) -> float:
    """Median time of one text; it was measured, or there is no selection."""
    assert one.latency.p50 is not None, "checked before"
    return one.latency.p50


def _cheapest(ranked: Sequence[Contender]) -> Contender:
    """The smallest; of those about as small the fastest; of those about as fast the best.

    :param ranked: the best first.
    """
    smallest = min(one.size_mb for one in ranked)
    small = [one for one in ranked if one.size_mb <= smallest * (1 + SAME_SIZE)]
    fastest = min(map(_speed, small))
    return next(one for one in small if _speed(one) <= fastest * (1 + SAME_SPEED))


def _agreement(contenders: Sequence[Contender]) -> dict[str, dict[str, float]]:
    """Share of rows on which each two candidates predict the same label."""
    return {
        one.base: {other.base: float((one.table.predictions == other.table.predictions).mean()) for other in contenders}
        for one in contenders
    }


def _why(
    metric: str, best: Contender, chosen: Contender, tied: Sequence[Contender], candidates: Sequence[Candidate]
) -> str:
    shown = {one.base: one.metrics[metric].value for one in candidates}
    rows = f"{best.table.labels.size:,} validation rows"
    leads = f"{best.base} has the best {metric}, {shown[best.base]:.4f}, on {rows}"
    if len(candidates) == 1:
        return f"{best.base} is the only candidate: {metric} {shown[best.base]:.4f} on {rows}"
    if len(tied) == 1:
        return f"{leads}; the difference to each other candidate is beyond chance"
    if chosen is best:
        return f"{leads}; of the {len(tied)} that cannot be told apart from it, itself included, none is cheaper"
    gain = (
        f"smaller: {_apart(chosen.size_mb, best.size_mb, 'MB', 1)}"
        if chosen.size_mb < best.size_mb * (1 - SAME_SIZE)
        else f"faster at the same size: {_apart(_speed(chosen), _speed(best), 'ms', 2)}"
    )
    return f"{leads}; {chosen.base}, {shown[chosen.base]:.4f}, cannot be told apart from it and is {gain}"


def _apart(less: float, more: float, unit: str, digits: int) -> str:
    """``0.46 MB against 0.52 MB``: two different figures with as many digits as show that they differ, and at least so
    many."""
    while digits < 9 and f"{less:,.{digits}f}" == f"{more:,.{digits}f}":
        digits += 1
    return f"{less:,.{digits}f} {unit} against {more:,.{digits}f} {unit}"
