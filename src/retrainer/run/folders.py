"""A dated folder for each run, for people: what ran, with what result, and where the artifacts and logs are.

``<root>/runs/<YYYY-MM-DD_HH-MM-SS>_<pipeline>_<model>/``. Nothing reads it but people (and ``gc``, which keeps the
artifacts of recent runs). On a folder root it links to the artifacts; on a bucket it holds their digests.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepRef, StepRequest, step_named
from retrainer.errors import NotFoundError, PreconditionFailed
from retrainer.records import Record
from retrainer.sources.base_models import short_names
from retrainer.storage import Storage, open_storage
from retrainer.storage.errors import filesystem_errors

# Tasks of one run end at the same time and all note it in one file; the last of many waits for the others.
NOTING_TRIES = 50
NOTING_SECONDS = 0.05


class RunRecord(Record):
    """``run.json``.

    :param base_model: the first of several.
    :param steps: step to what came of it; where several base models are compared, their own steps are ``train_NAME``
        and ``export_NAME``.
    """

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
        base = request.pipeline.model.base
        model = re.sub(r"[^A-Za-z0-9.-]+", "-", base.rstrip("/").split("/", 1)[-1]).strip("-")
        if request.compared:
            model = f"{len(request.compared)}-base-models"
        self.name = f"{started}_{request.pipeline.name}_{model[-60:]}"
        self._local = artifacts.local / "runs" / self.name
        # One name for a step, unless the run takes it once for each base model.
        self._step: str = request.step
        if step_named(request.step).about == "candidate" and base in request.compared:
            self._step = f"{request.step}_{short_names(request.compared)[base]}"

    @property
    def log_file(self) -> Path:
        """Where the step's own output goes; always on this host."""
        return self._local / "logs" / f"{self._step}.log"

    def record(self, ref: StepRef) -> None:
        """Note a completed step."""
        storage = open_storage(self._artifacts.root)
        self._note(storage, {"digest": ref.digest, "reused": ref.reused, "output": ref.output})
        if self._artifacts.remote:
            if self.log_file.is_file():
                storage.upload(self.log_file, f"runs/{self.name}/logs/{self._step}.log")
            return
        link = self._local / self._step
        with filesystem_errors(str(link)):
            link.parent.mkdir(parents=True, exist_ok=True)
            # A step that is taken again in the same run may leave another artifact.
            anew = link.with_name(f".{link.name}-{uuid.uuid4().hex[:8]}")
            anew.symlink_to(os.path.relpath(self._artifacts.local / ref.step / ref.digest, link.parent))
            anew.replace(link)

    def _note(self, storage: Storage, entry: dict[str, Any]) -> None:
        """Add the step to ``run.json``, without losing what another task of the run adds at the same time."""
        key = f"runs/{self.name}/run.json"
        for tried in range(1, NOTING_TRIES + 1):
            try:
                data, etag = storage.read_with_etag(key)
                run = RunRecord.from_json(data, where=storage.where(key))
                unchanged: dict[str, Any] = {"if_match": etag}
            except NotFoundError:
                run, unchanged = self._new(), {"if_absent": True}
            run = run.model_copy(update={"steps": {**run.steps, self._step: entry}})
            try:
                storage.write(key, run.to_pretty_json().encode(), **unchanged)
            except PreconditionFailed:
                if tried == NOTING_TRIES:
                    raise
                time.sleep(NOTING_SECONDS)
            else:
                return

    def _new(self) -> RunRecord:
        context = self._request.context
        model = self._request.pipeline.model
        return RunRecord(
            run_id=context.run_id,
            pipeline=self._request.pipeline.name,
            base_model=(*self._request.compared, model.base)[0],
            started_at=context.started_at,
            origin=context.origin,
            actor=context.actor,
            steps={},
        )
