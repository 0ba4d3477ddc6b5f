"""The train step: fine-tune the base model on a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

from pydantic import Field

from retrainer.artifacts.repository import ArtifactManifest, Artifacts
from retrainer.artifacts.training import Blend, Choice, Padding, TrainingRecord, WarmStart, weights_line
from retrainer.chain.champion import read_champion
from retrainer.chain.definition import Step, StepOutput, of_base
from retrainer.chain.messages import duration
from retrainer.chain.model_store import model_of
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.errors import IntegrityError, NotFoundError
from retrainer.records import digest_of
from retrainer.report.figures import Facts, number, scores
from retrainer.sources import base_models, trainer_code
from retrainer.spec.model import Pipeline
from retrainer.spec.training import Training
from retrainer.store import Manifest, ModelStore
from retrainer.tasks import TASKS

# Of a version, the folder of its checkpoint and the only form in which weights are read.
CHECKPOINT = "checkpoint/"
WEIGHTS = ".safetensors"

# Of the section ``training``: each has its own entry in the identity where it is set, so that the digests of trainings
# without it stay as they are.
_APART = {"blend_with_champion", "class_weights", "trainer", "warm_start"}
# Says where something is computed, not what comes out.
_OF_THE_MACHINE = {"freeze_cache_gb"}
# Of the identity: what says which base model it is, and what a champion's weights are used for.
_OF_BASE = ("base", "base_name")
_USES = ("blend", "warm_start")


class Trained(StepOutput):
    """What of a training travels with the reference to its checkpoint; see ``TrainingRecord``.

    :param metrics: on the validation rows, of the weights that were kept; empty without validation rows.
    :param seconds: wall time of the training loop in the try that ended it.
    :param smaller_batches: what the GPU's memory took, where that was less than the pipeline asks for.
    :param chosen: see ``TrainingRecord``, as ``padding``.
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
    class_weights: dict[str, float] = Field(default_factory=dict)
    blend: Blend | None = None
    trained_parameters: int | None = None
    warm_start: WarmStart | None = None
    smaller_batches: str | None = None
    chosen: tuple[Choice, ...] = ()
    padding: Padding | None = None

    @classmethod
    def of(cls, record: TrainingRecord) -> Self:
        """The small part of the record."""
        return cls(
            base_model=record.base_model,
            epochs=record.epochs,
            steps=record.steps,
            best_step=record.best_step,
            metrics=record.validation,
            rows_per_second=record.rows_per_second,
            seconds=record.seconds,
            device=record.device,
            resumed_from=record.resumed_from,
            parameters=record.parameters,
            class_weights=record.class_weights,
            blend=record.blend,
            trained_parameters=record.trained_parameters,
            warm_start=record.warm_start,
            smaller_batches=record.smaller_batches(),
            chosen=record.chosen,
            padding=record.padding,
        )

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
        if self.smaller_batches:
            facts.append(("batches", self.smaller_batches))
        if self.chosen:
            facts.append(("chosen", "; ".join(choice.line() for choice in self.chosen)))
        if self.padding:
            facts.append(("padding", self.padding.line()))
        if self.class_weights:
            facts.append(("class weights", weights_line(self.class_weights)))
        if self.trained_parameters is not None and self.trained_parameters < self.parameters:
            facts.append(("trained", f"{number(self.trained_parameters)} of {number(self.parameters)} parameters"))
        if self.warm_start:
            facts.append(("started from", self.warm_start.short()))
        if self.blend:
            facts.append(("champion's share", self.blend.line()))
        if self.resumed_from:
            facts.append(("resumed from", self.resumed_from))
        return tuple(facts)


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Fine-tune the base model on a snapshot.

    :raises ModelError: the base model cannot be found.
    :raises PipelineError: the pipeline lists several, and not this one; its own trainer cannot be found.
    """
    (snapshot,) = upstream
    single = of_base(pipeline, base)
    identity = {
        "snapshot": snapshot.digest,
        "task": single.task,
        "base": base_models.fingerprint(single.model),
        "base_name": base_models.public_name(single.model.base),
        "max_length": single.model.max_length,
        "training": _training(single),
        "metrics": list(single.metrics),
        "processes": single.resources.processes,
        "gpus": single.resources.gpus,
    }
    if single.resources.processes > 1:
        # Each step has the rows that it has in one process. Without this, the last of an epoch had some twice.
        identity["shares"] = 1
    if TASKS[single.task].writes == "text":
        identity["max_new_tokens"] = single.model.max_new_tokens
    if single.training.trainer is not None:
        code = trainer_code.fingerprint(single.training.trainer, where=single.name)
        identity["trainer"] = {"name": single.training.trainer, "code": code}
    if single.of_one_label:
        identity["positive_label"] = single.positive_label
    if single.training.class_weights != "none":
        identity["class_weights"] = single.training.class_weights
    wanted = {
        "blend": single.training.blend_with_champion == "auto",
        "warm_start": single.training.warm_start == "champion",
    }
    if uses := [use for use, is_wanted in wanted.items() if is_wanted]:
        identity |= _of_champion(single, uses, identity, snapshot.root)
    return TRAIN.request(identity, pipeline, snapshot, context=context, base=base)


def _training(pipeline: Pipeline) -> dict[str, Any]:
    """What of the section ``training`` identifies a result.

    Keys that came later are left out where they are at their defaults: what was trained before them is still found.
    """
    training, plain = pipeline.training, Training()
    later = ("freeze_layers", "peft", "callbacks", "auto", "unpadded")
    unused = {name for name in later if getattr(training, name) == getattr(plain, name)}
    found = training.model_dump(mode="json", exclude=_APART | _OF_THE_MACHINE | unused)
    if training.peft is not None:
        found["peft"]["target_modules"] = sorted(set(training.peft.target_modules))
    return found


def _of_champion(
    pipeline: Pipeline, uses: Collection[str], identity: Mapping[str, Any], root: str
) -> dict[str, dict[str, Any]]:
    """What the use of a champion's weights adds to the identity: for each use its version, or why it has none.

    A champion that this very training gave, or that of another base model beside it, is not used for it, or a run on
    unchanged data would find something to do each time: the earlier training is asked for again, which is there.

    :param uses: ``blend`` and ``warm_start``, or one of them.
    """
    store = model_of(pipeline)
    live = read_champion(store, pipeline.publish.channel)
    champion = live.champion
    if champion is None:
        return {use: {"champion": None, "why_not": live.problem or "the channel has no champion yet"} for use in uses}
    origin = champion.artifacts.get(TRAIN.name)
    made = Artifacts(root).find(TRAIN.name, origin) if origin else None
    if made is not None and _settings(made.identity) == _settings(TRAIN.identity(identity) | dict.fromkeys(uses)):
        then = _of_champion_before(made, store, pipeline, uses, identity)
        asked = digest_of(TRAIN.identity({**identity, **then}))
        if asked == made.digest or Artifacts(root).find(TRAIN.name, asked):
            return then
    return _of_version(champion, pipeline, uses, identity)


def _settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training's identity what is the same for every base model and every champion."""
    return {name: None if name in _USES else value for name, value in identity.items() if name not in _OF_BASE}


