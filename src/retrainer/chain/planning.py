"""Which step runs on what: the request of each step, its digest, and when nothing has to be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrainer.artifacts.repository import Artifacts
from retrainer.chain.champion import read_champion, withdrawn
from retrainer.chain.model_store import model_of
from retrainer.chain.requests import (
    OPTIONAL_INPUTS,
    STEP_INPUTS,
    STEP_VERSIONS,
    RunContext,
    StepName,
    StepRef,
    StepRequest,
)
from retrainer.errors import IntegrityError, PipelineError
from retrainer.records import digest_of
from retrainer.sources import base_models, fingerprint
from retrainer.spec.model import GENERATION_TASKS, Gate, Pipeline
from retrainer.store.history import Cause


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
    return _request("ingest", identity, pipeline, {}, root, context, compared=_compared(pipeline))


def _refuse_unsupported(pipeline: Pipeline) -> None:
    if pipeline.task in GENERATION_TASKS:
        raise PipelineError(
            f"task '{pipeline.task}' cannot be trained by this version",
            where=pipeline.name,
            hint="use text-classification or text-pair-classification",
        )


def plan_train(pipeline: Pipeline, snapshot: StepRef, *, context: RunContext, base: str | None = None) -> StepRequest:
    """Fine-tune the base model on a snapshot.

    :param base: which of several base models; the pipeline's first unless given.
    :raises ModelError: the base model cannot be found.
    :raises PipelineError: the pipeline lists several, and not this one.
    """
    single = _of_base(pipeline, base or pipeline.model.base)
    identity = {
        "snapshot": snapshot.digest,
        "task": single.task,
        "base": base_models.fingerprint(single.model),
        "max_length": single.model.max_length,
        "training": single.training.model_dump(mode="json"),
        "metrics": list(single.metrics),
        "processes": single.resources.processes,
        "gpus": single.resources.gpus,
    }
    return _request("train", identity, single, _inputs(snapshot), snapshot.root, context, compared=_compared(pipeline))


def plan_export(
    pipeline: Pipeline, checkpoint: StepRef, *, context: RunContext, base: str | None = None
) -> StepRequest:
    """Turn a checkpoint into the bundle that would be served.

    :param base: the base model of the checkpoint; known from its reference unless given.
    :raises PipelineError: the checkpoint came from another base model, or the pipeline does not list it.
    """
    if base is not None and checkpoint.base not in {None, base}:
        raise PipelineError(
            f"the checkpoint was trained from {checkpoint.base}",
            where=f"{pipeline.name}: export of {base}",
            hint="give each export the checkpoint of its own base model",
        )
    single = _of_base(pipeline, base or checkpoint.base or pipeline.model.base)
    identity = {"checkpoint": checkpoint.digest, **single.export.model_dump(mode="json")}
    identity["precisions"] = sorted(single.export.precisions)
    inputs = _inputs(checkpoint)
    return _request("export", identity, single, inputs, checkpoint.root, context, compared=_compared(pipeline))


def plan_select(pipeline: Pipeline, bundles: Sequence[StepRef], *, context: RunContext) -> StepRequest:
    """Choose one of several exported bundles, by their answers on the validation rows of the snapshot.

    Their order does not matter. Never by the test rows: the best of several on the rows that judge it would look
    better there than it is.

    :param bundles: references of exports, each of another base model, all trained on one snapshot.
    :raises PipelineError: no bundle, two of one model, or not those of the base models that the pipeline lists.
    :raises IntegrityError: they come from different snapshots.
    """
    by_base = _bundles_by_base(pipeline, bundles)
    root = bundles[0].root
    snapshots = {ref.base: Artifacts(ref.root).get("export", ref.digest).inputs["ingest"] for ref in bundles}
    if len(set(snapshots.values())) != 1 or any(ref.root != root for ref in bundles):
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
    inputs: dict[StepName, str] = {"ingest": next(iter(snapshots.values()))}
    return _request("select", identity, pipeline, inputs, root, context, compared=tuple(by_base))


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


def plan_evaluate(pipeline: Pipeline, bundle: StepRef, *, context: RunContext) -> StepRequest | StepRef:
    """Score the bundle and the champion on the same rows.

    :param bundle: an export, or the selection that chose one.
    :return: a request; or, when the channel already serves this very bundle, a reference that says so.
    :raises StorageError: the store cannot be reached.
    :raises IntegrityError: the selection chose what it was not given.
    """
    inputs, base = (_inputs(bundle), bundle.base) if bundle.step != "select" else _chosen(bundle)
    single = _of_base(pipeline, base or pipeline.model.base)
    export = inputs["export"]
    model = model_of(pipeline)
    champion, state, problem = read_champion(model, pipeline.publish.channel)
    if champion is not None and champion.artifacts.get("export") == export:
        summary = {
            "unchanged": True,
            "champion_version": champion.version,
            "channel": pipeline.publish.channel,
            "metrics": champion.metrics,
        }
        return StepRef(step="evaluate", digest="", root=bundle.root, reused=True, summary=summary, base=base)
    rolled_back = withdrawn(model, pipeline.publish.channel, export) if state == "present" else False
    identity = {
        "bundle": export,
        "champion": champion.version if champion else None,
        "champion_state": state,
        "withdrawn": rolled_back,
        "metrics": list(pipeline.metrics),
        "gate_metrics": sorted(_gate_metrics(pipeline)),
        "slices": pipeline.gate.slices.model_dump(mode="json", include={"by", "patterns"})
        if pipeline.gate.slices
        else {},
        "threads": pipeline.gate.budgets.threads,
        "near_duplicate_similarity": pipeline.dataset.checks.near_duplicate_similarity,
        "on_leakage": pipeline.dataset.checks.on_leakage,
    }
    if "select" in inputs:
        identity["selection"] = inputs["select"]  # the evaluation repeats how the bundle was chosen
    extra = {"champion_error": problem}
    return _request("evaluate", identity, single, inputs, bundle.root, context, extra, compared=_compared(pipeline))


def _chosen(selection: StepRef) -> tuple[dict[StepName, str], str]:
    """What is upstream of the bundle that a selection chose, and its base model."""
    artifacts = Artifacts(selection.root)
    manifest = artifacts.get("select", selection.digest)
    base, export = str(manifest.summary.get("chosen")), str(manifest.summary.get("export"))
    if manifest.identity["bundles"].get(base) != export:
        raise IntegrityError(
            f"the selection chose {base}, and its bundle is not one that it was given",
            where=f"select artifact {selection.digest}",
            hint="delete that artifact and run the pipeline again",
        )
    reference = StepRef(step="export", digest=export, root=selection.root, reused=True, summary={}, base=base)
    return {**_inputs(reference), "select": selection.digest}, base


def _gate_metrics(pipeline: Pipeline) -> set[str]:
    against = pipeline.gate.against_champion
    return set(pipeline.gate.floors) | ({against.metric} if against else set())


def plan_decide(pipeline: Pipeline, evaluation: StepRef, *, context: RunContext) -> StepRequest | StepRef:
    """Judge an evaluation by the pipeline's gate."""
    if evaluation.unchanged:
        return evaluation.model_copy(update={"step": "decide", "summary": dict(evaluation.summary)})
    single = _of_base(pipeline, evaluation.base or pipeline.model.base)
    identity = decision_identity(pipeline.name, evaluation.digest, pipeline.gate)
    inputs = _inputs(evaluation)
    return _request("decide", identity, single, inputs, evaluation.root, context, compared=_compared(pipeline))


