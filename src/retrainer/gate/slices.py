"""Groups of test rows on which the challenger must not have got worse.

The rule. On each group with enough rows challenger and champion are compared by accuracy with McNemar's one-sided
mid-P test of "not worse". The p values of all groups, over all columns, are corrected together by Holm's method. A
pattern makes one group, of the rows in which it is found. A group refuses when both hold: its corrected p value is
at most alpha, so chance is excluded with a family-wise error of alpha; and its accuracy fell by more than the
tolerated ``max_drop``. Small losses that are certain and large ones that may be chance do not refuse. Groups below
``min_rows`` are ``insufficient``, a group without any row refuses, and so does a column that the rows do not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.paired import holm, probability_not_worse, tidy
from retrainer.gate.receipt import Reason, ReasonCode, SliceResult
from retrainer.gate.validity import Rows
from retrainer.precisions import REFERENCE
from retrainer.spec.gate import Slices

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
    policy: Slices, rows: Rows, label_names: tuple[str, ...], champion: Ints, alpha: float
) -> tuple[tuple[SliceResult, ...], list[Reason]]:
    """Every group of every column and every pattern that the policy names.

    :param champion: the champion's predictions, ``[n]``, in the order of ``rows``.
    """
    groupings, reasons = groups(policy, rows, label_names)
    right = rows.labels == rows.answers[REFERENCE].predictions
    right_champion = rows.labels == champion
    names = [(grouping.by, value) for grouping in groupings for value in grouping.values]

    def counted(mask: NDArray[np.bool_] | None = None) -> Ints:
        return np.concatenate([grouping.counts(mask) for grouping in groupings] or [np.zeros(0, dtype=np.int64)])

    sizes = counted()
    rights, rights_champion = counted(right), counted(right_champion)
    better, worse = counted(right & ~right_champion), counted(right_champion & ~right)
    reasons += [
        Reason(code=ReasonCode.SLICE_EMPTY, detail=f"{by} = {value}: no test row")
        for (by, value), n in zip(names, sizes, strict=True)
        if n == 0
    ]
    enough = np.flatnonzero(sizes >= policy.min_rows)
    p_values = probability_not_worse(better[enough], worse[enough])
    corrected = dict(zip(enough.tolist(), zip(p_values, holm(p_values), strict=True), strict=True))
    results = []
    for at, (by, value) in enumerate(names):
        n = int(sizes[at])
        if at not in corrected:
            results.append(SliceResult(by=by, value=value, rows=n, status="insufficient"))
            continue
        p_value, holm_p = corrected[at]
        challenger_accuracy, champion_accuracy = float(rights[at] / n), float(rights_champion[at] / n)
        drop = champion_accuracy - challenger_accuracy
        got_worse = bool(holm_p <= alpha) and tidy(drop) > policy.max_drop
        if got_worse:
            reasons.append(
                Reason(
                    code=ReasonCode.SLICE_WORSE,
                    detail=f"{by} = {value}: accuracy {challenger_accuracy:.4f} is {drop:.4f} below the champion's "
                    f"{champion_accuracy:.4f} on {n:,} rows; a loss of {policy.max_drop:g} is tolerated "
                    f"(corrected p {holm_p:.2g}, alpha {alpha:g})",
                )
            )
        results.append(
            SliceResult(
                by=by,
                value=value,
                rows=n,
                status="worse" if got_worse else "ok",
                challenger_accuracy=tidy(challenger_accuracy),
                champion_accuracy=tidy(champion_accuracy),
                difference=tidy(-drop),
                p_value=tidy(p_value),
                holm=tidy(holm_p),
            )
        )
    return tuple(results), reasons


def groups(policy: Slices, rows: Rows, label_names: tuple[str, ...]) -> tuple[list[Grouping], list[Reason]]:
    """The ways to group the rows that the policy names, and why some cannot be made."""
    groupings: list[Grouping] = []
    reasons: list[Reason] = []
    for found in (
        *(_grouping(by, rows, label_names) for by in policy.by),
        *(_by_pattern(pattern, rows) for pattern in policy.patterns),
    ):
        if isinstance(found, Reason):
            reasons.append(found)
        else:
            groupings.append(found)
    return groupings, reasons


def _grouping(by: str, rows: Rows, label_names: tuple[str, ...]) -> Grouping | Reason:
    if by == "label":
        return Grouping(by, label_names, rows.labels)
    if by == "length":
        if rows.characters is None:
            return Reason(code=ReasonCode.SLICE_MISSING, detail="length: the lengths of the texts were not kept")
        return _by_length(rows.characters)
    column = rows.slices.get(by)
    if column is None:
        known = ", ".join(["label", "length", *sorted(rows.slices)])
        return Reason(code=ReasonCode.SLICE_MISSING, detail=f"{by}: the test rows have only {known}")
    if not (column != "").any():
        return Reason(code=ReasonCode.SLICE_EMPTY, detail=f"{by}: no test row has a value")
    return _by_value(by, column)


def _by_pattern(pattern: str, rows: Rows) -> Grouping | Reason:
    found = rows.patterns.get(pattern)
    if found is None:
        detail = f"pattern {pattern}: the test rows were not searched for it"
        return Reason(code=ReasonCode.SLICE_MISSING, detail=detail)
    return Grouping("pattern", (pattern,), np.where(found, 0, -1))


def _by_value(by: str, column: NDArray[Any]) -> Grouping | Reason:
    values, codes = np.unique(column, return_inverse=True)
    if values.size > MOST_VALUES:
        detail = f"{by}: {values.size} different values, at most {MOST_VALUES} can be slices"
        return Reason(code=ReasonCode.SLICE_UNUSABLE, detail=detail)
    return Grouping(by, tuple(str(value) or MISSING for value in values), codes.astype(np.int64))


def _by_length(characters: Ints) -> Grouping:
    """Quarters of the rows by length; fewer where many rows are equally long."""
    inner = np.quantile(characters, np.arange(1, LENGTH_BUCKETS) / LENGTH_BUCKETS, method="lower")
    highest = np.unique([*inner, characters.max()])
    lowest = [int(characters.min()), *(int(high) + 1 for high in highest[:-1])]
    names = tuple(f"{low}-{high} characters" for low, high in zip(lowest, highest.tolist(), strict=True))
    return Grouping("length", names, np.searchsorted(highest, characters))
