"""Take out what cannot be used, and stop where too much of it is wrong or too little is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.snapshot import SplitName
from retrainer.errors import DataError
from retrainer.spec.dataset import Checks
from retrainer.spec.problems import listed
from retrainer.work.ingest.labels import NO_LABEL
from retrainer.work.ingest.pools import Pool
from retrainer.work.reporter import Reporter

# Share of the training rows from which on it is said why they go.
_MANY_NEAR = 0.2
_NEAR_HINT = "; dataset.checks.near_duplicate_similarity: null keeps rows that are nearly held-out rows"


def set_missing_aside(pool: Pool, most: float, wanted: str) -> None:
    """Rows without a text or a label go to quarantine.

    :param most: share of rows from which on that is an error.
    :param wanted: what a label is called.
    :raises DataError: there are more.
    """
    unlabelled = (pool.label == NO_LABEL) & ~pool.blank
    missing = np.flatnonzero(pool.blank | unlabelled)
    if len(missing) > most * len(pool):
        counts = []
        if pool.blank.any():
            counts.append(f"{int(pool.blank.sum()):,} without text")
        if unlabelled.any():
            counts.append(f"{int(unlabelled.sum()):,} without {wanted}")
        raise DataError(
            f"of {len(pool):,} {pool.split} rows, {' and '.join(counts)} ({len(missing) / len(pool):.2%}; "
            f"{most:.2%} allowed); this is the first",
            where=pool.place(int(missing[0])),
            hint="fill or remove them, or raise dataset.checks.max_null_fraction: they then go to quarantine",
        )
    pool.quarantine(np.flatnonzero(pool.blank), "missing_text")
    pool.quarantine(np.flatnonzero(unlabelled), "missing_label")


def set_duplicates_aside(pool: Pool) -> int:
    """Of rows with the same text and label the first stays. With several labels none does: which is right?

    :return: distinct texts with several labels.
    """
    rows = pool.remaining
    found = find_duplicates(pool.key[rows], pool.label[rows])
    pool.drop_repeated(rows[found.repeated])
    pool.quarantine(rows[found.conflicting], "conflicting_labels")
    return found.conflicts


def set_repeated_aside(pool: Pool) -> None:
    """Of rows with exactly the same text and output the first stays. Several outputs of a text may all be right."""
    rows = pool.remaining
    pairs = np.stack([pool.row_id[rows], pool.label[rows].astype(np.uint64)])
    _, first = np.unique(pairs, axis=1, return_index=True)
    repeated = np.ones(len(rows), dtype=np.bool_)
    repeated[first] = False
    pool.drop_repeated(rows[repeated])


class Duplicates(NamedTuple):
    """What to do with each row.

    :param repeated: an earlier row has the same text and label, and none has it with another label.
    :param conflicting: another row has the same text with another label.
    :param conflicts: distinct texts of the latter.
    """

    repeated: npt.NDArray[np.bool_]
    conflicting: npt.NDArray[np.bool_]
    conflicts: int


def find_duplicates(keys: npt.NDArray[np.uint64], labels: npt.NDArray[np.int64]) -> Duplicates:
    """Compare every row with every other of its split.

    :param keys: uint64 [rows].
    :param labels: int64 [rows], none missing.
    """
    _, first, text = np.unique(keys, return_index=True, return_inverse=True)
    conflict = np.zeros(len(first), dtype=np.bool_)
    conflict[text[labels != labels[first[text]]]] = True
    conflicting = conflict[text]
    repeated = ~conflicting
    repeated[first] = False
    return Duplicates(repeated, conflicting, int(conflict.sum()))


def check_enough(
    rows: Mapping[SplitName, int], counts: npt.NDArray[np.int64], labels: Sequence[str], pool: Pool, checks: Checks
) -> None:
    """Stop where training, or judging, would have too little to go by.

    :param rows: of each split.
    :param counts: training rows of each label; nothing where there are no labels.
    :param pool: what train rows came from.
    :raises DataError: too few rows, too few of a label, none to judge by.
    """
    where = pool.files[0].where + (f" and {len(pool.files) - 1} more" if len(pool.files) > 1 else "")
    if rows["train"] < checks.min_rows:
        raise DataError(
            f"only {rows['train']:,} training rows, dataset.checks.min_rows asks for {checks.min_rows:,} "
            f"({_account(pool, rows)})",
            where=where,
            hint=f"add rows, or lower dataset.checks.min_rows{_near_hint(pool)}",
        )
    counted = zip(labels, counts, strict=bool(labels))
    few = [f"'{label}' {count:,}" for label, count in counted if count < checks.min_rows_per_label]
    if few:
        raise DataError(
            f"too few training rows of {listed(few[:10])}{' and more' if len(few) > 10 else ''}; "
            f"dataset.checks.min_rows_per_label asks for {checks.min_rows_per_label:,}",
            where=where,
            hint=f"add rows of it, or lower dataset.checks.min_rows_per_label{_near_hint(pool)}",
        )
    if not rows["test"]:
        raise DataError(
            f"no row is left to judge the model ({_account(pool, rows)})",
            where=where,
            hint="add rows, raise dataset.split.test, or name a test file",
        )


def warn_of_near(kept: int, near: Mapping[str, int], reporter: Reporter) -> None:
    """Say why, where many training rows of a task that writes text are gone as near duplicates.

    :param kept: training rows that are left.
    :param near: ``train_in_test`` and the like to rows taken out.
    """
    lost = sum(rows for name, rows in near.items() if name.startswith("train_in_"))
    if lost > _MANY_NEAR * (lost + kept):
        reporter.log(
            f"{lost:,} of {lost + kept:,} training rows ({lost / (lost + kept):.0%}) are left out because they are "
            f"nearly held-out rows: inputs that share a long instruction are{_NEAR_HINT}, or leave the instruction out",
            level="warning",
        )


def _near_hint(pool: Pool) -> str:
    """Where the lines are made from templates, near duplicates can be most of them."""
    near = sum(len(rows) for reason, rows in pool.quarantined.items() if reason.startswith("nearly_in_"))
    lost = near > len(pool) // 10
    return _NEAR_HINT if lost else ""


def _account(pool: Pool, left: Mapping[SplitName, int]) -> str:
    """Where the rows of train's source went."""
    parts = [f"{len(pool):,} read"]
    if pool.repeated:
        parts.append(f"{pool.repeated:,} repeated")
    parts += [f"{len(rows):,} {reason.replace('_', ' ')}" for reason, rows in pool.quarantined.items()]
    carved = len(pool.remaining) - left["train"]
    if carved:
        parts.append(f"{carved:,} carved for validation and test")
    return ", ".join(parts)
