"""Whether a storage keeps the promise that all here rests on: of two writers of a new object one is told."""

from __future__ import annotations

from contextlib import suppress

from retrainer.errors import PreconditionFailed, StorageError
from retrainer.storage import Storage

_PROBE = b"Written to see that this storage refuses conditional writes whose condition does not hold.\n"


def probe_key(model: str) -> str:
    """Where the object is that the writes are tried with."""
    return f"{model}/.probe"


def require_conditional_writes(storage: Storage, model: str) -> bool:
    """Write twice under a condition that can hold once. Without it two publishers could both believe to have won.

    The object that this needs stays where it is, so that publishing takes no permission to delete.

    :return: whether that object was written now, and was not there before.
    :raises StorageError: both writes went through.
    """
    key = probe_key(model)
    written = False
    with suppress(PreconditionFailed):
        storage.write(key, _PROBE, if_absent=True)
        written = True
        storage.write(key, _PROBE, if_absent=True)
        raise StorageError(
            "this storage ignores conditional writes (If-None-Match), so nothing can be published there safely",
            where=storage.where(key),
            hint="use S3, a server that supports conditional writes such as MinIO, or a folder",
        )
    return written
