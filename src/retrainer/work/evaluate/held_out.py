"""The frozen rows that models are scored on: those of a split, without the ones that a model was trained on.

Not here: what the models answer (``scoring.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrainer.artifacts.evaluation import Leakage
from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.chain import StepRequest
from retrainer.errors import DataError, IntegrityError
from retrainer.spec import Pipeline
from retrainer.work.near import NEAR_ROWS
from retrainer.work.near.index import NO_LABEL, name_of_set, near_rows
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import Text, characters, parts, read_split, text_keys, texts_of, trained_on

SHOWN = 3


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """Test rows of a snapshot.

    :param keys: what stands for the normalised text of each row; the row ids, except where the task writes text.
    :param labels: index of the true label of each row; all 0 where the task writes text, or a row has any number of
        labels.
    :param targets: where it does, the right texts of each row: several where the data has several for one input.
    :param sets: where a row has any number of labels, their indices.
    :param columns: what groups rows into slices: ``characters``, ``slice_<name>`` and ``pattern_<position>``.
    """

    row_ids: tuple[str, ...]
    keys: tuple[str, ...]
    texts: tuple[Text, ...]
    labels: npt.NDArray[np.int64]
    columns: dict[str, pa.Array]
    targets: tuple[tuple[str, ...], ...] = ()
    sets: tuple[tuple[int, ...], ...] | None = None

    def members(self, n_labels: int) -> npt.NDArray[np.bool_]:
        """Which labels each row has, ``[n, labels]``, where it has any number of them."""
        found = np.zeros((len(self), n_labels), dtype=np.bool_)
        for row, indices in enumerate(self.sets or ()):
            found[row, list(indices)] = True
        return found

    @property
    def truth(self) -> npt.NDArray[np.object_]:
        """The targets, ``[n]``."""
        truth = np.empty(len(self.targets), dtype=np.object_)
        truth[:] = self.targets
        return truth

    def __len__(self) -> int:
        return len(self.row_ids)

    def where(self, keep: npt.NDArray[np.bool_]) -> HeldOutRows:
        """The rows to keep, in their order."""
        indices = np.flatnonzero(keep)
        return HeldOutRows(
            row_ids=tuple(self.row_ids[i] for i in indices),
            keys=tuple(self.keys[i] for i in indices),
            texts=tuple(self.texts[i] for i in indices),
            labels=self.labels[keep],
            columns={name: column.filter(pa.array(keep)) for name, column in self.columns.items()},
            targets=tuple(self.targets[i] for i in indices) if self.targets else (),
            sets=tuple(self.sets[i] for i in indices) if self.sets is not None else None,
        )


def read_rows(split: Path, patterns: Sequence[str] = ()) -> HeldOutRows:
    """Read a split of a snapshot.

    :param patterns: regular expressions that the texts are searched for; either text of a pair.
    """
    table = read_split(split)
    targets: dict[str, list[str]] = {}
    if "target" in table.column_names:
        table, targets = _each_input_once(table)
    texts = tuple(texts_of(table))
    # One label of each row is a number; other rows are alike.
    single = "label" in table.column_names and not pa.types.is_list(table.schema.field("label").type)
    slices = [name for name in table.column_names if name.startswith("slice_")]
    return HeldOutRows(
        row_ids=tuple(table.column("row_id").to_pylist()),
        keys=tuple(text_keys(table)),
        texts=texts,
        labels=table.column("label").to_numpy().astype(np.int64) if single else np.zeros(len(texts), np.int64),
        targets=tuple(tuple(right) for right in targets.values()),
        sets=None if single or targets else tuple(map(tuple, table.column("label").to_pylist())),
        columns={
            "characters": pa.array(map(characters, texts), pa.int64()),
            **{name: table.column(name).combine_chunks() for name in slices},
            **{f"pattern_{position}": _found(pattern, texts) for position, pattern in enumerate(patterns)},
        },
    )


def _each_input_once(table: pa.Table) -> tuple[pa.Table, dict[str, list[str]]]:
    """The first row of each input, and row id to all its targets: an input is one row however many answers are right,
    for a model answers it once. Where text is written a row id stands for the exact input.
    """
    targets: dict[str, list[str]] = {}
    first = []
    rows = zip(table.column("row_id").to_pylist(), table.column("target").to_pylist(), strict=True)
    for at, (row_id, target) in enumerate(rows):
        if row_id not in targets:
            first.append(at)
        known = targets.setdefault(row_id, [])
        if target not in known:
            known.append(target)
    return table.take(pa.array(first, pa.int64())), targets


def _found(pattern: str, texts: Sequence[Text]) -> pa.Array:
    search = re.compile(pattern).search
    found = [any(map(search, parts(text))) for text in texts]
    return pa.array(found, pa.bool_())


def held_out_rows(
    request: StepRequest,
    snapshot: Path,
    bundle: Path,
    champion: Path | None,
    reporter: Reporter,
    *,
    anchor: Path | None = None,
) -> tuple[HeldOutRows, Leakage]:
    """Test rows that all models see for the first time.

    :param bundle: the challenger's; ingest left nothing of its own training rows among the test rows.
    :param champion: its bundle; ``None`` where there is none to compare with.
    :param anchor: the bundle of the channel's anchor, where that is another one.
    :raises DataError: no row is left; or the champion was trained on some, and ``on_leakage`` is ``fail``.
    """
    statistics = SnapshotStatistics.load(snapshot)
    slices = request.pipeline.gate.slices
    rows = read_rows(snapshot / "test.parquet", slices.patterns if slices else ())
    # Of a blended challenger also those that its champion was trained on; counted as the champion's where it is known.
    own = trained_on(rows.keys, bundle)
    by_challenger = own.copy()
    leakage = Leakage(exact=statistics.leakage, near=statistics.near_leakage)
    if champion is not None and len(rows):
        exact = trained_on(rows.keys, champion)
        near, unknown = nearly_trained_on(request.pipeline, rows, statistics.labels, champion)
        near &= ~exact
        leakage = leakage.model_copy(
            update={
                "champion_exact": int(exact.sum()),
                "champion_near": int(near.sum()),
                "champion_near_unknown": unknown,
            }
        )
        if request.pipeline.dataset.checks.on_leakage == "fail" and exact.any():
            raise _leakage_error(request, rows, exact)
        own |= exact | near
        by_challenger &= ~(exact | near)
    leakage = leakage.model_copy(update={"challenger_exact": int(by_challenger.sum())})
    if anchor is not None and len(rows):
        by_anchor = trained_on(rows.keys, anchor) & ~own
        leakage = leakage.model_copy(update={"anchor_exact": int(by_anchor.sum())})
        own |= by_anchor
    _say(leakage, reporter)
    rows = rows.where(~own)
    if not len(rows):
        raise DataError(
            "no test row is left that no model was trained on",
            where=f"{request.pipeline.name}: dataset.test",
            hint="add fresh test rows",
        )
    return rows, leakage


def _leakage_error(request: StepRequest, rows: HeldOutRows, exact: npt.NDArray[np.bool_]) -> DataError:
    """Only of exact copies: near ones are told from sketches, without the champion's texts, and may be mistaken."""
    first = ", ".join(rows.row_ids[at] for at in np.flatnonzero(exact)[:SHOWN])
    return DataError(
        f"the champion was trained on {int(exact.sum()):,} of the {len(rows):,} test rows, row_id {first}",
        where=f"{request.pipeline.name}: dataset.test",
        hint="name other test rows, or set dataset.checks.on_leakage: remove to leave them out of the comparison",
    )


