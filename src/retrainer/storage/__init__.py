"""One protocol for objects on a folder and in a bucket, and how an address names either.

``s3://bucket/prefix`` is taken literally, as the aws command line does; ``file:///a%20b`` is a URL, whose
escapes are decoded; anything without a scheme is a path. Not here: what is kept in the objects.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

from retrainer.errors import ResourceError, StorageError, UserError
from retrainer.storage.access import S3Access, current_access, deadline, use_access
from retrainer.storage.protocol import Leftover, ObjectInfo, Storage, Transfer

__all__ = [
    "Leftover",
    "ObjectInfo",
    "S3Access",
    "Storage",
    "Transfer",
    "deadline",
    "is_s3",
    "join_url",
    "open_storage",
    "use_access",
]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FILE = "file://"
_S3 = "s3://"
_OF_BOTO3 = {"boto3", "botocore", "s3transfer"}


def is_s3(url: str | Path) -> bool:
    """Whether the address names a bucket."""
    return isinstance(url, str) and url.startswith(_S3)


def open_storage(url: str | Path, *, access: S3Access | None = None) -> Storage:
    """The storage at that address. Nothing is read or written yet.

    :param access: how a bucket is reached; ``None`` for what ``use_access`` set, else the environment.
    :raises StorageError: the address cannot be understood.
    :raises ResourceError: boto3 is not installed, and it names a bucket.
    :raises UserError: it is neither text nor a path.
    """
    given: object = url
    if not isinstance(given, str | Path):
        raise UserError(
            f"the address must be text or a path; got {given!r}",
            hint="None is what an environment variable that is not set gives",
        )
    if isinstance(url, str) and is_s3(url):
        try:
            from retrainer.storage.s3 import S3Storage
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in _OF_BOTO3:
                raise
            hint = "pip install 'airflow-retrainer[serve]', or boto3"
            raise ResourceError(f"{error.name} is not installed, and a bucket needs it", where=url, hint=hint) from None
        return S3Storage(url, access=access or current_access())
    from retrainer.storage.files import FileStorage

    return FileStorage(_folder(url) if isinstance(url, str) else url)


def join_url(url: str | Path, *parts: str) -> str:
    """The address of something below an address.

    :param parts: keys; they are escaped where the address is a ``file://`` URL.
    """
    text = str(url)
    if text.startswith(_FILE):
        parts = tuple(quote(part) for part in parts)
    return "/".join([text.rstrip("/"), *(part.strip("/") for part in parts)])


def _folder(url: str) -> Path:
    if url.startswith(_FILE):
        path = unquote(url.removeprefix(_FILE).removeprefix("localhost"))
        if not path.startswith("/"):
            raise StorageError("names another machine", where=url, hint="a folder has three slashes: file:///folder")
        return Path(path)
    scheme = _SCHEME.match(url)
    if scheme or not url:
        raise StorageError(
            f"cannot open {scheme[0]} addresses" if scheme else "the address is empty",
            where=url or None,
            hint="use s3://bucket/prefix, file:///folder or a path",
        )
    try:
        return Path(url).expanduser()
    except RuntimeError as error:  # there is no such user
        raise StorageError(str(error).lower().rstrip("."), where=url, hint="give the path of the folder") from None
