"""A pipeline from its first step to its last without Airflow: the same steps, in the same child processes.

Not here: the order of the steps (``chain/order.py``), showing it to anybody (``cli``), saying what came out
(``report.py``), what a step does (``work``).
"""

from __future__ import annotations

import getpass
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import SELECT, Outcome, RunContext, Stage, StepRef, StepRequest, outcome_of, stages_of
from retrainer.chain.messages import Message
from retrainer.run.ahead import Ahead
from retrainer.run.engines import connect
from retrainer.run.folders import RunFolder
from retrainer.run.processes import StepProcess, run_step
from retrainer.run.remote import release, run_elsewhere
from retrainer.spec.model import Pipeline
from retrainer.storage import join_url


class Observer:
    """Is told what happens while a pipeline runs. Every method does nothing unless overridden."""

    def planning(self, stage: Stage) -> None:
        """A step's inputs are being looked at: is there anything to do?"""

    def started(self, stage: Stage, process: StepProcess) -> None:
        """A step's process was started."""

    def message(self, stage: Stage, message: Message) -> None:
        """A step's process said something."""

    def finished(self, stage: Stage, ref: StepRef) -> None:
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
    steps: Mapping[str, StepRef]
    outcome: Outcome
    candidates: Mapping[str, Mapping[str, StepRef]] = field(default_factory=dict)


def default_actor() -> str:
    """``$RETRAINER_ACTOR``, else the user of the operating system, else their number."""
    configured = os.environ.get("RETRAINER_ACTOR")
    if configured:
        return configured
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def new_context(root: str, *, actor: str | None = None, approved: bool = False) -> RunContext:
    """The context of a run that starts now, from the command line.

    :param root: artifact root: ``file://``, ``s3://`` or a path.
    :param approved: a person wants a promoted model published; matters where the pipeline asks for approval.
    """
    now = datetime.now(UTC)
    return RunContext(
        run_id=f"cli__{now.isoformat(timespec='seconds')}_{secrets.token_hex(2)}",
        actor=actor or default_actor(),
        started_at=now.isoformat(timespec="seconds"),
        origin="cli",
        root=root,
        approved=approved,
    )


def run_pipeline(
    pipeline: Pipeline,
    *,
    context: RunContext,
    observer: Observer | None = None,
    python: str | None = None,
) -> RunResult:
    """Take the steps in order; stop after the decision when there is nothing to publish.

    Where the pipeline lists several base models, each is trained and exported, one after another, and the best of
    them is chosen before anything is evaluated. A base model that fails ends the run: the best of the others might not
    be the best.

    :param python: interpreter that has the training libraries; this one by default.
    :raises RetrainerError: a step failed. A refused challenger is not an error.
    """
    watching = observer or Observer()
    done: dict[Stage, StepRef] = {}
    folder = ""
    approved = context.approved or not pipeline.publish.approval.required
    stages = stages_of(pipeline)
    engine = connect(pipeline.resources)
    with Ahead(pipeline, stages, python) as ahead:

        def started(stage: Stage, process: StepProcess) -> None:
            watching.started(stage, process)
            # Not before something runs: where nothing changed, the later steps have nothing to do either.
            ahead.start_beside(stage)

        for stage in stages:
            if stage.step.when_promoted and outcome_of(_by_name(done), approved=approved) != "promoted":
                continue
            watching.planning(stage)
            request = stage.step.plan(pipeline, *_upstream(stage, done), context=context, base=stage.base)
            if isinstance(request, StepRequest):
                folder = folder or _folder(request)
            say = partial(watching.message, stage)
            if isinstance(request, StepRequest) and stage.step.takes_resources and engine is not None:
                done[stage] = run_elsewhere(engine, request, say)
            else:
                if isinstance(request, StepRequest) and stage.step.takes_resources:
                    release(request)
                done[stage] = run_step(
                    request, on_message=say, python=python, started=partial(started, stage), ahead=ahead
                )
            watching.finished(stage, done[stage])
    steps = _by_name(done, chosen=_chosen(done))
    return RunResult(
        context=context,
        root=context.root,
        folder=folder,
        steps=steps,
        outcome=outcome_of(steps, approved=approved),
        candidates={
            base: {stage.step.name: ref for stage, ref in done.items() if stage.base == base}
            for base in pipeline.model.candidates
        },
    )


def _upstream(stage: Stage, done: Mapping[Stage, StepRef]) -> list[StepRef]:
    """The references that a step is planned from: of its own base model, or of all where it compares them."""
    for name in stage.step.after:
        found = [
            ref
            for before, ref in done.items()
            if before.step.name == name and (stage.base is None or before.base in {None, stage.base})
        ]
        if found:
            return found
    return []


def _by_name(done: Mapping[Stage, StepRef], *, chosen: str | None = None) -> dict[str, StepRef]:
    """The steps taken once, and those of the chosen base model."""
    return {stage.step.name: ref for stage, ref in done.items() if stage.base in {None, chosen}}


def _chosen(done: Mapping[Stage, StepRef]) -> str | None:
    """The base model that goes on, where several were compared."""
    selection = _by_name(done).get(SELECT.name)
    return SELECT.output_of(selection).selection.chosen if selection else None


def _folder(request: StepRequest) -> str:
    artifacts = Artifacts(request.root)
    name = RunFolder(artifacts, request).name
    return join_url(request.root, "runs", name) if artifacts.remote else str(artifacts.local / "runs" / name)
