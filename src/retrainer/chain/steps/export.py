"""The export step: a checkpoint becomes the bundle that would be served."""

from __future__ import annotations

from typing import ClassVar

from retrainer.chain.definition import Step, StepOutput
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.errors import PipelineError
from retrainer.report.figures import Facts
from retrainer.spec.model import Pipeline


class Exported(StepOutput):
    """What of an export travels with the reference to its bundle; see ``ParityReport``.

    :param max_difference: precision to the largest absolute difference of a logit from the checkpoint's.
    :param size_mb: precision to the size of its graph, in 10^6 bytes.
    :param temperatures: precision to what its logits are divided by; empty where none was asked for.
    """

    title: ClassVar[str] = "Export"

    precisions: tuple[str, ...]
    max_difference: dict[str, float]
    label_agreement: dict[str, float]
    rows: int
    longest_tokens: int
    exporter: str
    size_mb: dict[str, float]
    temperatures: dict[str, float]

    def brief(self) -> str:
        """The graphs there are."""
        return ", ".join(self.precisions)

    def facts(self) -> Facts:
        """The graphs, how close they are to the checkpoint, how large."""
        differences = ", ".join(f"{name} within {value:.1e}" for name, value in self.max_difference.items())
        sizes = ", ".join(f"{name} {size:.1f} MB" for name, size in self.size_mb.items())
        return (("graphs", self.brief()), ("against checkpoint", differences), ("size", sizes))


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Turn a checkpoint into the bundle that would be served.

    :raises PipelineError: the checkpoint came from another base model, or the pipeline does not list it.
    """
    (checkpoint,) = upstream
    if base is not None and checkpoint.base not in {None, base}:
        raise PipelineError(
            f"the checkpoint was trained from {checkpoint.base}",
            where=f"{pipeline.name}: export of {base}",
            hint="give each export the checkpoint of its own base model",
        )
    identity = {
        "checkpoint": checkpoint.digest,
        **pipeline.export.model_dump(mode="json"),
        "precisions": sorted(pipeline.export.precisions),
    }
    return EXPORT.request(identity, pipeline, checkpoint, context=context, base=base)


EXPORT = Step(
    name="export",
    version=3,
    about="candidate",
    after=("train",),
    output=Exported,
    planner=_plan,
    work="retrainer.work.export",
    operator="retrainer.airflow.operators.export.ExportOnnxOperator",
    loads_beside="train",
)
