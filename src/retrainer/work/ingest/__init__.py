"""The ingest step: labelled text of any source becomes a snapshot of deduplicated, fixed splits.

``pools.py`` reads the files, ``labels.py`` makes labels indices, ``corrections.py`` puts in what people corrected,
``checks.py`` sets aside what cannot be used, ``carve.py`` chooses validation and test rows, ``leakage.py`` finds what
of one split is also in another, ``output.py`` writes. What a snapshot holds is in ``retrainer.artifacts.snapshot``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.snapshot import SPLITS, SnapshotStatistics, SplitName, split_file
from retrainer.chain import Ingested
from retrainer.errors import DataError
from retrainer.sources import fingerprint
from retrainer.sources.columns import Wanted
from retrainer.sources.corrections import identity_of
from retrainer.spec.dataset import Dataset
from retrainer.spec.model import Pipeline
from retrainer.spec.training_combinations import require_batches
from retrainer.tasks import TASKS
from retrainer.work.ingest import checks, leakage
from retrainer.work.ingest.carve import TEST, TRAIN, VALIDATION, carve, draw
from retrainer.work.ingest.corrections import Corrected, correct
from retrainer.work.ingest.label_sets import LabelSets
from retrainer.work.ingest.labels import index_labels, index_outputs
from retrainer.work.ingest.output import (
    Selection,
    describe_sources,
    report,
    rows_of_labels,
    write_quarantine,
    write_splits,
)
from retrainer.work.ingest.pools import Pool, read_pool
from retrainer.work.ingest.rows import RawRows
from retrainer.work.rehearsal import before_training
from retrainer.work.reporter import Reporter

if TYPE_CHECKING:
    from retrainer.chain import StepRequest

__all__ = ["ingest", "run", "write_labelled"]

# What is in the column of the label, for people.
_CALLED = {"label": "label", "labels": "labels", "text": "output"}


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Ingested:
    """Fill ``folder`` with the snapshot of the request's pipeline.

    :raises DataError: the data is not what the pipeline says, or is no longer what the step was planned for.
    """
    before_training(request, reporter)
    statistics = ingest(request.pipeline, folder, reporter)
    # What the data rules out is known now, and not after training.
    request.pipeline.positive(statistics.labels)
    rows: dict[str, int] = {split: part.rows for split, part in statistics.splits.items()}
    require_batches(request.pipeline, rows, devices=request.pipeline.resources.processes)
    _refuse_changed(request)
    return Ingested.of(statistics)


def _refuse_changed(request: StepRequest) -> None:
    """The artifact is named by what the data was when it was planned; other data must not go by that name."""
    dataset = request.pipeline.dataset
    planned = request.identity.get("sources", {})
    for split, source in dataset.sources.items():
        if split in planned and fingerprint(source, dataset.csv) != planned[split]:
            raise DataError(
                f"the {split} data changed since this run was planned",
                where=str(source) if isinstance(source, tuple) else source.hub.path,
                hint="run again while nobody writes to the data",
            )
    if dataset.corrections is not None and identity_of(dataset.corrections) != request.identity.get("corrections"):
        raise DataError(
            "corrections were added since this run was planned",
            where=dataset.corrections,
            hint="run again, to use them",
        )


@dataclass(frozen=True, slots=True)
class Clean:
    """Rows of all sources, labels and corrections in their place, without those that cannot be used.

    :param spellings: see ``Indexed``; so is ``sets``.
    :param conflicts: distinct texts that have several labels.
    """

    pools: dict[SplitName, Pool]
    labels: tuple[str, ...]
    spellings: dict[str, dict[str, int]]
    sets: LabelSets | None
    corrected: Corrected | None
    conflicts: int


def _clean(pipeline: Pipeline, folder: Path, reporter: Reporter, *, is_part: bool = False) -> Clean:
    """Read the rows of all sources, and set aside what cannot be used.

    :param is_part: they are some of the pipeline's rows, which may have one label, and not be those of a correction.
    """
    dataset = pipeline.dataset
    files = _read(pipeline, folder, reporter)
    writes = TASKS[pipeline.task].writes
    exact = writes == "text"
    labels, indices, spellings, sets = (
        index_outputs(files)
        if exact
        else index_labels(
            files, dataset.label_names, dataset.meanings, sets=writes == "labels", least=1 if is_part else 2
        )
    )
    pools = {split: Pool.of(split, files[split], indices[split], exact=exact) for split in SPLITS if split in files}
    corrected = correct(pools, dataset, labels, sets, is_part=is_part)
    labels = corrected.labels if corrected is not None else labels
    conflicts = 0
    for pool in pools.values():
        checks.set_missing_aside(pool, dataset.checks.max_null_fraction, _CALLED[writes])
        if exact:
            checks.set_repeated_aside(pool)
        else:
            conflicts += checks.set_duplicates_aside(pool)
    return Clean(pools, labels, spellings, sets, corrected, conflicts)


def write_labelled(pipeline: Pipeline, folder: Path, reporter: Reporter) -> tuple[Path, tuple[str, ...]]:
    """Write every usable row of ``dataset.train`` as one split: nothing is carved, and any number of rows will do.

    :param pipeline: its dataset names no other source.
    :param folder: exists and is empty.
    :return: the file, and the labels that its column indexes.
    :raises DataError: the data is not what the pipeline says it is; file, row and column are named.
    """
    clean = _clean(pipeline, folder, reporter, is_part=True)
    pool = clean.pools["train"]
    nothing = np.zeros(0, dtype=np.int64)
    selection: Selection = {"train": (pool, pool.remaining), "validation": (pool, nothing), "test": (pool, nothing)}
    write_splits(selection, folder, clean.labels, (), clean.sets)
    return split_file(folder, "train"), clean.labels


def ingest(pipeline: Pipeline, folder: Path, reporter: Reporter) -> SnapshotStatistics:
    """Fill a folder with the snapshot of a pipeline. The same data gives the same bytes.

    :param folder: exists and is empty.
    :raises DataError: the data is not what the pipeline says it is; file, row and column are named.
    """
    dataset = pipeline.dataset
    clean = _clean(pipeline, folder, reporter)
    pools, labels, sets, corrected = clean.pools, clean.labels, clean.sets, clean.corrected
    exact = TASKS[pipeline.task].writes == "text"
    leaked = leakage.set_exact_aside(pools, dataset.checks)

    within: Literal["label", "all"] = "all" if exact else "label"
    selection, near = leakage.set_near_aside(_select(pipeline, pools, sets), dataset.checks, reporter, within=within)
    if dataset.train_rows is not None:
        selection = {**selection, "train": _some(*selection["train"], dataset, reporter)}
    kept = {split: len(rows) for split, (_, rows) in selection.items()}
    train, rows = selection["train"]
    checks.check_enough(kept, rows_of_labels(train.label[rows], labels, sets), labels, pools["train"], dataset.checks)
    if exact:
        checks.warn_of_near(len(selection["train"][1]), near, reporter)

    everything = list(pools.values())
    statistics = SnapshotStatistics(
        labels=labels,
        splits=write_splits(selection, folder, labels, pipeline.slice_columns, sets),
        source_rows=sum(len(pool) for pool in everything),
        duplicates=sum(pool.repeated for pool in everything),
        conflicts=clean.conflicts,
        leakage=leaked,
        near_leakage=near,
        quarantined=write_quarantine(everything, folder),
        sources=describe_sources(everything),
        spellings=clean.spellings,
        corrections=corrected.statistics(selection) if corrected else None,
    )
    if corrected:
        corrected.write(folder)
    statistics.save(folder)
    report(statistics, reporter)
    return statistics


def _some(
    pool: Pool, rows: npt.NDArray[np.int64], dataset: Dataset, reporter: Reporter
) -> tuple[Pool, npt.NDArray[np.int64]]:
    """Of the training rows so many as are asked for, drawn by what is in them: always the same ones of the same data,
    and of grown data the same ones but for those that new ones take the place of."""
    most = dataset.train_rows
    if most is None or most >= len(rows):
        return pool, rows
    drawn = draw(pool.key[rows], dataset.split.seed, "train rows")
    reporter.log(f"{most:,} of {len(rows):,} training rows are used (dataset.train_rows)")
    return pool, np.sort(rows[np.argsort(drawn, kind="stable")[:most]])


def _read(pipeline: Pipeline, folder: Path, reporter: Reporter) -> dict[SplitName, list[RawRows]]:
    dataset, slices = pipeline.dataset, pipeline.slice_columns
    # Only test rows are judged by slices, so only their source must have the columns.
    judged: SplitName = "train" if dataset.test is None else "test"
    writes = TASKS[pipeline.task].writes
    files: dict[SplitName, list[RawRows]] = {}
    for split, source in dataset.sources.items():
        wanted = Wanted(
            dataset.text_columns,
            dataset.label,
            slices,
            slices_required=split == judged,
            outputs=writes == "text",
            sets=writes == "labels",
            separator=dataset.label_separator,
        )
        files[split] = read_pool(source, wanted, split, folder, reporter, dataset.csv)
    return files


def _select(pipeline: Pipeline, pools: dict[SplitName, Pool], sets: LabelSets | None) -> Selection:
    """Each split's rows: those of its own source, or carved from train's."""
    dataset = pipeline.dataset
    train = pools["train"]
    rows = train.remaining
    split = carve(
        train.key[rows],
        # A row counts as its rarest label: whoever has that in every split has the others, too.
        train.label[rows] if sets is None else sets.rarest(train.label[rows]),
        validation=dataset.split.validation if dataset.validation is None else 0.0,
        test=dataset.split.test if dataset.test is None else 0.0,
        seed=dataset.split.seed,
        stratify=dataset.split.stratify and TASKS[pipeline.task].answers_with == "label",
    )
    carved = {"train": rows[split == TRAIN], "validation": rows[split == VALIDATION], "test": rows[split == TEST]}
    return {
        name: (pools[name], pools[name].remaining) if name != "train" and name in pools else (train, carved[name])
        for name in SPLITS
    }
