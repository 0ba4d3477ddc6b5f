"""Checkpoints that are complete or absent, here and in the bucket, and which one to resume from.

The Trainer's own ``get_last_checkpoint`` takes the highest number, also when that save was cut short. Here a
checkpoint counts only with a marker, written after everything else, that names its files, their sizes and the
request's digest.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import ClassVar, Literal

from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from retrainer.artifacts.repository import Artifacts
from retrainer.errors import IntegrityError
from retrainer.records import FileRecord


class Marker(FileRecord):
    """Says that a checkpoint is complete."""

    file: ClassVar[str] = "retrainer_complete.json"
    format_version: Literal[1] = 1
    request: str
    step: int
    files: dict[str, int]


class Checkpoints:
    """The checkpoints of one train request; they outlive a killed process."""

    def __init__(self, artifacts: Artifacts, digest: str) -> None:
        self._artifacts = artifacts
        self._digest = digest
        self.folder = artifacts.work_folder("train", digest)

    def complete(self, checkpoint: Path, *, step: int) -> None:
        """Mark a checkpoint whose files are all written, and copy it to the bucket."""
        files = {}
        for path in sorted(checkpoint.rglob("*")):
            if path.is_file() and path.name != Marker.file:
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
                files[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
        marker = Marker(request=self._digest, step=step, files=files)
        temporary = checkpoint / f"{Marker.file}.new"
        temporary.write_bytes(marker.to_json())
        temporary.replace(checkpoint / Marker.file)
        if self._artifacts.remote:
            self._artifacts.upload_work("train", self._digest, checkpoint.name, last=Marker.file)

    def rotate(self, limit: int | None, best: str | None) -> None:
        """Delete the oldest beyond ``limit``, never the best and never the newest."""
        rotate_checkpoints(str(self.folder), save_total_limit=limit, best_model_checkpoint=best)
        kept = {Path(path).name for path in sort_checkpoints(str(self.folder))}
        for name in self._artifacts.remote_work("train", self._digest):
            if name not in kept:
                self._artifacts.delete_remote_work("train", self._digest, name)

    def newest(self) -> Path | None:
        """The newest complete checkpoint of this very request, fetched from the bucket where it is not here.

        Incomplete ones are deleted on the way.
        """
        for name in self._artifacts.remote_work("train", self._digest):
            if self._marker(self.folder / name) is None:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                self._artifacts.download_work("train", self._digest, name)
        for path in self.folder.glob("checkpoint-*"):
            if self._marker(path) is None:
                shutil.rmtree(path)
        newest = self.newest_local()
        if newest is not None:
            self._adopt(newest)
        return newest

    def newest_local(self) -> Path | None:
        """The newest complete checkpoint on this host."""
        found = [(marker.step, path) for path in self.folder.glob("checkpoint-*") if (marker := self._marker(path))]
        return max(found)[1] if found else None

    def _marker(self, checkpoint: Path) -> Marker | None:
        """Its marker, if everything that the marker names is there in full and belongs to this request."""
        if not (checkpoint / Marker.file).is_file():
            return None
        try:
            marker = Marker.load(checkpoint)
        except IntegrityError:
            return None
        whole = all(
            (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size
            for name, size in marker.files.items()
        )
        return marker if whole and marker.request == self._digest else None

    def _adopt(self, checkpoint: Path) -> None:
        """Point the state's path of the best checkpoint into this host's folder: another host may have saved it."""
        path = checkpoint / "trainer_state.json"
        state = json.loads(path.read_text())
        best = state.get("best_model_checkpoint")
        here = str(self.folder / Path(best).name) if best else None
        if best == here:
            return
        state["best_model_checkpoint"] = here
        path.write_text(json.dumps(state, indent=2))
        marker = Marker.load(checkpoint)
        sizes = {name: (checkpoint / name).stat().st_size for name in marker.files}
        marker.model_copy(update={"files": sizes}).save(checkpoint)


class PlainCheckpoints(Checkpoints):
    """Those of a training by hand: a folder that belongs to whoever trains, without markers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self, checkpoint: Path, *, step: int) -> None:
        """There is nobody to tell."""

    def rotate(self, limit: int | None, best: str | None) -> None:
        """Delete the oldest beyond ``limit``, never the best and never the newest."""
        rotate_checkpoints(str(self.folder), save_total_limit=limit, best_model_checkpoint=best)