def decision_identity(name: str, evaluation: str, gate: Gate) -> dict[str, Any]:
    """What a decision is named by; its digest names the artifact. So a receipt can be held against that name.

    :param name: of the pipeline, and so of the model.
    :param evaluation: digest of the evaluate artifact.
    """
    return _whole("decide", {"evaluation": evaluation, "gate": gate.model_dump(mode="json"), "name": name})


def plan_publish(pipeline: Pipeline, decision: StepRef, *, context: RunContext, cause: Cause = "gate") -> StepRequest:
    """Publish what a decision promoted.

    Never answered from an artifact: whether the channel still stands where it did is asked each time.

    :param cause: what the history gives as the cause: ``approval`` where a person approved it.
    """
    identity = {
        "decision": decision.digest,
        "store": pipeline.publish.store,
        "channel": pipeline.publish.channel,
        "include_checkpoint": pipeline.publish.include_checkpoint,
        "run": context.run_id,
    }
    if pipeline.publish.sign_with is not None:
        # The same run again with another key publishes again, to sign what is there.
        identity["signed_with"] = pipeline.publish.sign_with
    single = _of_base(pipeline, decision.base or pipeline.model.base)
    inputs = _inputs(decision)
    extra = {"cause": cause}
    return _request("publish", identity, single, inputs, decision.root, context, extra, compared=_compared(pipeline))


def _of_base(pipeline: Pipeline, base: str) -> Pipeline:
    """The pipeline with that base model alone.

    :raises PipelineError: it lists several, and not this one: the file changed while it ran.
    """
    model = pipeline.model
    if model.candidates and base not in model.candidates:
        raise PipelineError(
            f"'{base}' is none of the base models that the pipeline lists",
            where=f"{pipeline.name}: model.base",
            hint=f"listed: {', '.join(model.candidates)}; after a change of the list, run the pipeline from its start",
        )
    return pipeline.of_base(base)


def _compared(pipeline: Pipeline) -> tuple[str, ...]:
    return pipeline.model.candidates


def _inputs(previous: StepRef) -> dict[StepName, str]:
    """The digests of everything upstream of the next step, read from the previous step's manifest."""
    manifest = Artifacts(previous.root).get(previous.step, previous.digest)
    optional = [step for step in OPTIONAL_INPUTS.get(previous.step, ()) if step in manifest.inputs]
    upstream: dict[StepName, str] = {step: manifest.inputs[step] for step in (*STEP_INPUTS[previous.step], *optional)}
    return {**upstream, previous.step: previous.digest}


def _whole(step: StepName, identity: dict[str, Any]) -> dict[str, Any]:
    return {"step": step, "step_version": STEP_VERSIONS[step], **identity}


def _request(
    step: StepName,
    identity: dict[str, Any],
    pipeline: Pipeline,
    inputs: dict[StepName, str],
    root: str,
    context: RunContext,
    extra: dict[str, Any] | None = None,
    *,
    compared: tuple[str, ...],
) -> StepRequest:
    whole = _whole(step, identity)
    return StepRequest(
        step=step,
        digest=digest_of(whole),
        identity=whole,
        pipeline=pipeline,
        inputs=inputs,
        root=root,
        context=context,
        compared=compared,
        extra=extra or {},
    )
