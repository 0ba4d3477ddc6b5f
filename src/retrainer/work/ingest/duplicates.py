"""Rows with the same text: within a split, and across splits. Pure functions over keys."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Duplicates(NamedTuple):
    """What to do with each row.

    :param repeated: the same text with the same label stands further up, and nowhere with another label.
    :param conflicting: the same text stands there with another label.
    :param conflicts: distinct texts of the latter.
    """

    repeated: Mask
    conflicting: Mask
    conflicts: int


def find_duplicates(keys: Keys, labels: Labels) -> Duplicates:
    """Compare every row with every other of its split.

    :param keys: uint64 [rows].
    :param labels: int64 [rows], none missing.
    """
    rows = len(keys)
    if rows == 0:
        nothing = np.zeros(0, dtype=np.bool_)
        return Duplicates(nothing, nothing, 0)
    order = np.argsort(keys, kind="stable")  # stable: within a text, source order
    first = np.ones(rows, dtype=np.bool_)
    first[1:] = keys[order][1:] != keys[order][:-1]
    starts = np.flatnonzero(first)
    group = np.cumsum(first) - 1
    lowest = np.minimum.reduceat(labels[order], starts)
    highest = np.maximum.reduceat(labels[order], starts)
    conflict = lowest != highest
    conflicting = np.empty(rows, dtype=np.bool_)
    conflicting[order] = conflict[group]
    repeated = np.empty(rows, dtype=np.bool_)
    repeated[order] = ~first & ~conflict[group]
    return Duplicates(repeated, conflicting, int(conflict.sum()))


def stands_in(keys: Keys, others: Keys) -> Mask:
    """Which rows have a text that also stands among the others."""
    result: Mask = np.isin(keys, others)
    return result
