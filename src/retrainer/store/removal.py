"""How gc and publishers keep out of each other's way: an intent says "I need it", a removal says "I delete it".

::

    <model>/intents/<version>-<id>.txt             a channel is about to be pointed at that version
    <model>/versions/<version>/removal.json        gc is deleting that version

Both are written only if absent, and each side writes its own before it looks for the other's: so one of the two sees
the other. A publisher that finds a removal moves nothing; gc that finds an intent takes its removal back. An intent
counts for a day; the manifest goes before the files, and the removal last. Not here: which versions may go (``gc.py``).
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from datetime import datetime
from typing import Literal

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed
from retrainer.records import Record
from retrainer.storage import Storage
from retrainer.store.names import MOST_RECORD, REMOVAL, intent_key, is_version, version_key

_INTENT = b"A channel is about to be pointed at the version in this name. 'retrainer gc' leaves it alone for a day.\n"


class Removal(Record):
    """That a version is being removed.

    :ivar removed: what this is, for whoever opens the file.
    :ivar removal_id: of one run of gc; tells its removal from another's.
    :ivar at: ISO 8601 in UTC.
    """

    format_version: Literal[1] = 1
    removed: Literal["this version is being removed by 'retrainer gc'"] = (
        "this version is being removed by 'retrainer gc'"
    )
    removal_id: str
    at: str


def write_intent(storage: Storage, model: str, version: str) -> None:
    """Say that a channel is about to be pointed at a version: gc then leaves it alone for a day."""
    with suppress(PreconditionFailed):  # of a name that nobody else has: the request was repeated
        storage.write(intent_key(model, version, uuid.uuid4().hex), _INTENT, if_absent=True)


def intents(storage: Storage, model: str) -> dict[str, tuple[str, datetime]]:
    """Key of each intent -> its version, and when it was written, by the clock of the storage."""
    start = f"{model}/intents/"
    found = {info.key: (info.key.removeprefix(start).partition("-")[0], info.modified) for info in storage.list(start)}
    return {key: (version, at) for key, (version, at) in found.items() if is_version(version)}


def read_removal(storage: Storage, model: str, version: str) -> Removal | None:
    """The note that a version is being removed; ``None`` where there is none. One that is damaged counts as well."""
    key = version_key(model, version, REMOVAL)
    try:
        return Removal.from_json(storage.read(key, most=MOST_RECORD), where=storage.where(key))
    except NotFoundError:
        return None
    except IntegrityError:
        return Removal(removal_id="", at="")
