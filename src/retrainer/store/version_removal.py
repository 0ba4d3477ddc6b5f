"""How one version is removed while publishers may be at work: note, second look, files, note (``gc.py`` says why)."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed, StorageError
from retrainer.storage import ObjectInfo, Storage
from retrainer.storage.keys import check_key
from retrainer.store.content import Place, find_content, note_content
from retrainer.store.manifest import Manifest
from retrainer.store.names import MANIFEST, content_key, is_version, version_key
from retrainer.store.needs import Needs, needed_since
from retrainer.store.parallel import in_parallel
from retrainer.store.removal import Removal, read_removal
from retrainer.store.swapping import write_over


def folders(storage: Storage, model: str) -> dict[str, dict[str, ObjectInfo]]:
    """Version -> name within it -> the object."""
    start = f"{model}/versions/"
    folders: dict[str, dict[str, ObjectInfo]] = defaultdict(dict)
    for info in storage.list(start):
        version, slash, name = info.key.removeprefix(start).partition("/")
        if slash and is_version(version):
            folders[version][name] = info
    return folders


def not_ours(objects: Iterable[ObjectInfo]) -> str | None:
    """Why a folder cannot be removed: keys that no storage of ours can name, so that they would stay for ever."""
    for info in objects:
        try:
            check_key(info.key, where=info.key)
        except StorageError:
            return f"it holds objects that are not the store's, such as '{info.key}'; delete them by hand"
    return None


def newest(objects: dict[str, ObjectInfo]) -> datetime:
    """When anything of a folder was last written."""
    return max(info.modified for info in objects.values())


class Remover:
    """Deletes versions of a model, each only while nobody needs it.

    :param needs: what was needed when the run began.
    :param doomed: versions that are to go; the content index is not pointed at them.
    :param old_before: a version of which something was written since then stays.
    """

    def __init__(
        self, storage: Storage, model: str, needs: Needs, doomed: set[str], old_before: datetime, at: datetime
    ) -> None:
        self._storage = storage
        self._model = model
        self._needs = needs
        self._doomed = doomed
        self._old_before = old_before
        self._at = at
        self._id = uuid.uuid4().hex
        self._others: dict[str, list[Place]] | None = None

    def remove(self, version: str) -> str | None:
        """Delete a version; or say why it stays."""
        if version in self._needs.reasons:
            return self._needs.reasons[version][0]
        objects = self._objects(version)
        if not objects:
            return "it is gone already"
        if newest(objects) > self._old_before:
            return "something was written to it meanwhile"
        foreign = not_ours(objects.values())  # before the note, which would stay with them
        if foreign is not None:
            return foreign
        key = version_key(self._model, version)
        try:
            manifest, etag = self._note(key)
        except PreconditionFailed:
            return "somebody else changed it meanwhile"
        except UnicodeDecodeError:
            return "its manifest is damaged beyond reading; look at it with 'retrainer fsck', and delete it by hand"
        try:
            why = self._needed_after_all(version, objects)
            if why is None:  # before the files: who may not delete is told here, with the version still whole
                self._drop_from_index(version, manifest)
        except BaseException:  # also Ctrl-C
            self._put_back(key, manifest, etag)
            raise
        if why is not None:
            self._put_back(key, manifest, etag)
            return why
        if not self._is_ours(key):  # fsck takes a note that is old for that of a gc that was killed
            return "somebody put it back meanwhile"
        in_parallel(self._storage.delete, [info.key for name, info in objects.items() if name != MANIFEST])
        if self._is_ours(key):
            self._storage.delete(key)
        return None

    def _objects(self, version: str) -> dict[str, ObjectInfo]:
        start = version_key(self._model, version, "")
        return {info.key.removeprefix(start): info for info in self._storage.list(start)}

    def _note(self, key: str) -> tuple[str | None, str]:
        """Put the note into the manifest's place.

        :return: the manifest as it was, ``None`` where there was none; and the token of the note.
        :raises PreconditionFailed: somebody wrote there meanwhile.
        """
        manifest: str | None = None
        etag: str | None = None
        try:
            data, etag = self._storage.read_with_etag(key)
        except NotFoundError:
            pass
        else:
            before = read_removal(data)
            manifest = before.manifest if before else data.decode()
        note = Removal(removal_id=self._id, at=self._at.isoformat(timespec="microseconds"), manifest=manifest)
        return manifest, write_over(self._storage, key, note.to_pretty_json().encode(), etag)

    def _needed_after_all(self, version: str, objects: dict[str, ObjectInfo]) -> str | None:
        if version in needed_since(self._storage, self._model, self._needs.entries):
            return "a channel was moved to it, or is about to be"
        present = self._objects(version)
        if any(objects.get(name) != info for name, info in present.items() if name != MANIFEST):
            return "something was written to it meanwhile"
        return None

    def _put_back(self, key: str, manifest: str | None, etag: str) -> None:
        if manifest is not None:
            write_over(self._storage, key, manifest.encode(), etag)
        elif self._is_ours(key):
            self._storage.delete(key)

    def _is_ours(self, key: str) -> bool:
        try:
            note = read_removal(self._storage.read(key))
        except NotFoundError:
            return False
        return note is not None and note.removal_id == self._id

    def _drop_from_index(self, version: str, manifest: str | None) -> None:
        """Let the content index name another version, where it names this one, or nothing."""
        if manifest is None:
            return
        try:
            files = Manifest.from_json(manifest, where=version).files
        except IntegrityError:
            return  # what then stays in the index names nothing, and fsck repairs it
        for sha256 in sorted({entry.sha256 for entry in files.values()}):
            self._drop(version, sha256)

    def _drop(self, version: str, sha256: str) -> None:
        place = find_content(self._storage, self._model, sha256)
        if place is None or place.version != version:
            return
        others = self._elsewhere(sha256)
        if others:
            note_content(self._storage, self._model, sha256, others[0])
        else:
            self._storage.delete(content_key(self._model, sha256))

    def _elsewhere(self, sha256: str) -> list[Place]:
        """Places in versions that stay. Their manifests are read once, and only if any is asked for."""
        if self._others is None:
            others: dict[str, list[Place]] = defaultdict(list)
            staying = sorted(folders(self._storage, self._model).keys() - self._doomed)
            for version, manifest in zip(staying, in_parallel(self._manifest, staying), strict=True):
                for name, entry in manifest.files.items() if manifest else ():
                    others[entry.sha256].append(Place(version=version, file=name))
            self._others = others
        return self._others.get(sha256, [])

    def _manifest(self, version: str) -> Manifest | None:
        key = version_key(self._model, version)
        try:
            return Manifest.from_json(self._storage.read(key), where=key)
        except (NotFoundError, IntegrityError):
            return None
