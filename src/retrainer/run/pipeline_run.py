"""A pipeline from its first step to its last without Airflow: the same steps, in the same child processes.

Not here: showing it to anybody (``cli``), saying what came out (``report/``), what a step does (``work``).
"""

from __future__ import annotations

import getpass
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import (
    RunContext,
    StepName,
    StepRef,
    StepRequest,
    plan_decide,
    plan_evaluate,
    plan_export,
    plan_ingest,
    plan_publish,
    plan_select,
    plan_train,
)
from retrainer.chain.messages import Message
from retrainer.chain.outcome import Outcome, outcome_of
from retrainer.run.folders import RunFolder
from retrainer.run.processes import StepProcess, run_step
from retrainer.sources.base_models import short_names
from retrainer.spec.model import Pipeline
from retrainer.storage import join_url


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a run, as people see it.

    :param candidate: short name of the base model, where the run takes the step once for each of several.
    """

    step: StepName
    candidate: str | None = None

    def __str__(self) -> str:
        return self.step if self.candidate is None else f"{self.step} {self.candidate}"


# The steps that a run takes for each base model.
BUILDING: tuple[StepName, ...] = ("train", "export")
_AFTER: tuple[StepName, ...] = ("evaluate", "decide", "publish")
ONE_MODEL = (Stage("ingest"), *map(Stage, BUILDING), *map(Stage, _AFTER))


def stages_of(pipeline: Pipeline) -> tuple[Stage, ...]:
    """What a run of the pipeline goes through, in order."""
    if not pipeline.model.candidates:
        return ONE_MODEL
    built = [Stage(step, name) for name in short_names(pipeline.model.candidates).values() for step in BUILDING]
    return (Stage("ingest"), *built, Stage("select"), *map(Stage, _AFTER))


class Observer:
    """Is told what happens while a pipeline runs. Every method does nothing unless overridden."""

    def candidate(self, name: str | None) -> None:
        """What follows is about that one of several base models; with ``None``, about no single one any more."""

    def planning(self, step: StepName) -> None:
        """A step's inputs are being looked at: is there anything to do?"""

    def started(self, step: StepName, process: StepProcess) -> None:
        """A step's process was started."""

    def message(self, step: StepName, message: Message) -> None:
        """A step's process said something."""

    def finished(self, ref: StepRef) -> None:
        """A step's artifact is there, made now or before."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What became of a run.

    :param root: the artifact root.
    :param folder: the run's dated folder, a path or an ``s3://`` address.
    :param steps: the references of the steps that were taken, in order; of several base models, the chosen one's.
    :param candidates: base model to the references of its own steps; empty where the pipeline names one.
    """

    context: RunContext
    root: str
    folder: str
    steps: Mapping[StepName, StepRef]
    outcome: Outcome
    candidates: Mapping[str, Mapping[StepName, StepRef]] = field(default_factory=dict)


def default_actor() -> str:
    """``$RETRAINER_ACTOR``, else the user of the operating system, else their number."""
    configured = os.environ.get("RETRAINER_ACTOR")
    if configured:
        return configured
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def new_context(*, actor: str | None = None) -> RunContext:
    """The context of a run that starts now, from the command line."""
    now = datetime.now(UTC)
    return RunContext(
        run_id=f"cli__{now.isoformat(timespec='seconds')}_{secrets.token_hex(2)}",
        actor=actor or default_actor(),
        started_at=now.isoformat(timespec="seconds"),
        origin="cli",
    )


def run_pipeline(
    pipeline: Pipeline,
    *,
    root: str,
    context: RunContext,
    observer: Observer | None = None,
    python: str | None = None,
    approved: bool = False,
) -> RunResult:
    """Take the steps in order; stop after the decision when there is nothing to publish.

    Where the pipeline lists several base models, each is trained and exported, one after another, and the best of
    them is chosen before anything is evaluated. A base model that fails ends the run: the best of the others might not
    be the best.

    :param root: artifact root: ``file://``, ``s3://`` or a path.
    :param python: interpreter that has the training libraries; this one by default.
    :param approved: a person wants a promoted model published; matters where the pipeline asks for approval.
    :raises RetrainerError: a step failed. A refused challenger is no error.
    """
    watching = observer or Observer()
    steps: dict[StepName, StepRef] = {}
    folder = ""

    def take(step: StepName, plan: Callable[[], StepRequest | StepRef]) -> StepRef:
        nonlocal folder
        watching.planning(step)
        request = plan()
        if isinstance(request, StepRequest):
            folder = folder or _folder(request)
        ref = run_step(
            request,
            on_message=lambda message: watching.message(step, message),
            python=python,
            started=lambda process: watching.started(step, process),
        )
        steps[step] = ref
        watching.finished(ref)
        return ref

    def build(base: str) -> StepRef:
        checkpoint = take("train", lambda: plan_train(pipeline, snapshot, context=context, base=base))
        return take("export", lambda: plan_export(pipeline, checkpoint, context=context))

    snapshot = take("ingest", lambda: plan_ingest(pipeline, root=root, context=context))
    candidates: dict[str, dict[StepName, StepRef]] = {}
    if pipeline.model.candidates:
        for base, name in short_names(pipeline.model.candidates).items():
            watching.candidate(name)
            build(base)
            candidates[base] = {step: steps[step] for step in BUILDING}
        watching.candidate(None)
        bundles = [refs["export"] for refs in candidates.values()]
        bundle = take("select", lambda: plan_select(pipeline, bundles, context=context))
        steps.update(candidates[str(bundle.summary["chosen"])])
    else:
        bundle = build(pipeline.model.base)
    evaluation = take("evaluate", lambda: plan_evaluate(pipeline, bundle, context=context))
    decision = take("decide", lambda: plan_decide(pipeline, evaluation, context=context))
    outcome = outcome_of(steps)
    asks = pipeline.publish.approval == "required"
    if outcome == "promoted" and asks and not approved:
        outcome = "unapproved"
    if outcome == "promoted":
        take("publish", lambda: plan_publish(pipeline, decision, context=context, cause="approval" if asks else "gate"))
    return RunResult(
        context=context, root=root, folder=folder, steps=dict(steps), outcome=outcome, candidates=candidates
    )


def _folder(request: StepRequest) -> str:
    artifacts = Artifacts(request.root)
    name = RunFolder(artifacts, request).name
    return join_url(request.root, "runs", name) if artifacts.remote else str(artifacts.local / "runs" / name)
