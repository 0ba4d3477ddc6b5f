"""Which rows of train become test and validation rows when the pipeline names no files for them.

Each row is placed by its own text: a number in [0, 1), drawn from a hash of the text and the seed, that falls
below the share or does not. So a row never moves when others come or go, the test set stays the same set as data
grows, and order does not matter. Test and validation draw independent numbers.

There is one exception. With ``stratify``, a label of at least three rows that drew no test (or validation,
or train) row gives the row that came closest. As soon as the label has a row that drew by itself, the row so
given is free again; so for labels with very few rows, growth can move a row.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from retrainer.work.near.features import mix

TRAIN, VALIDATION, TEST = 0, 1, 2
FEWEST_TO_STRATIFY = 3


def draw(keys: npt.NDArray[np.uint64], seed: int, purpose: str) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each key, the same for ever; independent for each seed and purpose."""
    salt = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    mixed = mix(keys ^ np.uint64(int.from_bytes(salt, "big")))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def carve(
    keys: npt.NDArray[np.uint64],
    labels: npt.NDArray[np.int64],
    *,
    validation: float,
    test: float,
    seed: int,
    stratify: bool,
) -> npt.NDArray[np.int8]:
    """The split of each row: 0 train, 1 validation, 2 test.

    :param keys: uint64 [rows], with ``stratify`` all different.
    :param labels: int64 [rows].
    :param validation: share of all rows; 0 carves none.
    :param test: likewise.
    """
    for_test = draw(keys, seed, "test")
    for_validation = draw(keys, seed, "validation")
    split = np.full(len(keys), TRAIN, dtype=np.int8)
    # Validation is drawn from what is not test, so its threshold is its share of that.
    split[for_validation < validation / (1.0 - test)] = VALIDATION
    split[for_test < test] = TEST
    if stratify:
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            if len(rows) >= FEWEST_TO_STRATIFY:
                _give(split, rows, TEST, for_test, wanted=test > 0)
                _give(split, rows, VALIDATION, for_validation, wanted=validation > 0)
                _give(split, rows, TRAIN, -np.maximum(for_test, for_validation), wanted=True)
    return split


def _give(
    split: npt.NDArray[np.int8],
    rows: npt.NDArray[np.int64],
    target: int,
    distance: npt.NDArray[np.float64],
    *,
    wanted: bool,
) -> None:
    """Move the nearest row of a label into a split that has none of it: from train, else from where there are more.

    Three rows in two splits are two in one of them, so there always is one to move.
    """
    counts = np.bincount(split[rows], minlength=3)
    if not wanted or counts[target]:
        return
    movable = rows[split[rows] == TRAIN] if counts[TRAIN] > 1 else rows[counts[split[rows]] > 1]
    split[movable[np.argmin(distance[movable])]] = target
