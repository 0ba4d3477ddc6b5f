"""Step outputs by digest, on a folder or a bucket: found, fetched, staged, committed, locked.

``<root>/<step>/<digest>/`` with ``manifest.json`` written last. What has no manifest is never read. On a
folder an artifact appears by one rename; in a bucket its files are uploaded first and the manifest last,
under the condition that there is none yet. Not here: what goes into a digest (``chain/``).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from retrainer.artifacts.locks import Say, Waiting, holder_of, try_lock
from retrainer.errors import ArtifactError, IntegrityError, NotFoundError, PreconditionFailed
from retrainer.records import FileRecord, Record, digest_of, sha256_file
from retrainer.storage import is_s3, open_storage
from retrainer.storage.errors import filesystem_errors

# Staging folders of copies from a bucket are called by it: several processes may copy at once, without a lock.
DOWNLOAD = "download"
# Between two looks whether a lock is free.
LOCK_SECONDS = 0.2


class ArtifactFile(Record):
    """One file of an artifact."""

    size: int
    sha256: str


class ArtifactManifest(FileRecord):
    """What an artifact is: the identity that its digest was taken over, its inputs, its files.

    :param output: the record that the step hands on with a reference to the artifact.
    :param upload: in a bucket, the folder of the try that won. Two hosts that make the same artifact at once must not
        overwrite each other's files, whose bytes may differ.
    """

    file: ClassVar[str] = "manifest.json"
    format_version: Literal[2] = 2
    step: str
    digest: str
    identity: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, ArtifactFile]
    output: dict[str, Any]
    created_at: str
    upload: str | None = None


def cache_home() -> Path:
    """``$RETRAINER_CACHE``, else ``~/.cache/retrainer``: copies that may be deleted at any time."""
    configured = os.environ.get("RETRAINER_CACHE")
    return Path(configured).expanduser() if configured else Path.home() / ".cache" / "retrainer"


class Artifacts:
    """The artifacts under one root.

    :param root: ``file://``, ``s3://`` or a path.
    :param copies: where files of a bucket are copied to; by default into the cache, where they stay.
    """

    def __init__(self, root: str | Path, *, copies: Path | None = None) -> None:
        self.root = str(root)
        self._storage = open_storage(root)
        # Everything local lies on one file system with the artifacts, so that a rename commits.
        local = self._storage.local_path("")
        self.local = local or copies or cache_home() / "artifacts" / digest_of({"root": self.root})[:16]
        self.remote = is_s3(self.root)

    def find(self, step: str, digest: str) -> ArtifactManifest | None:
        """The manifest of that artifact, or ``None`` when it was never completed.

        :raises ArtifactError: it is there and cannot be read.
        """
        key = f"{step}/{digest}/{ArtifactManifest.file}"
        try:
            data = self._storage.read(key)
        except NotFoundError:
            return None
        try:
            return ArtifactManifest.from_json(data, where=self._storage.where(key))
        except IntegrityError as error:
            raise ArtifactError(
                f"the manifest of the {step} artifact is damaged: {error.message}",
                where=self._storage.where(key),
                hint="delete the folder that holds it and run the pipeline again",
            ) from None

    def get(self, step: str, digest: str) -> ArtifactManifest:
        """The manifest of an artifact that must be there.

        :raises ArtifactError: it is not.
        """
        manifest = self.find(step, digest)
        if manifest is None:
            raise ArtifactError(
                f"no {step} artifact {digest[:12]}",
                where=self.root,
                hint="it was deleted or never completed; run the pipeline again from its first step",
            )
        return manifest

    def fetch(self, step: str, digest: str) -> Path:
        """A local folder with that artifact's files, each checked against the manifest.

        On a folder root this is the artifact itself: treat it as read-only. From a bucket the files are copied
        once. Both are read in full each time, for a disk can alter what it keeps, and a graph altered here would
        be judged and published as it is.

        :raises ArtifactError: it is missing, or a file does not match.
        """
        manifest = self.get(step, digest)
        folder = self.local / step / digest
        if self.remote and not (folder / ArtifactManifest.file).is_file():
            self._download(manifest, folder)
        for name, entry in manifest.files.items():
            path = folder / name
            if not _matches(path, entry):
                raise ArtifactError(
                    f"{name} of the {step} artifact is {'damaged' if path.exists() else 'missing'}",
                    where=str(folder),
                    hint="delete that folder and run the pipeline again",
                )
        return folder

    def read(self, step: str, digest: str, name: str) -> bytes:
        """One small file of an artifact, checked against the manifest, without the others.

        :raises ArtifactError: it is missing, or does not match.
        """
        manifest = self.get(step, digest)
        key = _file_key(manifest, name)
        try:
            data = self._storage.read(key) if name in manifest.files else b""
        except NotFoundError:
            data = b""
        if name not in manifest.files or hashlib.sha256(data).hexdigest() != manifest.files[name].sha256:
            raise ArtifactError(
                f"{name} of the {step} artifact is missing or damaged",
                where=self._storage.where(key),
                hint="delete the artifact and run the pipeline again",
            )
        return data

    def _download(self, manifest: ArtifactManifest, folder: Path) -> None:
        with self.staging(f"{DOWNLOAD}-{manifest.step}", manifest.digest) as staging:
            for name, entry in manifest.files.items():
                target = staging / name
                self._storage.download(_file_key(manifest, name), target)
                if sha256_file(target) != entry.sha256:
                    raise ArtifactError(
                        f"{name} does not match its hash",
                        where=self._storage.where(_file_key(manifest, name)),
                        hint="the object was altered; delete the artifact and run the pipeline again",
                    )
            manifest.save(staging)
            _rename_into_place(staging, folder)

    @contextmanager
    def staging(self, step: str, digest: str) -> Iterator[Path]:
        """An empty folder to fill; removed at the end unless it was committed."""
        folder = self.local / ".staging" / f"{step}-{digest[:12]}-{uuid.uuid4().hex[:8]}"
        with filesystem_errors(str(folder)):
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(
        self,
        staging: Path,
        *,
        step: str,
        digest: str,
        identity: Mapping[str, Any],
        inputs: Mapping[str, str],
        output: Mapping[str, Any],
        created_at: str,
    ) -> ArtifactManifest:
        """Make the staged files the artifact of that digest. The first to commit wins; a second changes nothing."""
        manifest = ArtifactManifest(
            step=step,
            digest=digest,
            identity=dict(identity),
            inputs=dict(inputs),
            files={
                path.relative_to(staging).as_posix(): ArtifactFile(size=path.stat().st_size, sha256=sha256_file(path))
                for path in sorted(staging.rglob("*"))
                if path.is_file()
            },
            output=dict(output),
            created_at=created_at,
            upload=uuid.uuid4().hex[:12] if self.remote else None,
        )
        folder = self.local / step / digest
        with filesystem_errors(str(folder)):
            manifest.save(staging)
            if not self.remote or self._upload(manifest, staging):
                _rename_into_place(staging, folder)
        return self.get(step, digest)

    def _upload(self, manifest: ArtifactManifest, staging: Path) -> bool:
        """Copy the files to the bucket and claim the digest; ``False`` when another host had claimed it."""
        for name in manifest.files:
            self._storage.upload(staging / name, _file_key(manifest, name))
        key = f"{manifest.step}/{manifest.digest}/{ArtifactManifest.file}"
        try:
            self._storage.write(key, manifest.to_pretty_json().encode(), if_absent=True)
        except PreconditionFailed:
            if self.get(manifest.step, manifest.digest) == manifest:
                return True  # our own write took effect and its answer was lost
            self._storage.delete_tree(f"{manifest.step}/{manifest.digest}/{manifest.upload}")
            return False
        return True

    @contextmanager
    def lock(self, step: str, digest: str, *, holder: str = "", say: Say = lambda line: None) -> Iterator[None]:
        """Wait until nobody on this host makes that artifact; released when the holder ends, however it ends.

        :param holder: who wants it, for those who wait meanwhile.
        :param say: is told at once, and then every minute, who is waited for.
        """
        path = self.local / ".locks" / f"{step}-{digest}"
        waiting = Waiting(say)
        with filesystem_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            while (stream := try_lock(path, holder)) is None:
                waiting.for_(f"{holder_of(path)}, which makes the same {step} artifact, {digest[:12]}")
                time.sleep(LOCK_SECONDS)
        with stream:
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Delete staging folders of makers that were killed: those of which nobody holds the lock."""
        for folder in (self.local / ".staging").glob("*"):
            step, digest, _ = folder.name.split("-", 2)
            if step != DOWNLOAD and not self._is_locked(step, digest):
                shutil.rmtree(folder, ignore_errors=True)

    def _is_locked(self, step: str, digest: str) -> bool:
        for path in (self.local / ".locks").glob(f"{step}-{digest}*"):
            try:
                with path.open("a") as stream:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # held, or of another user, who may hold it
                return True
        return False

    def work_folder(self, step: str, digest: str) -> Path:
        """A local folder that outlives a failed try of that step: where checkpoints are kept."""
        folder = self.local / ".work" / step / digest
        with filesystem_errors(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def drop_work_folder(self, step: str, digest: str) -> None:
        """Delete what a step kept for its retries, here and in the bucket."""
        shutil.rmtree(self.local / ".work" / step / digest, ignore_errors=True)
        if self.remote:
            self._storage.delete_tree(f".work/{step}/{digest}")

    def upload_work(self, step: str, digest: str, name: str, last: str) -> None:
        """Copy one folder of a step's work to the bucket, the file named ``last`` after all others."""
        folder = self.work_folder(step, digest) / name
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        for file in [*(file for file in files if file != last), last]:
            self._storage.upload(folder / file, f".work/{step}/{digest}/{name}/{file}")

    def remote_work(self, step: str, digest: str) -> list[str]:
        """The folders of that step's work that lie in the bucket."""
        return self._storage.list_folders(f".work/{step}/{digest}") if self.remote else []

    def download_work(self, step: str, digest: str, name: str, files: Iterable[str]) -> None:
        """Copy these files of one folder of a step's work from the bucket.

        Whoever may write to the bucket chose what else lies there.

        :raises NotFoundError: one is not there.
        """
        for file in files:
            target = self.work_folder(step, digest) / name / file
            self._storage.download(f".work/{step}/{digest}/{name}/{file}", target)

    def delete_remote_work(self, step: str, digest: str, name: str) -> None:
        """Delete one folder of a step's work from the bucket."""
        self._storage.delete_tree(f".work/{step}/{digest}/{name}")


def _file_key(manifest: ArtifactManifest, name: str) -> str:
    """Where a file of an artifact is in the bucket."""
    return "/".join(part for part in (manifest.step, manifest.digest, manifest.upload, name) if part)


def _matches(path: Path, entry: ArtifactFile) -> bool:
    if not path.is_file():
        return False
    with filesystem_errors(str(path)):
        return path.stat().st_size == entry.size and sha256_file(path) == entry.sha256


def _rename_into_place(staging: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir() and not (folder / ArtifactManifest.file).is_file():
        shutil.rmtree(folder)  # left by somebody who deleted half of it; never readable
    try:
        staging.rename(folder)
    except OSError:
        if not (folder / ArtifactManifest.file).is_file():
            raise
