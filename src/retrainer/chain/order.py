"""The order of the chain, its skips, and what became of a run. The only place that lists the steps.

``run_pipeline`` and ``retrain_dag`` both follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from retrainer.chain.definition import Step
from retrainer.chain.requests import StepRef
from retrainer.chain.steps.decay import DECAY
from retrainer.chain.steps.decide import DECIDE
from retrainer.chain.steps.evaluate import EVALUATE
from retrainer.chain.steps.export import EXPORT
from retrainer.chain.steps.ingest import INGEST
from retrainer.chain.steps.publish import PUBLISH
from retrainer.chain.steps.select import SELECT
from retrainer.chain.steps.train import TRAIN
from retrainer.errors import NotFoundError
from retrainer.sources.base_models import short_names
from retrainer.spec.model import Pipeline

CHAIN: tuple[Step[Any], ...] = (INGEST, TRAIN, EXPORT, SELECT, EVALUATE, DECIDE, PUBLISH)
"""Every step, in the order that a run takes them."""
BESIDE: tuple[Step[Any], ...] = (DECAY,)
"""Steps that no run takes: about the model that is live."""

Outcome = Literal["promoted", "unchanged", "refused", "unapproved"]
"""What became of a run.

``promoted``: the channel serves the challenger now. ``unchanged``: it served this very model before. ``refused``: the
gate said no. ``unapproved``: the gate said yes, and the person that the pipeline asks for did not.
"""


def step_named(name: str) -> Step[Any]:
    """The definition of a step.

    :raises NotFoundError: there is no such step.
    """
    for step in (*CHAIN, *BESIDE):
        if step.name == name:
            return step
    raise NotFoundError(f"no step '{name}'", hint=f"the steps are {', '.join(step.name for step in (*CHAIN, *BESIDE))}")


def chain_of(pipeline: Pipeline) -> tuple[Step[Any], ...]:
    """The steps that a run of the pipeline takes."""
    return tuple(step for step in CHAIN if step.about != "candidates" or pipeline.model.candidates)


def step_before(step: Step[Any], chain: tuple[Step[Any], ...]) -> Step[Any] | None:
    """The step of a run whose reference a step is planned from; ``None`` for the first."""
    taken = {other.name: other for other in chain}
    return next((taken[name] for name in step.after if name in taken), None)


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a run, as people see it.

    :param base: the base model, where the run takes the step once for each of several; ``candidate`` is its short name.
    """

    step: Step[Any]
    base: str | None = None
    candidate: str | None = None

    def __str__(self) -> str:
        return self.step.name if self.candidate is None else f"{self.step.name} {self.candidate}"


def stages_of(pipeline: Pipeline) -> tuple[Stage, ...]:
    """What a run of the pipeline goes through, in order: one base model after another where it names several."""
    names = short_names(pipeline.model.candidates)
    stages: list[Stage] = []
    for about, steps in groupby(chain_of(pipeline), key=lambda step: step.about):
        if about == "candidate" and names:
            group = tuple(steps)
            stages += [Stage(step, base, name) for base, name in names.items() for step in group]
        else:
            stages += map(Stage, steps)
    return tuple(stages)


def outcome_of(steps: Mapping[str, StepRef], *, approved: bool) -> Outcome:
    """What the decision says; without one the challenger is refused.

    :param steps: name to reference of the steps that were taken.
    :param approved: nobody has to approve a promotion any more.
    :raises IntegrityError: the decision cannot be read.
    """
    if any(ref.unchanged for ref in steps.values()):
        return "unchanged"
    decision = steps.get(DECIDE.name)
    if decision is None or DECIDE.output_of(decision).verdict != "promote":
        return "refused"
    return "promoted" if approved else "unapproved"
