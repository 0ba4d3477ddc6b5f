"""Checkpoints that are complete or absent, here and in the bucket, and which one to resume from.

The Trainer's own ``get_last_checkpoint`` takes the highest number, also when that save was cut short. Here a
checkpoint counts only with a marker, written after everything else, that names its files, their hashes and the
request's digest. Hashes find damage. They do not keep out somebody who may write to the bucket, who can write a
marker, too: that no file of a checkpoint runs code is up to what reads it (docs/training.md, "Resuming").
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from retrainer.artifacts.locks import Say
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import Tried
from retrainer.chain import StepRequest
from retrainer.chain.messages import Saved
from retrainer.errors import IntegrityError, NotFoundError, ResourceError, StorageError
from retrainer.records import FileRecord, sha256_file
from retrainer.storage.keys import check_key
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter

logger = logging.getLogger(__name__)

_NAME = re.compile(r"checkpoint-[0-9]+")
_STATE = "trainer_state.json"
# The Trainer pickles its arguments, with paths of this host, into each checkpoint, and nothing reads them.
_UNREAD = "training_args.bin"


class Marker(FileRecord):
    """Says that a checkpoint is complete.

    :param files: the SHA-256 of each.
    :param tries: see ``TrainingRecord``; the last one wrote it.
    """

    file: ClassVar[str] = "retrainer_complete.json"
    format_version: Literal[2] = 2
    request: str
    step: int
    files: dict[str, str]
    tries: tuple[Tried, ...] = ()


class Checkpoints:
    """The checkpoints of one train request; they outlive a killed process.

    :param share: whether other hosts may have them, through the bucket.
    :param say: is told which ones do not count, and why.
    :param saved: is told the name of each that is complete.
    :ivar tries: what is noted with each from now on, for whoever resumes from it.
    """

    tries: tuple[Tried, ...] = ()

    def __init__(
        self,
        artifacts: Artifacts,
        digest: str,
        *,
        share: bool = True,
        say: Say = logger.warning,
        saved: Say = logger.debug,
    ) -> None:
        self._artifacts = artifacts
        self._digest = digest
        self._in_bucket = artifacts.remote and share
        self._say = say
        self._saved = saved
        self.folder = artifacts.work_folder("train", digest)

    def complete(self, checkpoint: Path, *, step: int) -> None:
        """Mark a checkpoint whose files are all written, and copy it to the bucket."""
        (checkpoint / _UNREAD).unlink(missing_ok=True)
        files = {}
        for name in _files_of(checkpoint):
            with (checkpoint / name).open("rb") as stream:
                os.fsync(stream.fileno())
            files[name] = sha256_file(checkpoint / name)
        marker = Marker(request=self._digest, step=step, files=files, tries=self.tries)
        _replace(checkpoint / Marker.file, marker.to_json())
        if self._in_bucket:
            self._artifacts.upload_work("train", self._digest, checkpoint.name, last=Marker.file)
        self._saved(checkpoint.name)

    def rotate(self, limit: int | None, best: str | None) -> None:
        """Delete the oldest beyond ``limit``, never the best and never the newest."""
        rotate_checkpoints(str(self.folder), save_total_limit=limit, best_model_checkpoint=best)
        kept = {Path(path).name for path in sort_checkpoints(str(self.folder))}
        for name in self._remote():
            if name not in kept:
                self._artifacts.delete_remote_work("train", self._digest, name)

    def to_resume_from(self, arguments: TrainingArguments) -> Path | None:
        """The newest complete checkpoint, the same in all processes of a training.

        The first looks for it, fetches it and deletes what does not count; on other hosts one process fetches what it
        found.

        :raises ResourceError: another host cannot see it.
        """
        if arguments.world_size == 1:
            return self.newest()
        said = [self.newest()] if is_first_rank() else [None]
        torch.distributed.broadcast_object_list(said, src=0)
        if said[0] is None:
            return None
        found = self.folder / said[0].name
        with arguments.main_process_first(desc="fetch the checkpoint"):
            if arguments.local_process_index == 0 and not is_first_rank():
                self._fetch(found.name)
        return found

    def _fetch(self, name: str) -> None:
        """Have a checkpoint here that the first process found."""
        remote = set(self._remote())
        if fault := self._fault(name, remote) or self._fault_of_best(name, remote):
            raise ResourceError(
                f"{name}, from which the training goes on, does not count on this host: {fault}",
                where=str(self.folder),
                hint="hosts that train together need an artifact root that all of them see: s3://, or a shared folder",
            )
        self._adopt(self.folder / name)

    def newest(self) -> Path | None:
        """The newest complete checkpoint of this very request, fetched from the bucket where it is not here.

        Newer ones that do not count are deleted on the way. One whose best checkpoint does not count does not either:
        the weights of the end would be kept as those of the best.
        """
        remote = set(self._remote())
        local = {path.name for path in self.folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)}
        for name in sorted(remote | local, key=_number, reverse=True):
            fault = self._fault(name, remote) or self._fault_of_best(name, remote)
            if fault is None:
                self._adopt(self.folder / name)
                return self.folder / name
            self._say(f"{name} does not count: {fault}")
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)
        return None

    def _remote(self) -> list[str]:
        """Those in the bucket, which holds names of its writers' choice."""
        found = self._artifacts.remote_work("train", self._digest) if self._in_bucket else []
        return [name for name in found if _NAME.fullmatch(name)]

    def _fault(self, name: str, remote: set[str]) -> str | None:
        """Why a checkpoint does not count, even where it is fetched anew; ``None`` where it does."""
        fault = self._fault_of(self.folder / name)
        if fault is None or name not in remote:
            return fault
        shutil.rmtree(self.folder / name, ignore_errors=True)
        try:
            self._artifacts.download_work("train", self._digest, name, [Marker.file])
            files = list(Marker.load(self.folder / name).files)
            if not all(_stays_below(file) for file in files):
                return f"{Marker.file} names a file outside of it"
            self._artifacts.download_work("train", self._digest, name, files)
        except (NotFoundError, IntegrityError) as error:
            return error.message
        return self._fault_of(self.folder / name)

    def _fault_of_best(self, name: str, remote: set[str]) -> str | None:
        try:
            best = json.loads((self.folder / name / _STATE).read_text()).get("best_model_checkpoint")
        except (OSError, ValueError, AttributeError):
            return f"{_STATE} cannot be read"
        best = Path(str(best)).name if best else name
        if best == name:
            return None
        fault = self._fault(best, remote) if _NAME.fullmatch(best) else "no such name"
        return f"its best is {best}, which does not: {fault}" if fault else None

    def _fault_of(self, checkpoint: Path) -> str | None:
        if not (checkpoint / Marker.file).is_file():
            return "its save was cut short"
        try:
            marker = Marker.load(checkpoint)
        except IntegrityError as error:
            return f"{Marker.file} cannot be read: {error.message}"
        if marker.request != self._digest:
            return "it belongs to another training"
        there = set(_files_of(checkpoint))
        for name in sorted(there.symmetric_difference(marker.files)):
            return f"{name} is {'none of its files' if name in there else 'missing'}"
        damaged = [name for name, sha256 in marker.files.items() if sha256_file(checkpoint / name) != sha256]
        return f"{damaged[0]} is damaged" if damaged else None

    def _adopt(self, checkpoint: Path) -> None:
        """Point the state's path of the best checkpoint into this host's folder: another host may have saved it."""
        state = json.loads((checkpoint / _STATE).read_text())
        best = state.get("best_model_checkpoint")
        here = str(self.folder / Path(best).name) if best else None
        if best == here:
            return
        state["best_model_checkpoint"] = here
        _replace(checkpoint / _STATE, json.dumps(state, indent=2).encode())
        marker = Marker.load(checkpoint)
        files = {**marker.files, _STATE: sha256_file(checkpoint / _STATE)}
        _replace(checkpoint / Marker.file, marker.model_copy(update={"files": files}).to_json())


