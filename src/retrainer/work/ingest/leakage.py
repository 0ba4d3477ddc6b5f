"""Rows of one split that are also in another, exactly or nearly: they leave the split that is judged by the other.

What is held out stays as it is: test before validation before train. So a carved test set is the same set of rows
however the data grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.snapshot import SPLITS, QuarantineReason, SplitName
from retrainer.errors import DataError
from retrainer.spec.dataset import Checks
from retrainer.work.ingest.output import Selection
from retrainer.work.ingest.pools import Pool
from retrainer.work.near.search import Near, Texts, look_for
from retrainer.work.reporter import Reporter

_EXACT: Mapping[SplitName, QuarantineReason] = {"test": "also_in_test", "validation": "also_in_validation"}
_NEAR: Mapping[SplitName, QuarantineReason] = {"test": "nearly_in_test", "validation": "nearly_in_validation"}
_JUDGES: tuple[tuple[SplitName, tuple[SplitName, ...]], ...] = (
    ("test", ("validation", "train")),
    ("validation", ("train",)),
)
_SHOWN = 3
# Fewer are compared before anybody could read that they are.
_WORTH_SAYING_ROWS = 20_000
_HINT = "remove them, or set dataset.checks.on_leakage: remove"


def set_exact_aside(pools: Mapping[SplitName, Pool], checks: Checks) -> dict[str, int]:
    """Quarantine the rows of a split whose text is also in a split that judges it, whatever their labels.

    Only files can leak into each other; carved splits have no text in common.

    :return: ``train_in_test`` and the like to rows taken out.
    :raises DataError: there are some, and ``on_leakage`` is ``fail``.
    """
    leakage: dict[str, int] = {}
    for held_out, splits in _JUDGES:
        for split in splits:
            if split not in pools or held_out not in pools:
                continue
            pool, other = pools[split], pools[held_out]
            rows = pool.remaining
            leaked = rows[np.isin(pool.key[rows], other.key[other.remaining])]
            leakage[f"{split}_in_{held_out}"] = len(leaked)
            if len(leaked) and checks.on_leakage == "fail":
                raise _exact_error(pool, other, leaked)
            pool.quarantine(leaked, _EXACT[held_out])
    return leakage


def _exact_error(pool: Pool, other: Pool, leaked: npt.NDArray[np.int64]) -> DataError:
    theirs = other.remaining
    positions = {int(key): int(row) for key, row in zip(other.key[theirs], theirs, strict=True)}
    pairs = [f"{pool.place(int(row))} is {other.place(positions[int(pool.key[row])])}" for row in leaked[:_SHOWN]]
    return DataError(
        f"{len(leaked):,} {pool.split} rows are also in {other.split}: {'; '.join(pairs)}{_more(len(leaked))}",
        where=f"{pool.split} and {other.split}",
        hint=_HINT,
    )


def set_near_aside(
    selection: Selection, checks: Checks, reporter: Reporter, *, within: Literal["label", "all"] = "label"
) -> tuple[Selection, dict[str, int]]:
    """Quarantine the rows of a split that are near duplicates of a row in a split that judges it.

    :param selection: the splits as they would be written, from files or carved.
    :param within: which rows are compared: those of one label; or all, except that texts which differ in one word are
        near only if their outputs are equal.
    :return: the splits without these rows; ``train_in_test`` and the like to rows taken out, empty when
        ``near_duplicate_similarity`` is null.
    :raises DataError: there are some, and ``on_leakage`` is ``fail``.
    """
    if checks.near_duplicate_similarity is None:
        return selection, {}
    rest = dict(selection)
    leakage: dict[str, int] = {}
    sets: dict[SplitName, Texts] = {}
    # What is held out is read to be compared with, too.
    total = sum(len(rows) for _, rows in rest.values()) + len(rest["validation"][1])
    done = 0

    def progress(rows: int) -> None:
        if total >= _WORTH_SAYING_ROWS:
            reporter.progress("near duplicates", done=done + rows, total=total, unit="rows")

    for split in reversed(SPLITS):
        if sets:
            pool, rows = rest[split]
            found = look_for(pool.texts(rows), pool.label[rows], list(sets.values()), progress)
            done += len(rows)
            for held_out, near in zip(sets, found, strict=True):
                hit = near.row >= 0
                leakage[f"{split}_in_{held_out}"] = int(hit.sum())
                if hit.any() and checks.on_leakage == "fail":
                    raise _near_error(split, rest[split], held_out, rest[held_out], near, checks, within)
                pool.quarantine(rows[hit], _NEAR[held_out])
            kept = np.all([near.row < 0 for near in found], axis=0)
            rest[split] = pool, rows[kept]
        if split in _NEAR:
            pool, rows = rest[split]
            sets[split] = Texts(pool.texts(rows), pool.label[rows], checks.near_duplicate_similarity, progress, within)
            done += len(rows)
    return rest, leakage


def _near_error(
    split: SplitName,
    asked: tuple[Pool, npt.NDArray[np.int64]],
    held_out: SplitName,
    others: tuple[Pool, npt.NDArray[np.int64]],
    near: Near,
    checks: Checks,
    within: Literal["label", "all"],
) -> DataError:
    (pool, rows), (other, theirs) = asked, others
    threshold = checks.near_duplicate_similarity or 0.0
    hit = np.flatnonzero(near.row >= 0)
    pairs = [
        f"{pool.place(int(rows[at]))} and {other.place(int(theirs[near.row[at]]))} "
        f"({_how_near(near.similarity[at], threshold)})"
        for at in hit[:_SHOWN]
    ]
    same = " with the same label" if within == "label" else ""
    return DataError(
        f"{len(hit):,} {split} rows are nearly a {held_out} row{same}: {'; '.join(pairs)}{_more(len(hit))}",
        where=f"{split} and {held_out}",
        hint=f"{_HINT}, or near_duplicate_similarity: null to look for exact copies only",
    )


def _how_near(similarity: float, threshold: float) -> str:
    alike = f"{similarity:.0%} alike"
    return alike if similarity >= threshold else f"the same except for one word, {alike}"


def _more(rows: int) -> str:
    return f" and {rows - _SHOWN:,} more" if rows > _SHOWN else ""
