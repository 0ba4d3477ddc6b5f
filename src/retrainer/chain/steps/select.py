"""The select step: one of several exported bundles is chosen, by its answers on the validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.selection import Selection
from retrainer.chain.definition import Step, StepOutput
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.errors import IntegrityError, PipelineError
from retrainer.report.figures import Facts
from retrainer.report.selection_table import selection_part
from retrainer.sources.base_models import short_name
from retrainer.spec.model import Pipeline


class Selected(StepOutput):
    """The whole selection, for it is small.

    :param export: digest of the bundle that was chosen.
    """

    title: ClassVar[str] = "Selection"

    selection: Selection
    export: str

    def brief(self) -> str:
        """Which one, of how many."""
        return f"{short_name(self.selection.chosen)} of {len(self.selection.candidates)}"

    def facts(self) -> Facts:
        """Which one and why, and the candidates beside each other."""
        return selection_part(self.selection).facts()


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Choose one of several exported bundles, all trained on one snapshot. Their order does not matter.

    Never by the test rows: the best of several on the rows that judge it would look better there than it is.

    :raises PipelineError: no bundle, two of one model, or not those of the base models that the pipeline lists.
    :raises IntegrityError: they come from different snapshots.
    """
    by_base = _bundles_by_base(pipeline, upstream)
    snapshots = {Artifacts(ref.root).get("export", ref.digest).inputs["ingest"] for ref in upstream}
    if len(snapshots) != 1 or len({ref.root for ref in upstream}) != 1:
        raise IntegrityError(
            "the bundles were not trained on one snapshot, so no rows can compare them",
            where=pipeline.name,
            hint="run the pipeline again from its first step",
        )
    identity = {
        "bundles": by_base,
        "metric": pipeline.choose_by,
        "metrics": sorted({*pipeline.metrics, pipeline.choose_by}),
        "alpha": pipeline.gate.alpha,
        "threads": pipeline.gate.budgets.threads,
    }
    if pipeline.of_one_label:
        identity["positive_label"] = pipeline.positive_label
    return SELECT.request(
        identity,
        pipeline,
        upstream[0],
        context=context,
        # The bundles are in its identity, for they are several.
        inputs={"ingest": snapshots.pop()},
        compared=tuple(by_base),
    )


def _bundles_by_base(pipeline: Pipeline, bundles: Sequence[StepRef]) -> dict[str, str]:
    """Base model to digest, in the pipeline's order."""
    listed = pipeline.model.candidates
    by_base = {ref.base or pipeline.model.base: ref.digest for ref in bundles}
    complaint = ""
    if not bundles:
        complaint = "there is no bundle to choose from"
    elif len(by_base) < len(bundles) or len(set(by_base.values())) < len(bundles):
        complaint = "two of the bundles are the same model"
    elif listed and (missing := [base for base in listed if base not in by_base]):
        complaint = f"there is no bundle of {', '.join(missing)}"
    elif listed and (foreign := [base for base in by_base if base not in listed]):
        complaint = f"there is a bundle of {', '.join(foreign)}, which is not listed"
    if complaint:
        raise PipelineError(
            complaint,
            where=f"{pipeline.name}: model.base",
            hint="choose among one bundle of each base model that the pipeline lists",
        )
    return {base: by_base[base] for base in listed or sorted(by_base)}


SELECT = Step(
    name="select",
    version=3,
    about="candidates",
    after=("export",),
    output=Selected,
    planner=_plan,
    work="retrainer.work.select",
    operator="retrainer.airflow.operators.select.SelectModelOperator",
    loads_beside="export",
)
