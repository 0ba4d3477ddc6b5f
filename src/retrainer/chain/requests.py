"""The steps, and what is said about them across processes: the request of one, the reference to what it left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from retrainer.artifacts.repository import ArtifactManifest
from retrainer.records import Record
from retrainer.spec.model import Pipeline

StepName = Literal["ingest", "train", "export", "select", "evaluate", "decide", "publish"]

# Raised when a step's output changes for the same input: older artifacts are then made again.
STEP_VERSIONS: Mapping[StepName, int] = {
    "ingest": 2,
    "train": 1,
    "export": 2,
    "select": 1,
    "evaluate": 2,
    "decide": 2,
    "publish": 2,
}

# The artifacts that each step reads. The bundles that "select" reads stand in its identity, for they are several.
STEP_INPUTS: Mapping[StepName, tuple[StepName, ...]] = {
    "ingest": (),
    "train": ("ingest",),
    "export": ("ingest", "train"),
    "select": ("ingest",),
    "evaluate": ("ingest", "train", "export"),
    "decide": ("ingest", "train", "export", "evaluate"),
    "publish": ("ingest", "train", "export", "evaluate", "decide"),
}

# Those that they also read where the bundle was chosen among several.
OPTIONAL_INPUTS: Mapping[StepName, tuple[StepName, ...]] = {
    "evaluate": ("select",),
    "decide": ("select",),
    "publish": ("select",),
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
    :param base: the base model that the artifact came from; ``None`` before there is one, and where several were
        compared.
    """

    step: StepName
    digest: str
    root: str
    reused: bool
    summary: dict[str, Any]
    base: str | None = None

    @property
    def unchanged(self) -> bool:
        """The channel already serves exactly this."""
        return bool(self.summary.get("unchanged"))


class StepRequest(Record):
    """All that a step's process needs to know.

    :param pipeline: with one base model from the training on, also where it is one of several.
    :param compared: the base models that the run compares; empty where there is one. Names folders and logs, and is
        never part of a digest: a model is trained once, alone or beside others.
    """

    format_version: Literal[1] = 1
    step: StepName
    digest: str
    identity: dict[str, Any]
    pipeline: Pipeline
    inputs: dict[StepName, str]
    root: str
    context: RunContext
    compared: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict, description="What the step needs beyond its identity.")

    def reads(self) -> dict[StepName, str]:
        """The artifacts that the step is given: those it always needs, and the optional ones that there are."""
        optional = [step for step in OPTIONAL_INPUTS.get(self.step, ()) if step in self.inputs]
        return {step: self.inputs[step] for step in (*STEP_INPUTS[self.step], *optional)}


def ref_of(manifest: ArtifactManifest, request: StepRequest, *, reused: bool) -> StepRef:
    """The reference of a completed artifact."""
    return StepRef(
        step=request.step,
        digest=manifest.digest,
        root=request.root,
        reused=reused,
        summary=manifest.summary,
        base=None if request.step in {"ingest", "select"} else request.pipeline.model.base,
    )
