"""Rows of one split that are also in another, exactly or nearly: they leave the split that is judged by the other.

What is held out stays as it is: test before validation before train. So a carved test set is the same set of rows
however the data grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.snapshot import QuarantineReason, SplitName
from retrainer.errors import DataError
from retrainer.spec.model import Checks
from retrainer.work.ingest.output import Selection
from retrainer.work.ingest.pools import Pool
from retrainer.work.near.search import Texts
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
    # Each split is read once for every split it is compared with, and once to be compared with.
    total = sum(len(rest[split][1]) for split in chain(*([held_out, *splits] for held_out, splits in _JUDGES)))
    done = 0

    def progress(rows: int) -> None:
        if total >= _WORTH_SAYING_ROWS:
            reporter.progress("near duplicates", done=done + rows, total=total, unit="rows")

    for held_out, splits in _JUDGES:
        other, theirs = rest[held_out]
        index = Texts(other.texts(theirs), other.label[theirs], checks.near_duplicate_similarity, progress, within)
        done += len(theirs)
        for split in splits:
            pool, rows = rest[split]
            near = index.near(pool.texts(rows), pool.label[rows], progress)
            done += len(rows)
            hit = near.row >= 0
            leakage[f"{split}_in_{held_out}"] = int(hit.sum())
            if hit.any() and checks.on_leakage == "fail":
                pairs = [
                    f"{pool.place(int(rows[at]))} and {other.place(int(theirs[near.row[at]]))} "
                    f"({_how_near(near.similarity[at], checks.near_duplicate_similarity)})"
                    for at in np.flatnonzero(hit)[:_SHOWN]
                ]
                same = " with the same label" if within == "label" else ""
                raise DataError(
                    f"{int(hit.sum()):,} {split} rows are nearly a {held_out} row{same}: "
                    f"{'; '.join(pairs)}{_more(int(hit.sum()))}",
                    where=f"{split} and {held_out}",
                    hint=f"{_HINT}, or near_duplicate_similarity: null to look for exact copies only",
                )
            pool.quarantine(rows[hit], _NEAR[held_out])
            rest[split] = pool, rows[~hit]
    return rest, leakage


def _how_near(similarity: float, threshold: float) -> str:
    alike = f"{similarity:.0%} alike"
    return alike if similarity >= threshold else f"the same except for one word, {alike}"


def _more(rows: int) -> str:
    return f" and {rows - _SHOWN:,} more" if rows > _SHOWN else ""
