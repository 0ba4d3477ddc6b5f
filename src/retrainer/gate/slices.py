"""Groups of test rows on which the challenger must not have got worse.

The rule. On each group with enough rows challenger and champion are compared by accuracy with McNemar's one-sided
mid-P test of "not worse". The p values of all groups, over all columns, are corrected together by Holm's method. A
pattern makes one group, of the rows in which it is found. A group refuses when both hold: its corrected p value is
at most alpha, so chance is excluded with a family-wise error of alpha; and its accuracy fell by more than the
tolerated ``max_drop``. Small losses that are certain and large ones that may be chance do not refuse. Groups below
``min_rows`` are ``insufficient``, a group without any row refuses, and so does a column that the rows do not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.paired import holm, probability_not_worse, tidy
from retrainer.gate.records import Reason, ReasonCode, SliceResult
from retrainer.gate.validity import Rows
from retrainer.spec.model import Slices

LENGTH_BUCKETS = 4
MOST_VALUES = 500
MISSING = "(missing)"

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Group:
    by: str
    value: str
    mask: Mask


def judge_slices(
    policy: Slices, rows: Rows, label_names: tuple[str, ...], champion: NDArray[np.int64], alpha: float
) -> tuple[tuple[SliceResult, ...], list[Reason]]:
    """Every group of every column and every pattern that the policy names.

    :param champion: the champion's predictions, ``[n]``, in the order of ``rows``.
    """
    groups: list[_Group] = []
    reasons: list[Reason] = []
    for by in policy.by:
        found = _groups(by, rows, label_names)
        if isinstance(found, Reason):
            reasons.append(found)
        else:
            groups += found
    for pattern in policy.patterns:
        mask = rows.patterns.get(pattern)
        if mask is None:
            detail = f"pattern {pattern}: the test rows were not searched for it"
            reasons.append(Reason(code=ReasonCode.SLICE_MISSING, detail=detail))
        else:
            groups.append(_Group("pattern", pattern, mask))
    reasons += [
        Reason(code=ReasonCode.SLICE_EMPTY, detail=f"{group.by} = {group.value}: no test row")
        for group in groups
        if not group.mask.any()
    ]
    right = rows.labels == rows.answers["fp32"].predictions
    right_champion = rows.labels == champion
    enough = [group for group in groups if int(group.mask.sum()) >= policy.min_rows]
    p_values = probability_not_worse(
        np.array([int((right & ~right_champion & group.mask).sum()) for group in enough], dtype=np.int64),
        np.array([int((right_champion & ~right & group.mask).sum()) for group in enough], dtype=np.int64),
    )
    corrected = holm(p_values)
    tested = {id(group): position for position, group in enumerate(enough)}
    results = []
    for group in groups:
        n = int(group.mask.sum())
        position = tested.get(id(group))
        if position is None:
            results.append(SliceResult(by=group.by, value=group.value, rows=n, status="insufficient"))
            continue
        challenger_accuracy = float(right[group.mask].mean())
        champion_accuracy = float(right_champion[group.mask].mean())
        drop = champion_accuracy - challenger_accuracy
        worse = bool(corrected[position] <= alpha) and tidy(drop) > policy.max_drop
        if worse:
            reasons.append(
                Reason(
                    code=ReasonCode.SLICE_WORSE,
                    detail=f"{group.by} = {group.value}: accuracy {challenger_accuracy:.4f} against "
                    f"{champion_accuracy:.4f} on {n} rows, {drop:.4f} lower; tolerated are {policy.max_drop:g} "
                    f"(corrected p {corrected[position]:.2g}, alpha {alpha:g})",
                )
            )
        results.append(
            SliceResult(
                by=group.by,
                value=group.value,
                rows=n,
                status="worse" if worse else "ok",
                challenger_accuracy=tidy(challenger_accuracy),
                champion_accuracy=tidy(champion_accuracy),
                difference=tidy(-drop),
                p_value=tidy(p_values[position]),
                holm=tidy(corrected[position]),
            )
        )
    return tuple(results), reasons


def _groups(by: str, rows: Rows, label_names: tuple[str, ...]) -> list[_Group] | Reason:
    if by == "label":
        return [_Group(by, name, rows.labels == index) for index, name in enumerate(label_names)]
    if by == "length":
        if rows.characters is None:
            return Reason(code=ReasonCode.SLICE_MISSING, detail="length: the lengths of the texts were not kept")
        return list(_length_groups(rows.characters))
    column = rows.slices.get(by)
    if column is None:
        known = ", ".join(["label", "length", *sorted(rows.slices)])
        return Reason(code=ReasonCode.SLICE_MISSING, detail=f"{by}: the test rows have only {known}")
    if not (column != "").any():
        return Reason(code=ReasonCode.SLICE_EMPTY, detail=f"{by}: no test row has a value")
    return _value_groups(by, column)


def _value_groups(by: str, column: NDArray[Any]) -> list[_Group] | Reason:
    values = np.unique(column)
    if values.size > MOST_VALUES:
        detail = f"{by}: {values.size} different values, at most {MOST_VALUES} can be slices"
        return Reason(code=ReasonCode.SLICE_UNUSABLE, detail=detail)
    return [_Group(by, str(value) or MISSING, column == value) for value in values]


def _length_groups(characters: NDArray[np.int64]) -> Iterator[_Group]:
    """Quarters of the rows by length; fewer where many rows are equally long."""
    inner = np.quantile(characters, np.arange(1, LENGTH_BUCKETS) / LENGTH_BUCKETS, method="lower")
    low = int(characters.min())
    for high in np.unique([*inner, characters.max()]).tolist():
        yield _Group("length", f"{low}-{high} characters", (characters >= low) & (characters <= high))
        low = high + 1
