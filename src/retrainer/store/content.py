"""The content index: for the SHA-256 of a file, a place in the store where a file of that content lies.

It saves sending what the store already holds. It is a hint and nothing more: an entry can be stale, damaged or
forged, so that what is copied from such a place has to prove its content, and readers never look here.
"""

from __future__ import annotations

from typing import Literal

from retrainer.errors import IntegrityError, NotFoundError
from retrainer.records import Record
from retrainer.storage import Storage
from retrainer.store.names import FileName, Version, content_key, version_key


class Place(Record):
    """``files/<sha256>.json``: a file of a version of this model that had that content.

    :ivar file: its name within the version.
    """

    format_version: Literal[1] = 1
    version: Version
    file: FileName

    def key(self, model: str) -> str:
        """Where that file lies."""
        return version_key(model, self.version, self.file)


def find_content(storage: Storage, model: str, sha256: str) -> Place | None:
    """The place that was noted for that content; ``None`` where there is none, or the note cannot be read."""
    key = content_key(model, sha256)
    try:
        return Place.from_json(storage.read(key), where=storage.where(key))
    except (NotFoundError, IntegrityError):
        return None


def note_content(storage: Storage, model: str, sha256: str, place: Place) -> None:
    """Note a place, over any other: the last one who looked knows best."""
    storage.write(content_key(model, sha256), place.to_pretty_json().encode())
