"""Which step runs on what: the requests of the six steps, their digests, and when nothing has to be done.

A step is a pure function from a request to an artifact. This module writes the requests; it reads
manifests and fingerprints only, and loads nothing heavy. Not here: starting a process (``launch.py``),
what a step does (``work/``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from retrainer import base_model
from retrainer.artifacts import ArtifactManifest, Artifacts
from retrainer.errors import IntegrityError, PipelineError, StorageError
from retrainer.records import Record, digest_of
from retrainer.sources import fingerprint
from retrainer.spec.model import GENERATION_TASKS, Pipeline
from retrainer.store import Manifest, ModelStore, Store

StepName = Literal["ingest", "train", "export", "evaluate", "decide", "publish"]

# Raised when a step's output changes for the same input: older artifacts are then made again.
STEP_VERSIONS: Mapping[StepName, int] = {
    "ingest": 2,
    "train": 1,
    "export": 2,
    "evaluate": 2,
    "decide": 2,
    "publish": 1,
}

# The artifacts that each step reads.
STEP_INPUTS: Mapping[StepName, tuple[StepName, ...]] = {
    "ingest": (),
    "train": ("ingest",),
    "export": ("ingest", "train"),
    "evaluate": ("ingest", "train", "export"),
    "decide": ("ingest", "train", "export", "evaluate"),
    "publish": ("ingest", "train", "export", "evaluate", "decide"),
}


class RunContext(Record):
    """Who runs this, as what, since when. Never part of a digest."""

    run_id: str
    actor: str
    started_at: str = Field(description="UTC, ISO 8601.")
    origin: Literal["airflow", "cli"] = "cli"


class StepRef(Record):
    """A step's artifact, small enough for XCom.

    :param digest: names the artifact; empty where there is nothing to do because the champion is what the step
        would have judged (``summary["unchanged"]``).
    :param reused: the artifact was there already, nothing ran.
    """

    step: StepName
    digest: str
    root: str
    reused: bool
    summary: dict[str, Any]

    @property
    def unchanged(self) -> bool:
        """The channel already serves exactly this."""
        return bool(self.summary.get("unchanged"))


class StepRequest(Record):
    """All that a step's process needs to know."""

    format_version: Literal[1] = 1
    step: StepName
    digest: str
    identity: dict[str, Any]
    pipeline: Pipeline
    inputs: dict[StepName, str]
    root: str
    context: RunContext
    extra: dict[str, Any] = Field(default_factory=dict, description="What the step needs beyond its identity.")


