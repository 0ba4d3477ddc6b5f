"""Whether a storage honours conditional writes. Without them two publishers can both believe to have won."""

from __future__ import annotations

from retrainer.errors import PreconditionFailed, StorageError
from retrainer.storage import Storage

_CONTENT = b"Written to see that this storage refuses conditional writes whose condition does not hold.\n"
_NO_ETAG = '"00000000000000000000000000000000"'


def require_conditional_writes(storage: Storage, model: str) -> None:
    """Write under conditions that do not hold, and insist that they fail.

    The object that this needs stays where it is, so that publishing takes no permission to delete.

    :raises StorageError: a write went through that should not have.
    """
    key = f"{model}/.probe"
    if _written(storage, key, if_absent=True) and _written(storage, key, if_absent=True):
        raise _refusal(storage, key, "If-None-Match")
    if _written(storage, key, if_match=_NO_ETAG):
        raise _refusal(storage, key, "If-Match")


def _written(storage: Storage, key: str, *, if_match: str | None = None, if_absent: bool = False) -> bool:
    try:
        storage.write(key, _CONTENT, if_match=if_match, if_absent=if_absent)
    except PreconditionFailed:
        return False
    return True


def _refusal(storage: Storage, key: str, header: str) -> StorageError:
    return StorageError(
        f"this storage ignores conditional writes ({header}), so nothing can be published there safely",
        where=storage.where(key),
        hint="use S3, a server that supports conditional writes such as MinIO, or a folder",
    )
