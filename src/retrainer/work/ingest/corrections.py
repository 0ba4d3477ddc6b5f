"""Labels that people corrected, put in the place of those in the data before anything is checked.

All rows of a text are corrected, in whatever split they are: so a text with several labels is settled, and a row
without a label gets one. Which rows judge does not change, for rows are held out by their text; what they are called
does, and that is said. Not here: reading the files (``sources/corrections.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrainer.artifacts.snapshot import CORRECTIONS, CorrectionOutcome, CorrectionStatistics, SplitName
from retrainer.errors import DataError
from retrainer.label_names import canonical, members, position, spelled
from retrainer.sources.corrections import Correction, read_corrections
from retrainer.spec.dataset import Dataset
from retrainer.spec.problems import listed, suggestion
from retrainer.work.ingest.label_sets import LabelSets
from retrainer.work.ingest.output import Selection
from retrainer.work.ingest.pools import Pool, row_keys


@dataclass(frozen=True, slots=True, eq=False)
class Corrected:
    """What was done.

    :param rows: for each pool which of its rows have another label than in the data, bool [rows].
    :param outcomes: what became of each correction, in the order of the corrections.
    :param labels: those of the rows, and what corrections of a part of the rows add.
    """

    corrections: tuple[Correction, ...]
    outcomes: tuple[CorrectionOutcome, ...]
    keys: npt.NDArray[np.uint64]
    rows: Mapping[SplitName, npt.NDArray[np.bool_]]
    labels: tuple[str, ...]

    def statistics(self, selection: Selection) -> CorrectionStatistics:
        """The same, counted.

        :param selection: the rows of each split, as it is written.
        """
        changed = {split: int(self.rows[pool.split][rows].sum()) for split, (pool, rows) in selection.items()}
        return CorrectionStatistics(
            outcomes={name: self.outcomes.count(name) for name in dict.fromkeys(sorted(self.outcomes))},
            relabelled=changed,
        )

    def write(self, folder: Path) -> None:
        """Write each correction with what became of it."""
        said = self.corrections
        columns = {
            "row_id": [f"{key:016x}" for key in self.keys.tolist()],
            "label": [one.label for one in said],
            "outcome": [*self.outcomes],
            "who": [one.who for one in said],
            "when": [one.when for one in said],
            "why": [one.why for one in said],
        }
        table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
        pq.write_table(table, folder / CORRECTIONS, compression="zstd", store_schema=False)


def correct(
    pools: Mapping[SplitName, Pool],
    dataset: Dataset,
    labels: Sequence[str],
    sets: LabelSets | None = None,
    *,
    is_part: bool = False,
) -> Corrected | None:
    """Set the labels of the pools' rows to what people say they are.

    :param sets: of labels, where a row has any number of them; a correction is then a JSON list.
    :param is_part: the pools are some of the rows that the corrections are about. Then those of other rows are left
        out, and unless the pipeline names the labels, one that only a correction gives is another label of these rows.
    :return: ``None`` where the pipeline names no corrections.
    :raises DataError: one names a label that there is not, or a row_id that is not that of its text.
    """
    if dataset.corrections is None:
        return None
    corrections = read_corrections(dataset.corrections, len(dataset.text_columns))
    keys = _keys(corrections)
    if is_part:
        here = np.isin(keys, np.concatenate([pool.key for pool in pools.values()]))
        corrections, keys = tuple(compress(corrections, here)), keys[here]
        if dataset.label_names is None:
            labels = _with_labels_of(corrections, dataset, labels, sets)
    wanted = np.array([_meant(one, dataset, labels, sets) for one in corrections], dtype=np.int64)
    # They come in the order in which they were made: of several of one text the last counts.
    last = {int(key): at for at, key in enumerate(keys)}
    rows = {}
    outcomes: list[CorrectionOutcome] = ["no_such_row"] * len(corrections)
    order = np.array(sorted(last), dtype=np.uint64)
    for split, pool in pools.items():
        found = np.isin(pool.key, order) & ~pool.blank
        matched = np.flatnonzero(found)
        by = np.array([last[int(key)] for key in pool.key[matched]], dtype=np.int64)
        changed = pool.label[matched] != wanted[by]
        rows[split] = np.zeros(len(pool), dtype=np.bool_)
        rows[split][matched] = changed
        for at, other in zip(by.tolist(), changed.tolist(), strict=True):
            outcomes[at] = "relabelled" if other or outcomes[at] == "relabelled" else "already_so"
        pool.label[matched] = wanted[by]
    for at, key in enumerate(keys):
        if last[int(key)] != at:
            outcomes[at] = "corrected_again"
    return Corrected(corrections, tuple(outcomes), keys, rows, tuple(labels))


def _with_labels_of(
    corrections: Sequence[Correction], dataset: Dataset, labels: Sequence[str], sets: LabelSets | None
) -> tuple[str, ...]:
    known = list(labels)
    for one in corrections:
        for name in [one.label] if sets is None else members(one.label, where=one.where):
            meant = dataset.meanings.get(name, name)
            if position(meant, known) is None:
                known.append(canonical(meant))
    if sets is not None:
        sets.labels = len(known)
    return tuple(known)


def _keys(corrections: Sequence[Correction]) -> npt.NDArray[np.uint64]:
    """What identifies the text of each."""
    keys = np.zeros(len(corrections), dtype=np.uint64)
    named = [at for at, one in enumerate(corrections) if one.texts]
    if named:
        columns = zip(*(corrections[at].texts for at in named), strict=True)
        found, _ = row_keys([pa.array(column, pa.large_string()) for column in columns])
        keys[named] = found
    for at, one in enumerate(corrections):
        if one.row_id is None:
            continue
        given = np.uint64(int(one.row_id, 16))
        if one.texts and keys[at] != given:
            raise DataError(
                f"row_id {one.row_id} is not that of the text beside it, which is {int(keys[at]):016x}",
                where=one.where,
                hint="leave one of the two empty",
            )
        keys[at] = given
    return keys


def _meant(one: Correction, dataset: Dataset, labels: Sequence[str], sets: LabelSets | None) -> int:
    if sets is None:
        return _label(one.label, one, dataset, labels)
    return sets.code(_label(name, one, dataset, labels) for name in members(one.label, where=one.where))


def _label(name: str, one: Correction, dataset: Dataset, labels: Sequence[str]) -> int:
    found = position(dataset.meanings.get(name, name), labels)
    if found is None:
        raise DataError(
            f"unknown label {spelled(name)}{suggestion(name, labels)}; labels: {listed(list(labels)[:20])}",
            where=one.where,
            hint="correct it there; a label that no row of train has needs to be in dataset.labels, and to have rows",
        )
    return found
