"""What all operators share: plan the step, start its process, relay what it says, end it when told to.

The work happens in a process of its own, never in Airflow's. Not here: what a step does (``retrainer.work``), how
its process is started and stopped (``retrainer.run``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.exceptions import AirflowSkipException

from retrainer.airflow.connections import step_environment
from retrainer.airflow.context import require_known_conf, run_context
from retrainer.airflow.dates import made_no_difference, of_date
from retrainer.airflow.failures import RETRY_POLICY
from retrainer.airflow.form import asked_in
from retrainer.airflow.links import RunFolderLink, StepLink
from retrainer.airflow.progress import ProgressLog, ProgressState
from retrainer.airflow.settings import Settings, SettingsLike, as_mapping, in_task
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import Step, StepRef, StepRequest
from retrainer.chain.messages import Message
from retrainer.errors import PipelineError
from retrainer.run.folders import RunFolder
from retrainer.run.processes import StepProcess, run_step
from retrainer.sources.base_models import short_name
from retrainer.spec import Pipeline, load_pipeline, parse_pipeline
from retrainer.spec.changes import BASE, Changes, changes_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

PipelineLike = str | Path | Mapping[str, Any] | Pipeline
"""A pipeline file, what such a file says, or the record."""

Text = str | XComArg
Output = Mapping[str, Any] | XComArg
"""What another task returned, from hand or by way of XCom; so is ``Upstream``, which is a reference to an artifact."""
Upstream = StepRef | Output

REPORT_KEY = "report"
"""XCom key of a task's result as Markdown."""