def _of_champion_before(
    made: ArtifactManifest, store: ModelStore, pipeline: Pipeline, uses: Collection[str], identity: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What a training was planned with when the one that the champion came from was.

    :param made: the training that the champion came from.
    """
    then: dict[str, dict[str, Any]] = {use: made.identity[use] for use in uses}
    version = next(use["champion"] for use in then.values())
    if version is None or all(made.identity[name] == identity[name] for name in _OF_BASE):
        return then
    try:
        return _of_version(store.manifest(version), pipeline, uses, identity)
    except (IntegrityError, NotFoundError):  # no longer there: nobody can be asked for the same again
        return then


def _of_version(
    champion: Manifest, pipeline: Pipeline, uses: Collection[str], identity: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What the use of that champion adds to the identity."""
    why_not = None
    if champion.task != pipeline.task:
        why_not = f"the champion is a model for {champion.task}"
    elif not has_checkpoint(champion):
        why_not = "the champion was published without its checkpoint (publish.include_checkpoint)"
    found = {use: {"champion": champion.version, "why_not": why_not} for use in uses}
    # Else the base models of one shape that start from it would all become the same model.
    if "warm_start" in found and why_not is None and champion.base_revision != identity["base"]:
        found["warm_start"]["why_not"] = "the champion was made from another base"
    return found


def has_checkpoint(version: Manifest) -> bool:
    """Whether a version was published with weights that a training can be blended with or start from."""
    return any(name.startswith(CHECKPOINT) and name.endswith(WEIGHTS) for name in version.files)


TRAIN = Step(
    name="train",
    version=2,
    about="candidate",
    after=("ingest",),
    output=Trained,
    planner=_plan,
    work="retrainer.work.train",
    operator="retrainer.airflow.operators.fine_tune.FineTuneOperator",
    loads_beside="ingest",
    takes_resources=True,
)
