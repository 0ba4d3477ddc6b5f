"""What all operators share: plan the step, start its process, relay what it says, end it when told to.

The work happens in a process of its own, never in Airflow's. Not here: what a step does (``retrainer.work``), how
its process is started and stopped (``retrainer.run.processes``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from retrainer.airflow import settings
from retrainer.airflow.connections import s3_access, step_environment
from retrainer.airflow.context import run_context
from retrainer.airflow.failures import as_airflow
from retrainer.airflow.links import RunFolderLink
from retrainer.airflow.progress import ProgressLog
from retrainer.chain import RunContext, StepRef, StepRequest
from retrainer.errors import RetrainerError
from retrainer.run.processes import StepProcess, run_step
from retrainer.spec import Pipeline, load_pipeline, parse_pipeline
from retrainer.storage import use_access

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context, XComArg

PipelineLike = str | Path | Mapping[str, Any] | Pipeline
"""A pipeline file, what such a file says, or the record."""


class StepOperator(BaseOperator):  # type: ignore[misc]
    """One step of a pipeline. Use its subclasses.

    :param pipeline: path of the pipeline file, its content as a mapping, or a ``Pipeline``. (templated: a path, and
        the strings of a mapping; read and checked after that, when the task runs)
    :param artifact_root: where the steps keep their outputs: a path, ``file://`` or ``s3://``. Unless given,
        ``$RETRAINER_ARTIFACT_ROOT``, then ``[retrainer] artifact_root``, then
        ``$AIRFLOW_HOME/retrainer/artifacts``. (templated)
    :param trainer_python: interpreter that has ``airflow-retrainer[train]``. Unless given,
        ``$RETRAINER_TRAINER_PYTHON``, then ``[retrainer] trainer_python``, then the interpreter of the task.
        (templated)
    :param aws_conn_id: connection of type ``aws`` through which the buckets of artifacts, data and store are reached,
        by this task and by the step's process. Unless given, ``$RETRAINER_AWS_CONN_ID``, then
        ``[retrainer] aws_conn_id``; else what boto3 finds on the worker. (templated)
    """

    template_fields: Sequence[str] = ("pipeline", "artifact_root", "trainer_python", "aws_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"pipeline": "yaml"}
    operator_extra_links: Sequence[BaseOperatorLink] = (RunFolderLink(),)
    ui_color = "#e4ecf7"

    # Of the try that runs in this process; never part of the DAG.
    _process: StepProcess | None = None
    _killed = False
    _links: Mapping[str, str] = {}

    def __init__(
        self,
        *,
        pipeline: PipelineLike,
        artifact_root: str | Path | None = None,
        trainer_python: str | Path | None = None,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.artifact_root = artifact_root
        self.trainer_python = trainer_python
        self.aws_conn_id = aws_conn_id

    def plan(self, pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest | StepRef:
        """The request of this step; a reference when there is nothing to do."""
        raise NotImplementedError

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Look ahead before anything is planned, in this process; variables for the step's process alone.

        :raises RetrainerError: the step, or one after it, would fail.
        """
        return {}

    def conclude(self, ref: StepRef, context: Context) -> dict[str, Any]:
        """What the task returns, once the step is done: a ``StepRef`` as a mapping. No data, no weights."""
        return ref.model_dump(mode="json")

    def execute(self, context: Context) -> dict[str, Any]:
        """Plan the step and run it in its own process.

        :raises AirflowFailException: another try would end the same way.
        :raises AirflowException: another try may help.
        """
        try:
            # Also the reading of what the step left: it may lie in a bucket.
            access = s3_access(settings.aws_conn_id(self.aws_conn_id))
            with use_access(access):
                return self.conclude(self._run(context, step_environment(access)), context)
        except RetrainerError as error:
            # The message says it all; the frames below it would bury it in the task log.
            raise as_airflow(error) from None

    def _run(self, context: Context, environment: Mapping[str, str]) -> StepRef:
        pipeline = load(self.pipeline)
        environment = {**environment, **self.prepare(pipeline)}
        root = settings.artifact_root(self.artifact_root)
        request = self.plan(pipeline, root=root, context=self._context(context))
        self._remember_links(request)
        progress = ProgressLog(self.log)
        ref = run_step(
            request,
            on_message=progress,
            python=settings.trainer_python(self.trainer_python),
            started=self._started,
            environment=environment,
        )
        if ref.reused and ref.digest:
            self.log.info("%s: done before with the same input, artifact %s is used", ref.step, ref.digest[:12])
        return ref

    def _context(self, context: Context) -> RunContext:
        return run_context(context)

    def _remember_links(self, request: StepRequest | StepRef) -> None:
        if isinstance(request, StepRequest):
            self._links = {RunFolderLink.xcom_key_of_link: RunFolderLink.target(request)}

    def _started(self, process: StepProcess) -> None:
        self._process = process
        if self._killed:
            process.terminate()

    def on_kill(self) -> None:
        """End the step's process and all it started. Airflow calls this in its signal handler."""
        self._killed = True
        if self._process is not None:
            self._process.terminate()

    def link(self, xcom_key: str) -> str:
        """Where a link of this task leads; empty until that is known."""
        return self._links.get(xcom_key, "")


def load(pipeline: PipelineLike) -> Pipeline:
    """The record of what an operator was given.

    :raises PipelineError: it is wrong.
    """
    if isinstance(pipeline, Pipeline):
        return pipeline
    if isinstance(pipeline, Mapping):
        return parse_pipeline(pipeline)
    return load_pipeline(pipeline)


def reference(value: StepRef | Mapping[str, Any] | XComArg) -> StepRef:
    """The upstream step's reference, from XCom or from hand."""
    return value if isinstance(value, StepRef) else StepRef.model_validate(value)
