"""A conditional write over what was seen, also where the answer to it is lost on the way."""

from __future__ import annotations

from retrainer.errors import NotFoundError, PreconditionFailed
from retrainer.storage import Storage


def write_over(storage: Storage, key: str, data: bytes, etag: str | None) -> str:
    """Write over what was seen. A request whose answer was lost is repeated, and then loses against itself.

    :param etag: of what was seen; ``None`` where nothing was there.
    :return: the token of what was written.
    :raises PreconditionFailed: somebody else wrote there meanwhile.
    """
    try:
        return storage.write(key, data, if_match=etag, if_absent=etag is None)
    except PreconditionFailed:
        try:
            found, written = storage.read_with_etag(key)
        except NotFoundError:
            found, written = b"", ""
        if found == data:
            return written
        raise
