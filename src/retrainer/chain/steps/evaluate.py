"""The evaluate step: the bundle and the champion are scored on the same rows."""

from __future__ import annotations

from typing import ClassVar

from retrainer.artifacts.evaluation import ChampionState
from retrainer.artifacts.measures import Latency
from retrainer.artifacts.repository import Artifacts
from retrainer.chain.champion import read_champion, withdrawn
from retrainer.chain.definition import Step, StepOutput, inputs_after
from retrainer.chain.model_store import model_of
from retrainer.chain.requests import RunContext, StepRef, StepRequest, Unchanged
from retrainer.chain.steps.export import EXPORT
from retrainer.chain.steps.select import SELECT
from retrainer.errors import IntegrityError
from retrainer.report.figures import Facts, number, scores
from retrainer.spec.model import Pipeline

# File of the artifact: the set of rows that the models were scored on, as the ledger keeps it.
TEST_ROWS = "test_rows.bin"


class Evaluated(StepOutput):
    """What of an evaluation travels with the reference to it; see ``EvaluationRecord``.

    :param metrics: of the challenger's fp32 graph; ``None`` for what has no value on these rows.
    :param champion_metrics: of the champion on the same rows; ``None`` without one.
    :param test_rows: SHA-256 of the set of rows, as the ledger names it.
    :param anchor_version: of the channel, also where it is the champion; ``anchor_error`` why it could not be scored.
    """

    title: ClassVar[str] = "Evaluation"

    rows: int
    metrics: dict[str, float | None]
    champion_state: ChampionState
    champion_version: str | None
    champion_metrics: dict[str, float | None] | None
    baseline_metrics: dict[str, float | None] | None
    latency_ms: Latency | None
    rows_per_second: float | None
    peak_memory_mb: float | None
    test_rows: str
    anchor_version: str | None
    anchor_error: str | None

    def brief(self) -> str:
        """The scores, and of whom they are held against."""
        return scores(self.metrics) + (f", champion {self.champion_version}" if self.champion_version else "")

    def facts(self) -> Facts:
        """Each score beside the champion's, the latency, and which champion it was."""
        facts = [("rows", number(self.rows))]
        facts += [(name, self._beside_champion(name, value)) for name, value in self.metrics.items()]
        if self.latency_ms is not None:
            latency = self.latency_ms
            facts.append(("latency", f"{number(latency.p50)} ms median, {number(latency.p95)} ms p95"))
        facts.append(("champion", self._champion()))
        return tuple(facts)

    def _beside_champion(self, name: str, value: float | None) -> str:
        if not self.champion_metrics:
            return number(value)
        before = self.champion_metrics.get(name)
        change = f"   {value - before:+.4f}" if value is not None and before is not None else ""
        return f"{number(value)}   champion {number(before)}{change}"

    def _champion(self) -> str:
        version = f"version {self.champion_version}" if self.champion_version else ""
        if self.champion_state == "unreadable":
            return f"{version} could not be read".strip()
        return version or "none to compare with"


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest | StepRef:
    """Score the bundle and the champion; a reference when the channel already serves this very bundle.

    The step before it is an export, or the selection that chose one.

    :raises StorageError: the store cannot be reached.
    :raises IntegrityError: the selection chose what it was not given.
    """
    (before,) = upstream
    bundle = before if before.step != SELECT.name else _chosen(before)
    model = model_of(pipeline)
    channel = pipeline.publish.channel
    champion, anchor, state, problem = read_champion(model, channel)
    if champion is not None and champion.artifacts.get("export") == bundle.digest:
        return StepRef(
            step=EVALUATE.name,
            digest="",
            root=bundle.root,
            reused=True,
            output={},
            unchanged=Unchanged(version=champion.version, channel=channel, metrics=champion.metrics),
            base=bundle.base,
        )
    slices = pipeline.gate.slices
    identity = {
        # The evaluation says of which model it is, and what is wrong with a champion that its store cannot give.
        "name": pipeline.name,
        "store": pipeline.publish.store if state != "none" else None,
        "bundle": bundle.digest,
        "champion": champion.version if champion else None,
        "champion_state": state,
        "anchor": anchor if pipeline.gate.max_loss is not None else None,
        "champion_error": problem or None,
        "withdrawn": withdrawn(model, channel, bundle.digest) if state == "present" else False,
        "metrics": list(pipeline.metrics),
        "gate_metrics": list(pipeline.gate_metrics),
        "slices": slices.model_dump(mode="json", include={"by", "patterns"}) if slices else {},
        "threads": pipeline.gate.budgets.threads,
        "near_duplicate_similarity": pipeline.dataset.checks.near_duplicate_similarity,
        "on_leakage": pipeline.dataset.checks.on_leakage,
        "suspect_rows": pipeline.dataset.checks.suspect_rows,
    }
    if pipeline.of_one_label:
        identity["positive_label"] = pipeline.positive_label
    inputs = inputs_after(bundle)
    if before is not bundle:
        # The evaluation repeats how the bundle was chosen.
        identity["selection"] = inputs[SELECT.name] = before.digest
    return EVALUATE.request(identity, pipeline, bundle, context=context, inputs=inputs)


def _chosen(selection: StepRef) -> StepRef:
    """The bundle that a selection chose."""
    manifest = Artifacts(selection.root).get(SELECT.name, selection.digest)
    selected = SELECT.output_of(manifest)
    chosen = selected.selection.chosen
    if manifest.identity["bundles"].get(chosen) != selected.export:
        raise IntegrityError(
            f"the selection chose {chosen}, and its bundle is not one that it was given",
            where=f"select artifact {selection.digest}",
            hint="delete that artifact and run the pipeline again",
        )
    return StepRef(step=EXPORT.name, digest=selected.export, root=selection.root, reused=True, output={}, base=chosen)


EVALUATE = Step(
    name="evaluate",
    version=3,
    about="challenger",
    after=("select", "export"),
    output=Evaluated,
    planner=_plan,
    work="retrainer.work.evaluate",
    operator="retrainer.airflow.operators.evaluate.EvaluateModelOperator",
    loads_beside="export",
    measures=True,
)