def plan_ingest(pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest:
    """Read the pipeline's data, by content.

    :raises DataError: a source does not exist or cannot be read.
    """
    _refuse_unsupported(pipeline)
    dataset = pipeline.dataset
    sources = {
        name: fingerprint(source)
        for name, source in (
            ("train", dataset.train),
            ("validation", dataset.validation),
            ("test", dataset.test),
        )
        if source is not None
    }
    identity = {
        "task": pipeline.task,
        "dataset": dataset.model_dump(mode="json", exclude={"train", "validation", "test"}),
        "slices": sorted(set(pipeline.gate.slices.by) - {"label", "length"}) if pipeline.gate.slices else [],
        "sources": sources,
    }
    return _request("ingest", identity, pipeline, {}, root, context)


def _refuse_unsupported(pipeline: Pipeline) -> None:
    if pipeline.task in GENERATION_TASKS:
        raise PipelineError(
            f"task '{pipeline.task}' cannot be trained by this version",
            where=pipeline.name,
            hint="use text-classification or text-pair-classification",
        )


def plan_train(pipeline: Pipeline, snapshot: StepRef, *, context: RunContext) -> StepRequest:
    """Fine-tune the base model on a snapshot.

    :raises ModelError: the base model cannot be found.
    """
    identity = {
        "snapshot": snapshot.digest,
        "task": pipeline.task,
        "base": base_model.fingerprint(pipeline.model),
        "max_length": pipeline.model.max_length,
        "training": pipeline.training.model_dump(mode="json"),
        "metrics": list(pipeline.metrics),
        "processes": pipeline.resources.processes,
        "gpus": pipeline.resources.gpus,
    }
    return _request("train", identity, pipeline, _inputs(snapshot), snapshot.root, context)


def plan_export(pipeline: Pipeline, checkpoint: StepRef, *, context: RunContext) -> StepRequest:
    """Turn a checkpoint into the bundle that would be served."""
    identity = {"checkpoint": checkpoint.digest, **pipeline.export.model_dump(mode="json")}
    identity["precisions"] = sorted(pipeline.export.precisions)
    return _request("export", identity, pipeline, _inputs(checkpoint), checkpoint.root, context)


def plan_evaluate(pipeline: Pipeline, bundle: StepRef, *, context: RunContext) -> StepRequest | StepRef:
    """Score the bundle and the champion on the same rows.

    :return: a request; or, when the channel already serves this very bundle, a reference that says so.
    :raises StorageError: the store cannot be reached.
    """
    model = Store.open(pipeline.publish.store).model(pipeline.name)
    champion, state, problem = _champion(model, pipeline.publish.channel)
    if champion is not None and champion.artifacts.get("export") == bundle.digest:
        summary = {
            "unchanged": True,
            "champion_version": champion.version,
            "channel": pipeline.publish.channel,
            "metrics": champion.metrics,
        }
        return StepRef(step="evaluate", digest="", root=bundle.root, reused=True, summary=summary)
    withdrawn = _withdrawn(model, pipeline.publish.channel, bundle.digest) if state == "present" else False
    identity = {
        "bundle": bundle.digest,
        "champion": champion.version if champion else None,
        "champion_state": state,
        "withdrawn": withdrawn,
        "metrics": list(pipeline.metrics),
        "gate_metrics": sorted(_gate_metrics(pipeline)),
        "slices": pipeline.gate.slices.model_dump(mode="json", include={"by", "patterns"})
        if pipeline.gate.slices
        else {},
        "threads": pipeline.gate.budgets.threads,
        "near_duplicate_similarity": pipeline.dataset.checks.near_duplicate_similarity,
    }
    extra = {"champion_error": problem}
    return _request("evaluate", identity, pipeline, _inputs(bundle), bundle.root, context, extra)


def _champion(model: ModelStore, channel: str) -> tuple[Manifest | None, Literal["none", "present", "unreadable"], str]:
    """The champion's manifest, or why there is none. A store that cannot be reached is an error, not "none"."""
    try:
        champion = model.champion(channel)
    except IntegrityError as error:
        return None, "unreadable", str(error)
    return champion, "present" if champion else "none", ""


def _withdrawn(model: ModelStore, channel: str, export_digest: str) -> bool:
    """Whether that bundle was live on the channel and somebody rolled it back; the newest move of it counts."""
    for entry in model.history(channel):
        for version, verdict in ((entry.to_version, False), (entry.from_version, True)):
            if version is None or (verdict and entry.action != "rollback"):
                continue
            try:
                manifest = model.manifest(version)
            except (IntegrityError, StorageError):
                continue  # a damaged old version cannot be the bundle at hand
            if manifest.artifacts.get("export") == export_digest:
                return verdict
    return False


def _gate_metrics(pipeline: Pipeline) -> set[str]:
    against = pipeline.gate.against_champion
    return set(pipeline.gate.floors) | ({against.metric} if against else set())


def plan_decide(pipeline: Pipeline, evaluation: StepRef, *, context: RunContext) -> StepRequest | StepRef:
    """Judge an evaluation by the pipeline's gate."""
    if evaluation.unchanged:
        return StepRef(step="decide", digest="", root=evaluation.root, reused=True, summary=dict(evaluation.summary))
    identity = {
        "evaluation": evaluation.digest,
        "gate": pipeline.gate.model_dump(mode="json"),
        "name": pipeline.name,
    }
    return _request("decide", identity, pipeline, _inputs(evaluation), evaluation.root, context)


def plan_publish(pipeline: Pipeline, decision: StepRef, *, context: RunContext) -> StepRequest:
    """Publish what a decision promoted.

    Never answered from an artifact: whether the channel still stands where it did is asked each time.
    """
    identity = {
        "decision": decision.digest,
        "store": pipeline.publish.store,
        "channel": pipeline.publish.channel,
        "include_checkpoint": pipeline.publish.include_checkpoint,
        "run": context.run_id,
    }
    return _request("publish", identity, pipeline, _inputs(decision), decision.root, context)


def _inputs(previous: StepRef) -> dict[StepName, str]:
    """The digests of everything upstream of the next step, read from the previous step's manifest."""
    manifest = Artifacts(previous.root).get(previous.step, previous.digest)
    upstream: dict[StepName, str] = {step: manifest.inputs[step] for step in STEP_INPUTS[previous.step]}
    return {**upstream, previous.step: previous.digest}


def _request(
    step: StepName,
    identity: dict[str, Any],
    pipeline: Pipeline,
    inputs: dict[StepName, str],
    root: str,
    context: RunContext,
    extra: dict[str, Any] | None = None,
) -> StepRequest:
    whole = {"step": step, "step_version": STEP_VERSIONS[step], **identity}
    return StepRequest(
        step=step,
        digest=digest_of(whole),
        identity=whole,
        pipeline=pipeline,
        inputs=inputs,
        root=root,
        context=context,
        extra=extra or {},
    )


def ref_of(manifest: ArtifactManifest, request: StepRequest, *, reused: bool) -> StepRef:
    """The reference of a completed artifact."""
    return StepRef(
        step=request.step, digest=manifest.digest, root=request.root, reused=reused, summary=manifest.summary
    )