def nearly_trained_on(
    pipeline: Pipeline, rows: HeldOutRows, labels: tuple[str, ...], champion: Path
) -> tuple[npt.NDArray[np.bool_], str | None]:
    """Rows that are nearly a training row of the champion; and why that is unknown, where it is.

    An index that cannot be used is not a reason to stop: it would stop every run until somebody replaces the champion.
    """
    nothing = np.zeros(len(rows), dtype=np.bool_)
    similarity = pipeline.dataset.checks.near_duplicate_similarity
    if similarity is None:
        return nothing, None
    index = champion / NEAR_ROWS
    if not index.is_file():
        return nothing, "the champion was published without an index of its training rows"
    try:
        names = [labels[label] if labels else NO_LABEL for label in rows.labels]
        if rows.sets is not None:
            names = [name_of_set(labels[at] for at in indices) for indices in rows.sets]
        return near_rows(index, rows.texts, names, similarity), None
    except IntegrityError as error:
        return nothing, error.message


def _say(leakage: Leakage, reporter: Reporter) -> None:
    left_out = leakage.champion_exact + leakage.champion_near
    if left_out:
        nearly = f", on {leakage.champion_near:,} of them nearly" if leakage.champion_near else ""
        reporter.log(f"{left_out:,} test rows left out: the champion was trained on them{nearly}", level="warning")
    if leakage.champion_near_unknown:
        reporter.log(
            f"near duplicates of the champion's training rows were not looked for: {leakage.champion_near_unknown}",
            level="warning",
        )
    if leakage.anchor_exact:
        reporter.log(f"{leakage.anchor_exact:,} test rows left out: the anchor was trained on them", level="warning")
