"""The operator that turns labelled files into a snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import DownstreamTasksSkipped

from retrainer.airflow.connections import AIRFLOW_KEY, signer
from retrainer.airflow.context import run_context
from retrainer.airflow.new_data import note_taken, own_inlet, seen_now, started_by
from retrainer.airflow.notifying import all_of, made
from retrainer.airflow.operators.fine_tune import NO_POOL, FineTuneOperator
from retrainer.airflow.progress import ProgressLog
from retrainer.airflow.step_operator import StepOperator, result_of
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import INGEST, TRAIN, StepRef, StepRequest
from retrainer.errors import UserError
from retrainer.run.processes import run_step
from retrainer.spec import Pipeline
from retrainer.spec.changes import BASE

if TYPE_CHECKING:
    from airflow.sdk import Context

CHECKPOINTS_KEY = "checkpoints"
"""XCom key of the references of finished trainings, one for each base model; an empty list where one is to be made."""


class IngestDatasetOperator(StepOperator):
    """Read labelled text, check it, drop duplicates and leaks, and split it into train, validation and test.

    Returns the reference of the snapshot, with an ``Ingested`` as its output.

    Retries: the snapshot is named by the content of the data, so a retry, or another run over unchanged data, finds
    the finished one and starts no process. Wrong data (a missing column, an unknown label, a file that is not
    UTF-8) fails the task without a retry. A bucket that does not answer is tried again.

    As the first task it also changes the pipeline as the run was asked to (``airflow/form.py``), and looks at the key
    that it signs with and the notifiers that it names, so that a wrong one is found before anything is trained. A key
    in a file or a variable may lie on another worker: then it only warns. Whether Airflow has the pool that training
    waits for is not known to tasks, so it says what to do where ``train`` never starts.

    :param training: id of the task that trains, directly downstream. Where its checkpoints are there already it is
        skipped, because Airflow would let it wait for a slot of its pool first. What is downstream of it needs
        ``trigger_rule="none_failed"`` then, and finds the references in XCom under the key ``checkpoints``;
        ``retrain_dag`` does so where training takes slots of a pool.
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = INGEST
    task_name = "ingest"

    _seen: Mapping[str, str] = {}

    def __init__(self, *, training: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.training = training

    @classmethod
    def in_dag(cls, pipeline: Pipeline) -> dict[str, Any]:
        """The task that may be skipped, where it would wait."""
        waits = FineTuneOperator.in_dag(pipeline)["pool"] != NO_POOL
        return {"training": FineTuneOperator.task_name} if waits else {}

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Look at the signing key, which is not kept and not given to this step's process, at the notifiers, and which
        data there is.
        """
        if own_inlet(self, pipeline.name) is not None:
            self._seen = seen_now(pipeline)
        try:
            signer(pipeline.publish)
        except UserError as error:
            if str(pipeline.publish.sign_with).startswith(AIRFLOW_KEY):
                raise
            self.log.warning("publishing will fail unless its worker has what this one has not: %s", error)
        for notifier in all_of(pipeline):
            made(notifier)
        taken = FineTuneOperator.in_dag(pipeline)
        pool, slots = taken["pool"], taken["pool_slots"]
        if pool != NO_POOL:
            self.log.info(
                "training takes %d of the slots of the pool %s; if it stays scheduled and its log empty, Airflow does "
                "not have that pool, or not that many slots: airflow pools set %s %d GPUs",
                *(slots, pool, pool, slots),
            )
        return {}

    def execute(self, context: Context) -> dict[str, Any]:
        """Say why the run was started, then as every step."""
        for line in started_by(context):
            self.log.info("new data: %s", line)
        return super().execute(context)

    def conclude(self, ref: StepRef, context: Context) -> None:
        """Note what was read, and skip the training where there is nothing to train."""
        asset = own_inlet(self, self._pipeline.name)
        # A run that publishes nothing, or reads only some of the rows, leaves them to the next one.
        if asset is not None and self._changes.takes_new_data:
            note_taken(context, asset, self._seen)
        if self.training is None:
            return
        finished = self._finished(ref, context)
        context["ti"].xcom_push(CHECKPOINTS_KEY, [result_of(checkpoint) for checkpoint in finished])
        if finished:
            digests = ", ".join(checkpoint.digest[:12] for checkpoint in finished)
            self.log.info("%s is skipped: done before with the same input, artifact %s is used", self.training, digests)
            # Skipping leaves the task by an exception, which drops its result.
            context["ti"].xcom_push(BaseXCom.XCOM_RETURN_KEY, result_of(ref))
            # Also of those that a run for one base model alone leaves out.
            listed = self._changes.was(BASE) or self._pipeline.model.candidates
            mapped = range(len(listed)) or (-1,)
            raise DownstreamTasksSkipped(tasks=[(self.training, index) for index in mapped])

    def _finished(self, snapshot: StepRef, context: Context) -> list[StepRef]:
        """The checkpoints of all base models; none unless each is there."""
        run = run_context(context, root=snapshot.root, changes=self._changes)
        found: list[StepRef] = []
        try:
            for base in self._pipeline.model.candidates or (None,):
                request = TRAIN.plan(self._pipeline, snapshot, context=run, base=base)
                assert isinstance(request, StepRequest), "a snapshot is not a model that could be live"
                if Artifacts(request.root).find(TRAIN.name, request.digest) is None:
                    return []
                checkpoint = run_step(request, on_message=ProgressLog(self.log))
                of_run = {"pipeline": self._pipeline, "changes": self._changes}
                found.append(checkpoint.model_copy(update=of_run))
        except UserError as error:  # a base model may be on the workers that train and not on this one
            self.log.info("whether the training is done already is not known here: %s", error)
            return []
        return found
