"""A dated folder for each run, for people: what ran, with what result, and where the artifacts and logs are.

::

    <root>/runs/<YYYY-MM-DD_HH-MM-SS>_<pipeline>_<model>/run.json      who ran what, since when
                                                        /steps/<step>.json   what came of a step
                                                        /logs/<step>.log
                                                        /<step>              link to its artifact, on a folder root
    <root>/.runs/<digest of pipeline and run id>         the name of the folder, so that a run that is cleared, and
                                                         so starts at another time, goes on in the same one

No object is written by two tasks: those of a run end at the same time. Nothing reads the folder but people, commands
that are given one, and ``gc``, which keeps the artifacts of recent runs.
"""

from __future__ import annotations

import os
import uuid
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import EXPORT, StepRef, StepRequest, step_named
from retrainer.errors import NotFoundError, PreconditionFailed
from retrainer.records import Record, digest_of
from retrainer.sources.base_models import short_name, short_names
from retrainer.spec.changes import Changes
from retrainer.storage import open_storage
from retrainer.storage.errors import filesystem_errors


class RunRecord(Record):
    """``run.json``.

    :param base_model: the first of several.
    :param changes: what the run was asked to do otherwise than its pipeline file says.
    """

    format_version: Literal[2] = 2
    run_id: str
    pipeline: str
    base_model: str
    started_at: str
    origin: str
    actor: str
    changes: Changes = Changes()


class StepNote(Record):
    """What came of a step, in ``steps/``.

    :param output: what it handed on.
    """

    digest: str
    reused: bool
    output: dict[str, Any]


class RunFolder:
    """The folder of the run that a request belongs to. The first of its tasks makes and names it.

    Where several base models are compared, their own steps are called ``train_NAME`` and ``export_NAME``.
    """

    def __init__(self, artifacts: Artifacts, request: StepRequest) -> None:
        self._artifacts = artifacts
        self._storage = open_storage(artifacts.root)
        self._request = request
        self.name = self._found() or self._made()
        self._local = artifacts.local / "runs" / self.name
        # One name for a step, unless the run takes it once for each base model.
        self._step: str = request.step
        base = request.pipeline.model.base
        if step_named(request.step).about == "candidate" and base in request.compared:
            self._step = f"{request.step}_{short_names(request.compared)[base]}"

    @property
    def _index_key(self) -> str:
        identity = {"pipeline": self._request.pipeline.name, "run": self._request.context.run_id}
        return f".runs/{digest_of(identity)[:32]}"

    def _found(self) -> str | None:
        try:
            return self._storage.read(self._index_key).decode()
        except NotFoundError:
            return None

    def _made(self) -> str:
        """Claim a name that no other run has, and note it under the run's id."""
        name = self._claimed()
        try:
            self._storage.write(self._index_key, name.encode(), if_absent=True)
        except PreconditionFailed:  # another task of this run was first
            return self._found() or name
        return name

    def _claimed(self) -> str:
        request, context = self._request, self._request.context
        started = datetime.fromisoformat(context.started_at).strftime("%Y-%m-%d_%H-%M-%S")
        base = (*request.compared, request.pipeline.model.base)[0]
        model = f"{len(request.compared)}-base-models" if request.compared else short_name(base)[:60]
        record = RunRecord(
            run_id=context.run_id,
            pipeline=request.pipeline.name,
            base_model=base,
            started_at=context.started_at,
            origin=context.origin,
            actor=context.actor,
            changes=context.changes,
        )
        for number in count(1):
            # Two runs may start in one second.
            name = f"{started}_{request.pipeline.name}_{model}" + (f"_{number}" if number > 1 else "")
            key = f"runs/{name}/run.json"
            try:
                self._storage.write(key, record.to_pretty_json().encode(), if_absent=True)
            except PreconditionFailed:
                claimed = RunRecord.from_json(self._storage.read(key), where=self._storage.where(key))
                if claimed.run_id != context.run_id:
                    continue
            return name
        raise AssertionError("some number is free")

    @property
    def log_file(self) -> Path:
        """Where the step's own output goes; always on this host."""
        return self._local / "logs" / f"{self._step}.log"

    def record(self, ref: StepRef) -> None:
        """Note a completed step."""
        note = StepNote(digest=ref.digest, reused=ref.reused, output=ref.output)
        self._storage.write(f"runs/{self.name}/steps/{self._step}.json", note.to_pretty_json().encode())
        if self._artifacts.remote:
            if self.log_file.is_file():
                self._storage.upload(self.log_file, f"runs/{self.name}/logs/{self._step}.log")
            return
        link = self._local / self._step
        with filesystem_errors(str(link)):
            link.parent.mkdir(parents=True, exist_ok=True)
            # A step that is taken again in the same run may leave another artifact.
            anew = link.with_name(f".{link.name}-{uuid.uuid4().hex[:8]}")
            anew.symlink_to(os.path.relpath(self._artifacts.local / ref.step / ref.digest, link.parent))
            anew.replace(link)


def exported_in(place: str) -> dict[str, Path]:
    """The bundles that a run exported, each by the short name of its base model.

    :param place: the run's dated folder, on a folder or in a bucket.
    :raises NotFoundError: it is not the folder of a run, or the run exported nothing, or that is no longer there.
    """
    storage = open_storage(place)
    run = RunRecord.from_json(storage.read("run.json"), where=storage.where("run.json"))
    local = storage.local_path("")
    root = str(local.resolve().parent.parent) if local is not None else place.rstrip("/").rsplit("/", 2)[0]
    bundles = {}
    for entry in sorted(storage.list("steps/"), key=lambda entry: entry.key):
        step, _, base = entry.key.removeprefix("steps/").removesuffix(".json").partition("_")
        if step == EXPORT.name:
            note = StepNote.from_json(storage.read(entry.key), where=storage.where(entry.key))
            artifact = Artifacts(root).fetch(EXPORT.name, note.digest)
            bundles[base or short_name(run.base_model)] = artifact / "bundle"
    if not bundles:
        raise NotFoundError("the run exported no model", where=place, hint="its logs say how far it came")
    return bundles
