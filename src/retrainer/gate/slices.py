"""Groups of test rows on which the challenger must not have got worse.

The rule. On each group with enough rows challenger and champion are compared by accuracy with McNemar's one-sided
mid-P test of "not worse"; where the models write text, by the metric that the gate compares them by: by exact match
with the same test, by a mean of row scores with the score test (``mean_interval.py``). The p values of all groups, over
all columns, are corrected together by Holm's method. A pattern makes one group, of the rows in which it is found. A
group refuses when both hold: its corrected p value is at most alpha, so chance is excluded with a family-wise error of
alpha; and its score fell by more than the tolerated ``max_drop``. Small losses that are certain and large ones that may
be chance do not refuse. Groups below ``min_rows`` are ``insufficient``, a group without any row refuses, and so does a
column that the rows do not have. Where a row has any number of labels, each label makes a group, of the rows that have
it, and rows without any make one: these groups overlap. There accuracy is the share of rows whose set is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.answers import Floats, Said, TextAnswers
from retrainer.gate.mean_interval import Mean
from retrainer.gate.paired import holm, probability_not_worse, tidy
from retrainer.gate.receipt import Reason, ReasonCode, SliceResult
from retrainer.gate.tables import NONE
from retrainer.gate.validity import Rows
from retrainer.precisions import REFERENCE
from retrainer.spec.gate import Slices
from retrainer.spec.known_metrics import SHARE_RIGHT

LENGTH_BUCKETS = 4
MOST_VALUES = 500
MISSING = "(missing)"

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grouping:
    """One way to group the rows.

    :param values: what the groups are called.
    :param codes: group of each row, ``[n]``; -1 for a row in none.
    """

    by: str
    values: tuple[str, ...]
    codes: Ints

    def counts(self, mask: NDArray[np.bool_] | None = None) -> Ints:
        """Rows of each group, or those of them in the mask."""
        inside = self.codes >= 0 if mask is None else mask & (self.codes >= 0)
        return np.bincount(self.codes[inside], minlength=len(self.values))


def judge_slices(
    policy: Slices,
    rows: Rows,
    label_names: tuple[str, ...],
    champion: Said,
    alpha: float,
    *,
    metric: str = SHARE_RIGHT["classification"],
) -> tuple[tuple[SliceResult, ...], list[Reason]]:
    """Every group of every column and every pattern that the policy names.

    :param champion: what the champion said, in the order of ``rows``.
    :param metric: by which groups are compared: the share of rows that are right, or one of the scores of texts.
    """
    groupings, reasons = groups(policy, rows, label_names)
    challenger = rows.answers[REFERENCE]
    names = [(grouping.by, value) for grouping in groupings for value in grouping.values]
    sizes = _by_group(groupings, lambda grouping: grouping.counts())
    if isinstance(challenger, TextAnswers) and isinstance(champion, TextAnswers) and metric not in SHARE_RIGHT.values():
        sums, sums_champion, p_value_of = _scores(groupings, challenger.scores[metric], champion.scores[metric])
    else:
        right, right_champion = challenger.right(rows.labels), champion.right(rows.labels)
        sums, sums_champion, p_value_of = _rights(groupings, right, right_champion)
    reasons += [
        Reason(code=ReasonCode.SLICE_EMPTY, detail=f"{by} = {value}: no test row")
        for (by, value), n in zip(names, sizes, strict=True)
        if n == 0
    ]
    enough = np.flatnonzero(sizes >= policy.min_rows)
    p_values = p_value_of(enough)
    corrected = dict(zip(enough.tolist(), zip(p_values, holm(p_values), strict=True), strict=True))
    results = []
    for at, (by, value) in enumerate(names):
        n = int(sizes[at])
        if at not in corrected:
            results.append(SliceResult(by=by, value=value, rows=n, status="insufficient", **_named(metric)))
            continue
        p_value, holm_p = corrected[at]
        score, score_champion = float(sums[at] / n), float(sums_champion[at] / n)
        drop = score_champion - score
        got_worse = bool(holm_p <= alpha) and tidy(drop) > policy.max_drop
        if got_worse:
            reasons.append(
                Reason(
                    code=ReasonCode.SLICE_WORSE,
                    detail=f"{by} = {value}: {metric} {score:.4f} is {drop:.4f} below the champion's "
                    f"{score_champion:.4f} on {n:,} rows; a loss of {policy.max_drop:g} is tolerated "
                    f"(corrected p {holm_p:.2g}, alpha {alpha:g})",
                )
            )
        results.append(
            SliceResult(
                by=by,
                value=value,
                rows=n,
                status="worse" if got_worse else "ok",
                **_named(metric, tidy(score), tidy(score_champion)),
                difference=tidy(-drop),
                p_value=tidy(p_value),
                holm=tidy(holm_p),
            )
        )
    return tuple(results), reasons


# Of the groups at these positions the p values of "not worse".
PValuesOf = Callable[[Ints], Floats]


def _by_group(groupings: list[Grouping], of: Callable[[Grouping], NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([of(grouping) for grouping in groupings] or [np.zeros(0, dtype=np.int64)])


def _rights(
    groupings: list[Grouping], right: NDArray[np.bool_], right_champion: NDArray[np.bool_]
) -> tuple[NDArray[Any], NDArray[Any], PValuesOf]:
    """How many rows of each group the challenger has right, and the champion; and by what they are compared."""

    def counted(mask: NDArray[np.bool_]) -> Ints:
        return _by_group(groupings, lambda grouping: grouping.counts(mask))

    better, worse = counted(right & ~right_champion), counted(right_champion & ~right)
    return counted(right), counted(right_champion), lambda at: probability_not_worse(better[at], worse[at])


def _scores(
    groupings: list[Grouping], scores: Floats, scores_champion: Floats
) -> tuple[NDArray[Any], NDArray[Any], PValuesOf]:
    """The same of the sums of scores between 0 and 1."""
    members = [np.flatnonzero(grouping.codes == code) for grouping in groupings for code in range(len(grouping.values))]
    sums, sums_champion = (
        np.array([float(values[rows].sum()) for rows in members]) for values in (scores, scores_champion)
    )

    def p_value_of(at: Ints) -> Floats:
        differences = ((scores - scores_champion)[members[group]] for group in at.tolist())
        return np.array([Mean(found, -1.0, 1.0).probability_not_below(0.0) for found in differences])

    return sums, sums_champion, p_value_of


def _named(metric: str, challenger: float | None = None, champion: float | None = None) -> dict[str, Any]:
    """The fields of a result that hold them. Accuracy has its own, as old as the receipts."""
    if metric == SHARE_RIGHT["classification"]:
        return {"challenger_accuracy": challenger, "champion_accuracy": champion}
    return {"metric": metric, "challenger_score": challenger, "champion_score": champion}


def groups(policy: Slices, rows: Rows, label_names: tuple[str, ...]) -> tuple[list[Grouping], list[Reason]]:
    """The ways to group the rows that the policy names, and why some cannot be made."""
    groupings: list[Grouping] = []
    reasons: list[Reason] = []
    for found in (
        *(_groupings(by, rows, label_names) for by in policy.by),
        *(_by_pattern(pattern, rows) for pattern in policy.patterns),
    ):
        if isinstance(found, Reason):
            reasons.append(found)
        else:
            groupings += found
    return groupings, reasons


def _groupings(by: str, rows: Rows, label_names: tuple[str, ...]) -> list[Grouping] | Reason:
    if by == "label" and rows.sets is not None:
        having = [*zip(label_names, rows.sets.T, strict=True)]
        without = np.logical_not(rows.sets.any(axis=1))
        if without.any():
            having.append((_none(label_names), without))
        return [_of_mask(by, name, mask) for name, mask in having]
    if by == "label" and label_names:
        return [Grouping(by, label_names, rows.labels)]
    if by == "length":
        if rows.characters is None:
            return Reason(code=ReasonCode.SLICE_MISSING, detail="length: the lengths of the texts were not kept")
        return [_by_length(rows.characters)]
    column = rows.slices.get(by)
    if column is None:
        known = ", ".join([*(["label"] if label_names else []), "length", *sorted(rows.slices)])
        return Reason(code=ReasonCode.SLICE_MISSING, detail=f"{by}: the test rows have only {known}")
    if not (column != "").any():
        return Reason(code=ReasonCode.SLICE_EMPTY, detail=f"{by}: no test row has a value")
    return _by_value(by, column)


def _none(label_names: tuple[str, ...]) -> str:
    """What rows without labels are called, which is not the name of a label."""
    name = NONE
    while name in label_names:
        name = f"({name})"
    return name


def _of_mask(by: str, value: str, mask: NDArray[np.bool_]) -> Grouping:
    """One group, beside which there are other rows."""
    return Grouping(by, (value,), np.where(mask, 0, -1))


def _by_pattern(pattern: str, rows: Rows) -> list[Grouping] | Reason:
    found = rows.patterns.get(pattern)
    if found is None:
        detail = f"pattern {pattern}: the test rows were not searched for it"
        return Reason(code=ReasonCode.SLICE_MISSING, detail=detail)
    return [_of_mask("pattern", pattern, found)]


def _by_value(by: str, column: NDArray[Any]) -> list[Grouping] | Reason:
    values, codes = np.unique(column, return_inverse=True)
    if values.size > MOST_VALUES:
        detail = f"{by}: {values.size} different values, at most {MOST_VALUES} can be slices"
        return Reason(code=ReasonCode.SLICE_UNUSABLE, detail=detail)
    return [Grouping(by, tuple(str(value) or MISSING for value in values), codes.astype(np.int64))]


def _by_length(characters: Ints) -> Grouping:
    """Quarters of the rows by length; fewer where many rows are equally long."""
    inner = np.quantile(characters, np.arange(1, LENGTH_BUCKETS) / LENGTH_BUCKETS, method="lower")
    highest = np.unique([*inner, characters.max()])
    lowest = [int(characters.min()), *(int(high) + 1 for high in highest[:-1])]
    names = tuple(f"{low}-{high} characters" for low, high in zip(lowest, highest.tolist(), strict=True))
    return Grouping("length", names, np.searchsorted(highest, characters))
