"""What may be a key: a relative path that stays below its storage, on every backend alike."""

from __future__ import annotations

from retrainer.errors import StorageError

# Names that a folder needs for itself: its lock, and files not yet complete. They are never listed.
RESERVED = ".retrainer-"


def check_key(key: str, *, where: str) -> str:
    """The key itself.

    :raises StorageError: it is empty, absolute, leads out of the storage, or takes a reserved name.
    """
    parts = key.split("/")
    if any(part in {"", ".", ".."} or part.startswith(RESERVED) for part in parts) or "\0" in key:
        raise StorageError(f"'{key}' cannot be a key", where=where, hint="a key is a relative path: folder/name")
    return key


def check_folder(prefix: str, *, where: str) -> str:
    """A folder's key without its last slash; empty for the storage itself.

    :raises StorageError: it is absolute or leads out of the storage.
    """
    prefix = prefix.removesuffix("/")
    return check_key(prefix, where=where) if prefix else ""


def check_prefix(prefix: str, *, where: str) -> str:
    """The start of some keys; it may end within a name.

    :raises StorageError: it is absolute or leads out of the storage.
    """
    folder, slash, _ = prefix.rpartition("/")
    if slash:
        check_key(folder, where=where)
    return prefix
