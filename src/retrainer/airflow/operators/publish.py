"""The operator that puts a promoted model live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import Asset

from retrainer.airflow.assets import MOVED_MODELS, channel_asset, model_asset, tell
from retrainer.airflow.connections import signing_key
from retrainer.airflow.links import PublishedVersionLink, StepLink
from retrainer.airflow.notifying import tell_people
from retrainer.airflow.step_operator import Output, PipelineLike, StepOperator, Upstream
from retrainer.chain import PUBLISH, Published, StepRef
from retrainer.chain.model_store import signer_of
from retrainer.report.figures import megabytes
from retrainer.spec import Pipeline
from retrainer.spec.changes import CHANNEL
from retrainer.store.signing_keys import SIGNING_KEY

if TYPE_CHECKING:
    from airflow.sdk import Context


class PublishModelOperator(StepOperator):
    """Put the promoted bundle into the store and move the channel to it.

    Returns the reference of the publication, with a ``Published`` as its output. The model's asset is its outlet
    (``retrainer.airflow.model_asset``). Given a path or a mapping it is known only when the task runs, and Airflow's
    graph of assets does not show it before that; ``outlets=[model_asset(pipeline)]`` declares it (``retrain_dag``
    does). The event's ``extra`` carries version, previous version, metrics and the decision.

    Signing: the key that ``publish.sign_with`` names is loaded before anything else, and one that cannot be used fails
    the task without a retry. That of ``airflow:CONNECTION`` is the connection's password; it reaches the step's process
    in its environment and no other place.

    Retries: publishing is idempotent. A try that was cut short leaves readers on the old version, and the next one
    converges. When the channel moved since the decision was taken, the task fails without a retry: the decision
    compared the challenger with a model that is not live any more. Clear the evaluation with all downstream.

    :param decision: what ``EvaluationGateOperator`` returned. (templated)
    :param approval: what Airflow's ``ApprovalOperator`` returned. The history then names the person who approved,
        instead of who started the run. (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = PUBLISH
    upstream = "decision"
    task_name = "publish"
    template_fields: Sequence[str] = (*StepOperator.template_fields, "decision", "approval")
    links: ClassVar[Sequence[StepLink]] = (*StepOperator.links, PublishedVersionLink())
    ui_color = "#dff2e1"

    # Of Airflow's operator, which says nothing of its type.
    outlets: list[Any]

    def __init__(
        self, *, pipeline: PipelineLike, decision: Upstream, approval: Output | None = None, **kwargs: Any
    ) -> None:
        of_pipeline = self.in_dag(pipeline) if isinstance(pipeline, Pipeline) else {"outlets": [MOVED_MODELS]}
        super().__init__(pipeline=pipeline, **{**of_pipeline, **kwargs})
        self.decision = decision
        self.approval = approval

    @classmethod
    def in_dag(cls, pipeline: Pipeline) -> dict[str, Any]:
        """The model's asset is told of each new version; that of another channel, where a run was asked for one."""
        return {"outlets": [model_asset(pipeline), MOVED_MODELS]}

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Load the signing key; the variable that hands it to the step's process where a connection holds it."""
        pem = signing_key(pipeline.publish)
        signer_of(pipeline.publish, pem=pem)
        return {} if pem is None else {SIGNING_KEY: pem}

    def conclude(self, ref: StepRef, context: Context) -> None:
        """Describe the new version in the asset's event."""
        published = PUBLISH.output_of(ref)
        self._links = {**self._links, PublishedVersionLink.xcom_key_of_link: PublishedVersionLink.target(published)}
        before = f"; before: {published.previous}" if published.previous else "; the first one"
        if published.moved:
            self.log.info("%s now serves version %s%s", published.channel, published.version, before)
        else:
            self.log.info("%s already serves version %s", published.channel, published.version)
        sent, copied = megabytes(published.sent_bytes), megabytes(published.copied_bytes)
        signed = f"signed by the key {published.signed_by}" if published.signed_by else "not signed"
        self.log.info("%s sent, %s copied within the store; %s", sent, copied, signed)
        happened = {**_event(published), "actor": self._actor, "changes": self._changes.lines()}
        tell(self, context, self._moved(published), happened)
        if published.moved:
            text = f"{published.model}: {published.channel} now serves version {published.version}{before}"
            people = self._pipeline.notify.on_published
            tell_people(people, context, {**happened, "event": "published", "text": text}, self.log)

    def _moved(self, published: Published) -> Asset:
        """The asset of the channel, which may be another one than the file says."""
        publish, declared = self._pipeline.publish, self._changes.was(CHANNEL)
        if declared is None:
            return model_asset(self._pipeline)
        # Airflow makes an event of each asset among the outlets, and that of the file's channel did not move.
        self.outlets = [outlet for outlet in self.outlets if not isinstance(outlet, Asset)]
        return channel_asset(published.model, publish.model_copy(update={"channel": declared}), published.channel)


def _event(published: Published) -> dict[str, Any]:
    told = published.model_dump(mode="json", include={"model", "version", "previous", "moved", "channel", "store"})
    decision = {"verdict": "promote", "digest": published.decision}
    return {**told, "metrics": published.metrics, "decision": decision}
