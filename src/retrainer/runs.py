"""A dated folder for each run, for people: what ran, with what result, and where the artifacts and logs are.

``<root>/runs/<YYYY-MM-DD_HH-MM-SS>_<pipeline>_<model>/``. Nothing reads it but people (and ``gc``, which keeps the
artifacts of recent runs). On a folder root it links to the artifacts; on a bucket it holds their digests.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from retrainer.artifacts import Artifacts
from retrainer.base_model import PACKAGE
from retrainer.errors import NotFoundError
from retrainer.records import Record
from retrainer.steps import StepRef, StepRequest
from retrainer.storage import open_storage
from retrainer.storage.errors import filesystem_errors


class RunRecord(Record):
    """``run.json``."""

    format_version: Literal[1] = 1
    run_id: str
    pipeline: str
    base_model: str
    started_at: str
    origin: str
    actor: str
    steps: dict[str, dict[str, Any]]


class RunFolder:
    """The folder of the run that a request belongs to."""

    def __init__(self, artifacts: Artifacts, request: StepRequest) -> None:
        self._artifacts = artifacts
        self._request = request
        started = datetime.fromisoformat(request.context.started_at).strftime("%Y-%m-%d_%H-%M-%S")
        model = re.sub(r"[^A-Za-z0-9.-]+", "-", request.pipeline.model.base.rstrip("/").split("/", 1)[-1]).strip("-")
        self.name = f"{started}_{request.pipeline.name}_{model[-60:]}"
        self._local = artifacts.local / "runs" / self.name

    @property
    def log_file(self) -> Path:
        """Where the step's own output goes; always on this host."""
        return self._local / "logs" / f"{self._request.step}.log"

    def record(self, ref: StepRef) -> None:
        """Note a completed step."""
        storage = open_storage(self._artifacts.root)
        key = f"runs/{self.name}/run.json"
        try:
            run = RunRecord.from_json(storage.read(key), where=storage.where(key))
        except NotFoundError:
            run = self._new()
        entry = {"digest": ref.digest, "reused": ref.reused, "summary": ref.summary}
        run = run.model_copy(update={"steps": {**run.steps, ref.step: entry}})
        storage.write(key, run.to_pretty_json().encode())
        if self._artifacts.remote:
            if self.log_file.is_file():
                storage.upload(self.log_file, f"runs/{self.name}/logs/{ref.step}.log")
            return
        link = self._local / ref.step
        with filesystem_errors(str(link)):
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.path.relpath(self._artifacts.local / ref.step / ref.digest, link.parent))

    def _new(self) -> RunRecord:
        context = self._request.context
        return RunRecord(
            run_id=context.run_id,
            pipeline=self._request.pipeline.name,
            base_model=self._request.pipeline.model.base,
            started_at=context.started_at,
            origin=context.origin,
            actor=context.actor,
            steps={},
        )


def short_name(base: str) -> str:
    """What people call a base model: the package, the folder, or the hub id without its owner."""
    name = (
        base.removeprefix(PACKAGE).partition("/")[0]
        if base.startswith(PACKAGE)
        else base.rstrip("/").rsplit("/", 1)[-1]
    )
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
