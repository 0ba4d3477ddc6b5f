"""What is said about a step across processes: the request of one, the reference to what it left."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field

from retrainer.records import Record
from retrainer.report.figures import Facts, number
from retrainer.spec.changes import Changes
from retrainer.spec.model import Pipeline


class RunContext(Record):
    """Who runs this, as what, since when, and where its artifacts are. Never part of a digest.

    :param root: where the first step puts its artifact: ``file://``, ``s3://`` or a path. Each later step puts its own
        beside its inputs.
    :param approved: a person approved what the gate promoted; ``actor`` is that person, ``answer`` why they did.
    :param changes: what the run was asked to do otherwise than its pipeline file says.
    """

    run_id: str
    actor: str
    started_at: str = Field(description="UTC, ISO 8601.")
    origin: Literal["airflow", "cli"] = "cli"
    root: str
    approved: bool = False
    answer: str = ""
    changes: Changes = Changes()


class Unchanged(Record):
    """What is handed on where there is nothing to do: the channel already serves exactly this model."""

    version: str
    channel: str
    metrics: dict[str, float]

    def brief(self) -> str:
        """In a few words."""
        return f"unchanged: version {self.version} is this model"

    def line(self) -> str:
        """In a sentence."""
        return f"unchanged: {self.channel} already serves this model, version {self.version}"

    def facts(self) -> Facts:
        """The version, and its scores when it was published."""
        return (("champion", self.version), *((name, number(value)) for name, value in self.metrics.items()))


class StepRef(Record):
    """A step's artifact, small enough for XCom.

    :param step: the step's name.
    :param digest: names the artifact; empty where there was nothing to do.
    :param reused: the artifact was there already, nothing ran.
    :param output: what the step hands on, as JSON; ``Step.output_of`` makes it the step's typed record.
    :param unchanged: the channel serves this model already, so that neither this step nor one after it has anything
        to do.
    :param base: the base model that the artifact came from; ``None`` before there is one, and where several were
        compared.
    :param pipeline: what the run began with, so that the tasks after it follow that and not a file that has changed
        since; ``None`` where one process takes all the steps.
    :param changes: what that run was asked to do otherwise than the file says; the pipeline has it already.
    """

    step: str
    digest: str
    root: str
    reused: bool
    output: dict[str, Any]
    unchanged: Unchanged | None = None
    base: str | None = None
    pipeline: Pipeline | None = None
    changes: Changes = Changes()


class StepRequest(Record):
    """All that a step's process needs to know.

    :param pipeline: with one base model from the training on, also where it is one of several.
    :param inputs: step to digest of every artifact that the step reads.
    :param compared: the base models that the run compares; empty where there is one. Names folders and logs, and is
        never part of a digest: a model is trained once, alone or beside others.
    """

    format_version: Literal[3] = 3
    step: str
    digest: str
    identity: dict[str, Any]
    pipeline: Pipeline
    inputs: dict[str, str]
    root: str
    context: RunContext
    compared: tuple[str, ...] = ()

    @property
    def holder(self) -> str:
        """Who asks, for those who wait for what this process holds."""
        return f"run {self.context.run_id} of {self.pipeline.name} (process {os.getpid()})"
