"""The check of the champion on newly labelled rows. Not a step of the chain: it trains nothing, and moves nothing."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from retrainer.artifacts.decay import DecayCode, DecayRecord, DecayVerdict, Drop
from retrainer.artifacts.measures import Score
from retrainer.artifacts.repository import Artifacts
from retrainer.chain.champion import read_champion
from retrainer.chain.definition import Step, StepOutput
from retrainer.chain.model_store import model_of
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.chain.steps.ingest import INGEST
from retrainer.errors import IntegrityError, NoDataError
from retrainer.report.figures import Facts, number
from retrainer.sources import fingerprint
from retrainer.sources.corrections import identity_of
from retrainer.spec.known_metrics import OF_ONE_LABEL
from retrainer.spec.model import Pipeline
from retrainer.tasks import trainable_task


class DecayChecked(StepOutput):
    """What of a check travels with the reference to it; see ``DecayRecord``."""

    title: ClassVar[str] = "Decay"

    verdict: DecayVerdict
    code: DecayCode
    text: str
    channel: str
    version: str | None
    metric: str
    before: Score | None
    now: Score | None
    drop: Drop | None
    max_drop: float
    at_old_shares: float | None
    rows: int
    left_out: int

    @classmethod
    def of(cls, record: DecayRecord) -> Self:
        """The small part of the record."""
        same = {name: getattr(record, name) for name in cls.model_fields if name != "left_out"}
        return cls(**same, left_out=record.left_out.rows)

    def brief(self) -> str:
        """The verdict, and why."""
        return f"{self.verdict}: {self.text}"

    def facts(self) -> Facts:
        """The scores, the drop, and of which rows."""
        facts = [("verdict", self.verdict), ("why", self.text), ("champion", self.version or "none")]
        for name, score in (("before", self.before), ("now", self.now)):
            if score is not None and score.value is not None:
                facts.append(
                    (f"{self.metric} {name}", f"{number(score.value)}   {_range(score.low, score.high)}".strip())
                )
        if self.drop is not None:
            most = f"at most {number(self.max_drop)} is allowed"
            facts.append(("drop", f"{self.drop.estimate:+.4f}   {_range(self.drop.low, self.drop.high)}, {most}"))
        if self.at_old_shares is not None:
            facts.append(("with the labels' old shares", number(self.at_old_shares)))
        return (*facts, ("new rows", number(self.rows)), ("left out", f"{number(self.left_out)} that it has seen"))


def _range(low: float | None, high: float | None) -> str:
    return f"[{low:.4f}, {high:.4f}]" if low is not None and high is not None else ""


def labelled_alone(pipeline: Pipeline) -> Pipeline:
    """The pipeline as if all rows that it names were those of the check."""
    data = pipeline.decay_check.data or pipeline.dataset.train
    alone = {"train": data, "validation": None, "test": None, "train_rows": None}
    return pipeline.model_copy(update={"dataset": pipeline.dataset.model_copy(update=alone)})


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Hold the champion against the rows that were labelled since. The same champion and rows are one check.

    :raises DataError: the data cannot be read.
    :raises StorageError: the store cannot be reached.
    :raises IntegrityError: there is a champion, and it cannot be read.
    """
    task = trainable_task(pipeline.task, where=pipeline.name)
    check, channel = pipeline.decay_check, pipeline.publish.channel
    champion, _, state, problem = read_champion(model_of(pipeline), channel)
    if state == "unreadable":
        raise IntegrityError(
            f"the champion cannot be read: {problem}",
            where=f"{pipeline.name}: {channel}",
            hint="retrainer fsck says what is wrong with the store",
        )
    dataset = labelled_alone(pipeline).dataset
    snapshot = champion.artifacts.get(INGEST.name) if champion is not None else None
    known = snapshot is not None and Artifacts(context.root).find(INGEST.name, snapshot) is not None
    reading = {"text", "label", "label_separator", "labels", "label_values", "csv"}
    identity: dict[str, Any] = {
        "name": pipeline.name,
        "store": pipeline.publish.store,
        "channel": channel,
        "champion": champion.version if champion is not None else None,
        "task": task.name,
        "dataset": dataset.model_dump(mode="json", include=reading),
        "checks": dataset.checks.model_dump(mode="json", include={"max_null_fraction", "near_duplicate_similarity"}),
        "data": content_of(dataset.train, dataset.csv) if champion is not None else None,
        "corrections": identity_of(dataset.corrections) if dataset.corrections is not None else None,
        "check": check.model_dump(mode="json", include={"metric", "max_drop", "min_rows"}),
        "positive_label": pipeline.positive_label if check.metric in OF_ONE_LABEL else None,
        # Elsewhere it may be there.
        "snapshot_known": known,
    }
    inputs = {INGEST.name: snapshot} if known and snapshot is not None else {}
    return DECAY.request(identity, pipeline, context=context, inputs=inputs)


def content_of(source: Any, csv: Any) -> str | None:
    """What identifies the rows; ``None`` where there is no file of them yet."""
    try:
        return fingerprint(source, csv)
    except NoDataError:
        return None


DECAY = Step(
    name="decay",
    version=1,
    about="champion",
    after=(),
    output=DecayChecked,
    planner=_plan,
    work="retrainer.work.decay",
    operator="retrainer.airflow.operators.decay.CheckDecayOperator",
)
