"""The train step: fine-tune the base model on a snapshot."""

from __future__ import annotations

from typing import ClassVar

from retrainer.chain.definition import Step, StepOutput, of_base
from retrainer.chain.messages import duration
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.report.figures import Facts, number, scores
from retrainer.sources import base_models
from retrainer.spec.model import Pipeline


class Trained(StepOutput):
    """What of a training travels with the reference to its checkpoint; see ``TrainingRecord``.

    :param metrics: on the validation rows, at the step that was kept; empty without validation rows.
    :param seconds: wall time of the training loop in the try that ended it.
    """

    title: ClassVar[str] = "Training"

    base_model: str
    epochs: float
    steps: int
    best_step: int
    metrics: dict[str, float]
    rows_per_second: float
    seconds: float
    device: str
    resumed_from: str | None
    parameters: int

    def brief(self) -> str:
        """The scores on validation."""
        return scores(self.metrics)

    def facts(self) -> Facts:
        """How long, how fast, how well."""
        facts = [("base model", self.base_model), ("epochs", f"{self.epochs:g} ({number(self.steps)} steps)")]
        if self.metrics:
            facts.append(("best on validation", scores(self.metrics)))
        facts.append(("speed", f"{self.rows_per_second:.1f} rows/s on {self.device}"))
        facts.append(("time", duration(self.seconds)))
        if self.resumed_from:
            facts.append(("resumed from", self.resumed_from))
        return tuple(facts)


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Fine-tune the base model on a snapshot.

    :raises ModelError: the base model cannot be found.
    :raises PipelineError: the pipeline lists several, and not this one.
    """
    (snapshot,) = upstream
    single = of_base(pipeline, base)
    identity = {
        "snapshot": snapshot.digest,
        "task": single.task,
        "base": base_models.fingerprint(single.model),
        "base_name": base_models.public_name(single.model.base),
        "max_length": single.model.max_length,
        "training": single.training.model_dump(mode="json"),
        "metrics": list(single.metrics),
        "processes": single.resources.processes,
        "gpus": single.resources.gpus,
    }
    if single.of_one_label:
        identity["positive_label"] = single.positive_label
    return TRAIN.request(identity, pipeline, snapshot, context=context, base=base)


TRAIN = Step(
    name="train",
    version=1,
    about="candidate",
    after=("ingest",),
    output=Trained,
    planner=_plan,
    work="retrainer.work.train",
    operator="retrainer.airflow.operators.fine_tune.FineTuneOperator",
    takes_resources=True,
)
