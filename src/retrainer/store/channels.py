"""The pointer of a channel: the only object of a store that is ever replaced, always by compare-and-swap."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed
from retrainer.records import Record
from retrainer.storage import Storage
from retrainer.store.names import Sha256, Version, is_name, pointer_key
from retrainer.store.signing import Signature, pointer_bytes


def _moment(text: str) -> str:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time that UTC does not have") from None
    return text


# A time as it was written: others compare it, so what cannot be compared is no such record.
Moment = Annotated[str, AfterValidator(_moment)]


class Pointer(Record):
    """``channels/<channel>.json``.

    :ivar version: the champion.
    :ivar manifest_sha256: of the champion's ``manifest.json``, byte for byte.
    :ivar sequence: number of moves so far, this one included; never goes back.
    :ivar history: SHA-256 of the newest entry of the channel's history.
    :ivar moved_at: ISO 8601 in UTC.
    :ivar origin: SHA-256 of the first entry of the channel's history, which tells a channel that was begun anew from
        one that was put back; ``None`` for channels from before this was kept.
    :ivar signature: of all the rest, where a key was given.
    """

    format_version: Literal[1] = 1
    model: str
    channel: str
    version: Version
    manifest_sha256: Sha256
    sequence: int = Field(ge=1)
    history: Sha256
    moved_at: Moment
    origin: Sha256 | None = None
    signature: Signature | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Pointers from before these fields keep their bytes."""
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value is not None or key not in {"origin", "signature"}}

    def signed_bytes(self) -> bytes:
        """What its signature covers."""
        return pointer_bytes(self.model_copy(update={"signature": None}).to_json())


@dataclass(frozen=True, slots=True)
class Seen:
    """A channel as it was read: what a move of it is compared against.

    :ivar pointer: ``None`` while the channel has no champion.
    :ivar etag: the storage's token of the pointer.
    """

    pointer: Pointer | None
    etag: str | None

    @property
    def version(self) -> str | None:
        """The champion."""
        return self.pointer.version if self.pointer else None


def read_pointer(storage: Storage, model: str, channel: str) -> Seen:
    """The channel as it stands, in one request.

    :raises IntegrityError: what lies there is no pointer of that channel.
    """
    key = pointer_key(model, channel)
    try:
        data, etag = storage.read_with_etag(key)
    except NotFoundError:
        return Seen(None, None)
    pointer = Pointer.from_json(data, where=storage.where(key))
    if (pointer.model, pointer.channel) != (model, channel):
        raise IntegrityError(
            f"is the pointer of channel '{pointer.channel}' of '{pointer.model}'",
            where=storage.where(key),
            hint="the store was altered; restore the pointer from a backup",
        )
    return Seen(pointer, etag)


def swap_pointer(storage: Storage, seen: Seen, pointer: Pointer) -> bool:
    """Move the channel, if it still is as it was seen.

    :return: whether it moved; ``False`` means that somebody else moved it first.
    """
    key = pointer_key(pointer.model, pointer.channel)
    data = pointer.to_pretty_json().encode()
    try:
        storage.write(key, data, if_match=seen.etag, if_absent=seen.etag is None)
    except PreconditionFailed:
        # A request whose answer was lost is repeated, and then loses against itself.
        return read_pointer(storage, pointer.model, pointer.channel).pointer == pointer
    return True


def list_channels(storage: Storage, model: str) -> list[str]:
    """The channels that a model has ever been published on, sorted."""
    start = f"{model}/channels/"
    files = [info.key.removeprefix(start) for info in storage.list(start)]
    names = [file.removesuffix(".json") for file in files if file.endswith(".json")]
    return sorted(name for name in names if is_name(name))