class StepOperator(BaseOperator):  # type: ignore[misc]
    """One step of a pipeline. Use its subclasses.

    :param pipeline: path of the pipeline file, its content as a mapping, or a ``Pipeline``. (templated: a path, and
        the strings of a mapping; read and checked after that, when the task runs; templates in its ``dataset`` are
        rendered then, too) The first task of a run decides: the
        others go on with the pipeline that its reference holds, and warn where theirs is another one by now.
    :param settings: where artifacts are kept, how buckets are reached, which interpreter trains: see ``Settings``.
        (templated)

    How long is waited before another try depends on the kind of error (``failures.KINDS``), unless ``retry_delay`` or
    ``retry_policy`` is given.
    """

    step: ClassVar[Step[Any]]
    """The step that the operator takes."""
    upstream: ClassVar[str] = ""
    """Its parameter with the reference of the step before it; of a step that compares, with one of each."""
    task_name: ClassVar[str]
    """The id of its task in ``retrain_dag``."""

    template_fields: Sequence[str] = ("pipeline", "settings")
    template_fields_renderers: ClassVar[dict[str, str]] = {"pipeline": "yaml", "settings": "json"}
    links: ClassVar[Sequence[StepLink]] = (RunFolderLink(),)
    """Those that it has where a browser can follow them."""
    ui_color = "#e4ecf7"

    # Of the try that runs in this process; never part of the DAG.
    _pipeline: Pipeline
    _changes: Changes = Changes()
    _actor: str = ""
    _read: Mapping[str, str] = {}
    _left: StepRef | None = None
    _process: StepProcess | None = None
    _killed = False
    _links: Mapping[str, str] = {}

    def __init__(self, *, pipeline: PipelineLike, settings: SettingsLike = None, **kwargs: Any) -> None:
        # Whoever says how long is waited before another try means it, whatever the error.
        if not {"retry_policy", "retry_delay"} & {*kwargs, *kwargs.get("default_args", {})}:
            kwargs["retry_policy"] = RETRY_POLICY
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.settings = as_mapping(settings)

    @property
    def operator_extra_links(self) -> list[BaseOperatorLink]:
        """Airflow asks this also of a mapped task, which has what it was given in ``partial_kwargs``."""
        mapped = getattr(self, "partial_kwargs", None)
        kind, given = (type(self), vars(self)) if mapped is None else (self.operator_class, mapped)
        settings, outlets = as_mapping(given.get("settings")), given.get("outlets") or ()
        return [link for link in kind.links if link.can_be_followed(settings, outlets)]

    @classmethod
    def in_dag(cls, pipeline: Pipeline) -> dict[str, Any]:
        """Arguments of the task in the DAG of a pipeline, beside those that every step has."""
        return {}

    @property
    def base_name(self) -> str:
        """What people call the base model that the task is about; for ``map_index_template``."""
        given = self._base() or next((ref.base for ref in self._references()), None)
        return short_name(given or "")

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Look ahead before anything is planned, in this process; variables for the step's process alone.

        :raises RetrainerError: the step, or one after it, would fail.
        """
        return {}

    def conclude(self, ref: StepRef, context: Context) -> None:
        """Say what there is to say about what the step left, and act on it."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Plan the step and run it in its own process.

        :return: a ``StepRef`` as a mapping: where the artifact is, and as ``output`` what the step hands on. No data,
            no weights.
        :raises AirflowFailException: another try would end the same way.
        :raises AirflowException: another try may help.
        """
        # Also for reading what the step left: it may be in a bucket.
        with in_task(self.settings, self.log, context) as (settings, access):
            if not self.upstream:
                require_known_conf(context)
            request, environment = self.planned(context, settings)
            ref = self.take(request, context, settings, {**step_environment(access), **environment})
            return self.concluded(ref, context)

    def planned(self, context: Context, settings: Settings) -> tuple[StepRequest | StepRef, Mapping[str, str]]:
        """What is to be done, if anything, and variables for the step's process alone.

        :raises RetrainerError: the pipeline is wrong, or an input is missing.
        """
        references = self._references()
        pipeline = self._pipeline = self._of_run(references, context)
        base = self._base()
        if base and self._changes.was(BASE) and base != pipeline.model.base:
            raise AirflowSkipException(f"this run was asked for {pipeline.model.base} alone")
        environment = self.prepare(pipeline)
        run = run_context(
            context,
            root=str(settings.artifact_root),
            approval=getattr(self, "approval", None),
            changes=self._changes,
        )
        self._actor = run.actor
        request = self.step.plan(pipeline, *references, context=run, base=base)
        if isinstance(request, StepRequest):
            self._read = request.inputs
            folder = RunFolder(Artifacts(request.root), request).name
            ProgressState(context.get("task_state_store"), self.log).keep("run_folder", f"{request.root}/runs/{folder}")
            if RunFolderLink() in self.operator_extra_links:
                self._links = {RunFolderLink.xcom_key_of_link: RunFolderLink.target(request.root, folder)}
        return request, environment

    def take(
        self, request: StepRequest | StepRef, context: Context, settings: Settings, environment: Mapping[str, str]
    ) -> StepRef:
        """Run the step in its own process on this host.

        :param environment: variables of that process.
        :raises RetrainerError: it failed.
        """
        log, state = ProgressLog(self.log), ProgressState(context.get("task_state_store"), self.log)

        def relay(message: Message) -> None:
            log(message)
            state(message)

        return run_step(
            request,
            on_message=relay,
            python=settings.trainer_python,
            started=self._started,
            environment=environment,
        )

    def concluded(self, ref: StepRef, context: Context) -> dict[str, Any]:
        """What the task returns of what the step left, once all is said about it."""
        if ref.unchanged:
            self.log.info("%s", ref.unchanged.line())
        elif ref.reused:
            self.log.info("%s: done before with the same input, artifact %s is used", ref.step, ref.digest[:12])
        ref = ref.model_copy(update={"pipeline": self._pipeline, "changes": self._changes})
        self._left = ref
        self.conclude(ref, context)
        return result_of(ref)

    def _of_run(self, references: Sequence[StepRef], context: Context) -> Pipeline:
        """The pipeline that the run began with, changed as it was asked to; what has changed in the file since counts
        in the next run.
        """
        first = next((ref for ref in references if ref.pipeline is not None), None)
        if first is None or first.pipeline is None:
            of_file = load(self.pipeline)
            if said := made_no_difference(of_file, context):
                self.log.warning("%s", said)
            return self._begin(of_date(of_file, self, context), asked_in(context))
        begun, self._changes = first.pipeline, first.changes
        try:
            now = of_date(load(self.pipeline), self, context)
            changed = _changes(begun, self._changes.applied_to(now))
        except PipelineError as error:
            changed = str(error)
        if changed:
            self.log.warning(
                "the pipeline has changed since this run began, and the run keeps the one it began with: %s. To use "
                "the new one, start another run, or clear this one from its first task",
                changed,
            )
        return begun

    def _begin(self, pipeline: Pipeline, asked: Mapping[str, Any]) -> Pipeline:
        """The pipeline as this run was asked to change it."""
        self._changes = changes_of(pipeline, asked)
        for line in self._changes.lines():
            self.log.info("asked of this run: %s", line)
        return self._changes.applied_to(pipeline)

    def _references(self) -> list[StepRef]:
        given: Any = getattr(self, self.upstream) if self.upstream else ()
        # The output of a mapped task is a lazy sequence that asks the API server for each item.
        several = isinstance(given, Sequence) and not isinstance(given, str)
        return [StepRef.from_content(value, where=self.upstream) for value in (given if several else (given,))]

    def _base(self) -> str | None:
        # An empty string is how a template says "not given".
        return str(getattr(self, "base", None) or "") or None

    def _started(self, process: StepProcess) -> None:
        self._process = process
        if self._killed:
            process.terminate()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """What the step read and left; Airflow's openlineage provider asks for it, where it is installed."""
        if self._left is None:
            return None
        from retrainer.airflow.lineage import lineage_of

        return lineage_of(self._left, self._pipeline, self._read)

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


def _changes(begun: Pipeline, now: Pipeline) -> str:
    """What is another value now, key by key."""
    if begun == now:
        return ""
    from retrainer.gate.verify import differences

    found = differences(begun.model_dump(mode="json"), now.model_dump(mode="json"))
    return ", ".join(f"{at.path} was {at.in_file!r}, is {at.recomputed!r}" for at in found)


def result_of(ref: StepRef) -> dict[str, Any]:
    """A reference as a task returns it."""
    return ref.model_dump(mode="json")
