"""What a step is: one definition, from which everything that deals with steps follows.

A step is a pure function from a request to an artifact. Each module of ``chain/steps/`` defines one: the record that
it hands on with the lines that people see, its planner, and a ``Step`` that names both. ``order.py`` lists the steps.
Not here: what a step does (the module that ``Step.work`` names), how it looks in Airflow (``Step.operator``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from retrainer.artifacts.repository import ArtifactManifest, Artifacts
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.errors import PipelineError
from retrainer.records import Record, digest_of
from retrainer.report.figures import Facts
from retrainer.spec.model import Pipeline

About = Literal["data", "candidate", "candidates", "challenger", "champion"]
"""What a step is about, and so how often a run takes it.

``data``: once, before there is a model. ``candidate``: once for each base model. ``candidates``: once, to compare them;
left out where the pipeline names one base model. ``challenger``: once, for the model that goes on. ``champion``: never
by a run, for it is about the model that is live.
"""


class StepOutput(Record, ABC):
    """The record that a step hands on with the reference to its artifact. Small: no data, no weights."""

    title: ClassVar[str]
    """Heading of the step in a report."""

    @abstractmethod
    def brief(self) -> str:
        """What came out, in a few words."""

    @abstractmethod
    def facts(self) -> Facts:
        """What came out, name by name, for the report of a run."""


Output = TypeVar("Output", bound=StepOutput)


class Planner(Protocol):
    """Writes the request of a step; a reference instead where there is nothing to do.

    It reads manifests and fingerprints only, and starts nothing. Only that of ``decide`` writes: into the ledger.
    """

    def __call__(
        self, pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None
    ) -> StepRequest | StepRef:
        """See ``Step.plan``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[Output]):
    """The definition of a step.

    :param version: raised when what the step writes changes for the same input: older artifacts are then made again.
    :param after: the steps whose references its planner takes; of several the first that the run takes.
    :param output: the record that it hands on.
    :param work: the module whose ``run(request, inputs, folder, reporter)`` does the work.
    :param operator: the class of its Airflow operator.
    :param takes_resources: it takes what ``resources`` asks for: devices, several processes, slots of the pool.
    :param signs: its process may see the private key; no other one does.
    :param loads_beside: the step beside which its process may load its libraries already, where one process takes all
        the steps: one that leaves a core idle meanwhile. Never one that measures. Empty for the first.
    :param measures: it measures time, so nothing else may load beside it.
    :param when_promoted: taken only if the gate promotes, and after the approval that the pipeline asks for.
    """

    name: str
    version: int
    about: About
    after: tuple[str, ...]
    output: type[Output]
    planner: Planner
    work: str
    operator: str
    loads_beside: str = ""
    measures: bool = False
    takes_resources: bool = False
    signs: bool = False
    when_promoted: bool = False

    @property
    def _of_one(self) -> bool:
        """Whether it is about one base model."""
        return self.about in {"candidate", "challenger"}

    def plan(
        self, pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None = None
    ) -> StepRequest | StepRef:
        """The request of the step; a reference where there is nothing to do.

        :param upstream: the references of the step before it: one, or where candidates are compared one of each.
        :param base: which of several base models, for a step that is taken once for each; the pipeline's first unless
            given.
        :raises RetrainerError: an input is missing, or the pipeline does not fit it.
        """
        if done := next((ref for ref in upstream if ref.unchanged), None):
            return done.model_copy(update={"step": self.name})
        return self.planner(pipeline, *upstream, context=context, base=base)

    def request(
        self,
        identity: Mapping[str, Any],
        pipeline: Pipeline,
        before: StepRef | None = None,
        *,
        context: RunContext,
        base: str | None = None,
        inputs: Mapping[str, str] | None = None,
        compared: tuple[str, ...] = (),
    ) -> StepRequest:
        """A request of this step.

        :param identity: what goes into the digest, beside the step and its version.
        :param before: the reference that it is planned from, beside which it puts its artifact; ``None`` for the first.
        :param inputs: the artifacts that it reads; ``before`` and all that it was made from unless given.
        :param base: the base model that it is about, if it is about one; that of ``before`` unless given.
        :param compared: the base models that the run compares; those that the pipeline lists unless given.
        :raises PipelineError: the pipeline does not list that base model.
        """
        whole = self.identity(identity)
        if inputs is None:
            inputs = inputs_after(before) if before else {}
        return StepRequest(
            step=self.name,
            digest=digest_of(whole),
            identity=whole,
            pipeline=of_base(pipeline, base or (before.base if before else None)) if self._of_one else pipeline,
            inputs=dict(inputs),
            root=before.root if before else context.root,
            context=context,
            compared=compared or pipeline.model.candidates,
        )

    def identity(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """What the digest of an artifact of this step is taken over."""
        return {"step": self.name, "step_version": self.version, **content}

    def output_of(self, done: StepRef | ArtifactManifest) -> Output:
        """What the step handed on, as its record.

        :raises IntegrityError: it is not this step's, or was written by another version of retrainer.
        """
        return self.output.from_content(done.output, where=f"{self.name} artifact {done.digest[:12]}")

    def reference(self, manifest: ArtifactManifest, request: StepRequest, *, reused: bool) -> StepRef:
        """The reference of a completed artifact."""
        return StepRef(
            step=self.name,
            digest=manifest.digest,
            root=request.root,
            reused=reused,
            output=manifest.output,
            base=request.pipeline.model.base if self._of_one else None,
        )


def inputs_after(ref: StepRef) -> dict[str, str]:
    """The artifacts that the next step reads: that of the reference, and all that it was made from."""
    manifest = Artifacts(ref.root).get(ref.step, ref.digest)
    return {**manifest.inputs, ref.step: ref.digest}


def of_base(pipeline: Pipeline, base: str | None) -> Pipeline:
    """The pipeline with that base model alone.

    :param base: its first unless given.
    :raises PipelineError: it lists several, and not this one: the file changed while it ran.
    """
    model = pipeline.model
    base = base or model.base
    if model.candidates and base not in model.candidates:
        raise PipelineError(
            f"'{base}' is not one of the base models that the pipeline lists",
            where=f"{pipeline.name}: model.base",
            hint=f"listed: {', '.join(model.candidates)}; after a change of the list, run the pipeline from its start",
        )
    return pipeline.of_base(base)
