"""The ingest step: labelled text becomes a snapshot of deduplicated, fixed splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from retrainer.artifacts.snapshot import SPLITS, CorrectionStatistics, SnapshotStatistics
from retrainer.chain.definition import Step, StepOutput
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.report.figures import Facts, counted_rows, listed, number
from retrainer.sources import fingerprint
from retrainer.sources.corrections import identity_of
from retrainer.spec.model import Pipeline
from retrainer.tasks import trainable_task


class Ingested(StepOutput):
    """What of a snapshot's statistics travels with the reference to it; see ``SnapshotStatistics``.

    :param rows: split to rows.
    """

    title: ClassVar[str] = "Data"

    rows: dict[str, int]
    labels: tuple[str, ...]
    source_rows: int
    duplicates: int
    conflicts: int
    leakage: dict[str, int]
    near_leakage: dict[str, int]
    quarantined: dict[str, int]
    corrections: CorrectionStatistics | None = None

    @classmethod
    def of(cls, statistics: SnapshotStatistics) -> Self:
        """The small part of the statistics."""
        return cls(
            rows={split: statistics.splits[split].rows for split in SPLITS},
            labels=statistics.labels,
            source_rows=statistics.source_rows,
            duplicates=statistics.duplicates,
            conflicts=statistics.conflicts,
            leakage=dict(statistics.leakage),
            near_leakage=dict(statistics.near_leakage),
            quarantined={str(reason): count for reason, count in statistics.quarantined.items()},
            corrections=statistics.corrections,
        )

    def brief(self) -> str:
        """Rows of each split."""
        return ", ".join(f"{split} {number(count)}" for split, count in self.rows.items())

    def facts(self) -> Facts:
        """Rows, labels, and what was set aside."""
        facts = [
            ("rows", self.brief()),
            *([("labels", listed(self.labels, most=20))] if self.labels else []),
            ("duplicates", f"{number(self.duplicates)} dropped"),
            ("leakage", _rows_of(self.leakage, none="no row is in two splits")),
        ]
        if any(self.near_leakage.values()):
            facts.append(("near leakage", _rows_of(self.near_leakage, none="")))
        facts.append(("quarantined", _rows_of(self.quarantined, none="none")))
        if self.corrections is not None:
            facts.append(("corrections", self._corrected(self.corrections)))
        return tuple(facts)

    def _corrected(self, found: CorrectionStatistics) -> str:
        changed = ", ".join(f"{split} {number(count)}" for split, count in found.relabelled.items() if count)
        unmatched = found.outcomes.get("no_such_row", 0)
        nowhere = f"; {number(unmatched)} match no row" if unmatched else ""
        return f"{number(found.given)}, other labels: {changed or 'none'}{nowhere}"


def _rows_of(counts: Mapping[str, int], *, none: str) -> str:
    found = {name.replace("_", " "): count for name, count in counts.items() if count}
    by_reason = ", ".join(f"{name} {number(count)}" for name, count in found.items())
    return f"{counted_rows(sum(found.values()))}: {by_reason}" if found else none


# Identified by content, or of another step.
_ELSEWHERE: dict[str, bool | set[str]] = {
    **dict.fromkeys(("train", "validation", "test", "corrections", "train_rows"), True),
    "checks": {"suspect_rows"},
}


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Read the pipeline's data, by content.

    :raises DataError: a source does not exist or cannot be read.
    :raises PipelineError: this version cannot train the task.
    """
    trainable_task(pipeline.task, where=pipeline.name)
    dataset = pipeline.dataset
    identity: dict[str, Any] = {
        "task": pipeline.task,
        "dataset": dataset.model_dump(mode="json", exclude={**_ELSEWHERE, "label_separator": True}),
        "slices": sorted(set(pipeline.slice_columns)),
        "sources": {split: fingerprint(source, dataset.csv) for split, source in dataset.sources.items()},
    }
    if dataset.label_separator is not None:  # came later: what was ingested before it is still found
        identity["label_separator"] = dataset.label_separator
    if dataset.corrections is not None:
        identity["corrections"] = identity_of(dataset.corrections)
    if dataset.train_rows is not None:
        identity["train_rows"] = dataset.train_rows
    if context.changes.force:
        # Nobody else's: a retry in the same run finds it, and all that comes of it is new.
        identity["run"] = context.run_id
    return INGEST.request(identity, pipeline, context=context)


INGEST = Step(
    name="ingest",
    version=3,
    about="data",
    after=(),
    output=Ingested,
    planner=_plan,
    work="retrainer.work.ingest",
    operator="retrainer.airflow.operators.ingest.IngestDatasetOperator",
)
