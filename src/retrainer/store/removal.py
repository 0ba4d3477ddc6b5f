"""A version that is being removed: its manifest gives way to a note that holds the manifest's bytes.

The note takes the manifest's place by compare-and-swap. While it lies there no reader can read the version, no
publisher can complete it, and no channel is moved to it; so its files can be deleted without anybody seeing half of
them. Whoever removes it dies: the manifest can still be put back from the note.
"""

from __future__ import annotations

from typing import Literal

from retrainer.errors import IntegrityError
from retrainer.records import Record


class Removal(Record):
    """What stands in ``manifest.json`` while the version is being removed.

    :ivar removed: what this is, for whoever opens the file.
    :ivar removal_id: of one run of gc; tells its note from another's.
    :ivar at: ISO 8601 in UTC.
    :ivar manifest: the manifest as it was, byte for byte; ``None`` for an upload that was never completed.
    """

    removed: Literal["this version is being removed by 'retrainer gc'"] = (
        "this version is being removed by 'retrainer gc'"
    )
    removal_id: str
    at: str
    manifest: str | None


_MARK = b'"removed"'


def read_removal(data: bytes) -> Removal | None:
    """The note in the place of a manifest; ``None`` where the bytes are anything else."""
    if _MARK not in data[:200]:
        return None
    try:
        return Removal.from_json(data, where="manifest.json")
    except IntegrityError:
        return None