def checkpoints_of(request: StepRequest, reporter: Reporter) -> Checkpoints:
    """Those of a train request."""
    # What fsdp and deepspeed save is unpickled when it is read: others could have put it into a bucket.
    share = not any(request.pipeline.training.arguments.get(name) for name in ("fsdp", "deepspeed"))
    say = partial(reporter.log, level="warning")

    def saved(name: str) -> None:
        reporter.send(Saved(checkpoint=name))

    return Checkpoints(Artifacts(request.root), request.digest, share=share, say=say, saved=saved)


class PlainCheckpoints(Checkpoints):
    """Those of a training by hand: a folder that belongs to whoever trains, without markers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self, checkpoint: Path, *, step: int) -> None:
        """There is nobody to tell."""

    def rotate(self, limit: int | None, best: str | None) -> None:
        """Delete the oldest beyond ``limit``, never the best and never the newest."""
        rotate_checkpoints(str(self.folder), save_total_limit=limit, best_model_checkpoint=best)


@contextmanager
def only_tensors(checkpoint: Path | None) -> Iterator[None]:
    """Resume in this block. Whatever torch refuses to unpickle is one clear error.

    transformers reads each file of a checkpoint with ``weights_only=True``: tensors and plain values.

    :raises IntegrityError: a file holds something else. It was not executed.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        if checkpoint is None:
            raise
        raise IntegrityError(
            "a file of it holds more than tensors and was not loaded: somebody else wrote it",
            where=str(checkpoint),
            hint="find out who may write there, delete that checkpoint, also in the bucket, and run the step again",
        ) from error


def _files_of(checkpoint: Path) -> list[str]:
    """Its files but the marker."""
    paths = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if not path.is_dir())
    return [path.as_posix() for path in paths if path.as_posix() != Marker.file]


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _stays_below(name: str) -> bool:
    try:
        return check_key(name, where="") == name
    except StorageError:
        return False


def _replace(path: Path, content: bytes) -> None:
    """Write a file that is there as a whole or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)
