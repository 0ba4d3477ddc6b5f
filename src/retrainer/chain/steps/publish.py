"""The publish step: what the gate promoted goes live."""

from __future__ import annotations

from typing import ClassVar

from retrainer.chain.definition import Step, StepOutput
from retrainer.chain.model_store import model_of
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.errors import PipelineError
from retrainer.report.figures import Facts, megabytes
from retrainer.spec.model import Pipeline


class Published(StepOutput):
    """Where a model went, and what the channel served before.

    :param moved: false where the channel served this version already.
    :param sequence: number of the channel's move; ``move`` is its SHA-256.
    :param signed_by: id of the key; ``None`` where nothing was signed.
    :param move: SHA-256 of the record of the channel's move.
    :param decision: digest of the decide artifact.
    :param sent_bytes: uploaded; ``copied_bytes`` were in the store already.
    """

    title: ClassVar[str] = "Published"

    version: str
    channel: str
    moved: bool
    previous: str | None
    sequence: int
    store: str
    model: str
    precisions: tuple[str, ...]
    metrics: dict[str, float]
    decision: str
    move: str
    sent_bytes: int
    copied_bytes: int
    signed_by: str | None

    def brief(self) -> str:
        """The version, and where."""
        return f"version {self.version} on {self.channel}"

    def facts(self) -> Facts:
        """Version, place, what was there before, what was sent."""
        before = f"; {megabytes(self.copied_bytes)} were in the store already" if self.copied_bytes else ""
        facts = [
            ("version", self.version),
            ("model", self.model),
            ("store", self.store),
            ("channel", self.channel),
            ("before", self.previous or "nothing"),
            ("graphs", ", ".join(self.precisions)),
        ]
        if self.signed_by:
            facts.append(("signed by", f"key {self.signed_by}"))
        return (*facts, ("sent", f"{megabytes(self.sent_bytes)}{before}"))


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Publish what a decision promoted.

    Never answered from an artifact once the channel has moved: somebody may have rolled it back since.

    :raises PipelineError: a person has to approve it, and none did; or the run is a dry one.
    :raises StorageError: the store cannot be reached.
    """
    (decision,) = upstream
    publish = pipeline.publish
    if context.changes.dry_run:
        raise PipelineError(
            "the run is a dry one, and publishes nothing",
            where=pipeline.name,
            hint="skip this task after a dry run, as retrain_dag does; a run that is none finds everything else done",
        )
    if publish.approval.required and not context.approved:
        raise PipelineError(
            "a person has to approve what the gate promotes, and nobody did",
            where=f"{pipeline.name}: publish.approval",
            hint="retrainer run --approve; in a DAG of your own give PublishModelOperator the approval task's output",
        )
    newest = model_of(pipeline).newest_move(publish.channel)
    identity = {
        "decision": decision.digest,
        "store": publish.store,
        "channel": publish.channel,
        "include_checkpoint": publish.include_checkpoint,
        "run": context.run_id,
        "after_move": newest.sequence if newest else 0,
    }
    if publish.sign_with is not None:
        # The same run again with another key publishes again, to sign what is there.
        identity["signed_with"] = publish.sign_with
    return PUBLISH.request(identity, pipeline, decision, context=context)


PUBLISH = Step(
    name="publish",
    version=3,
    about="challenger",
    after=("decide",),
    output=Published,
    planner=_plan,
    work="retrainer.work.publish",
    operator="retrainer.airflow.operators.publish.PublishModelOperator",
    loads_beside="export",
    signs=True,
    when_promoted=True,
)
