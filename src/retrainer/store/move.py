"""One move of a channel, and the hint that tells where the newest is. How they are read and written is in ``log.py``.

A move is written once and names the one before it by its hash, so that nobody can edit, drop or reorder one unseen.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from retrainer.records import Record
from retrainer.store.causes import Cause
from retrainer.store.names import LAST_MOVE, Sha256, Version
from retrainer.store.signing import Signature, move_bytes

Action = Literal["publish", "promote", "rollback", "sign", "anchor"]
# No change of what is served: the same version, signed by another key, or with another anchor.
STAYS = ("sign", "anchor")
# Moves whose hashes the hint holds.
RECENT_MOVES = 32


def _moment(text: str) -> str:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time without its zone")
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time that UTC does not have") from None
    return text


# A time as it was written: others compare it, so what cannot be compared makes no such record.
Moment = Annotated[str, AfterValidator(_moment)]


class Move(Record):
    """``channels/<channel>/<number>.json``: where a channel points since then, and why.

    :ivar sequence: its number; 1 for the first move of the channel.
    :ivar from_version: the champion that was replaced; ``None`` for the first.
    :ivar to_version: the champion since.
    :ivar manifest_sha256: of that version's ``manifest.json``, byte for byte.
    :ivar actor: who moved it.
    :ivar at: ISO 8601 in UTC, by the clock of whoever moved it. The number gives the order, not the time.
    :ivar cause: why, in one word of a list.
    :ivar reason: why, in words.
    :ivar decision: digest of the decide artifact, for what the gate promoted.
    :ivar anchor: version that challengers must not fall behind, however small the steps: the first champion, then
        whichever was shown to be better than the anchor, or was pinned by a person.
    :ivar ledger: SHA-256 of the newest entry of the model's ledger of decisions; ``None`` while that was empty.
    :ivar previous: SHA-256 of the move before; ``None`` for the first.
    :ivar origin: SHA-256 of the channel's first move, which tells a channel that was begun anew from one of which an
        older state was put back; ``None`` for the first.
    :ivar signature: of all the rest, where a key was given.
    """

    format_version: Literal[3] = 3
    model: str
    channel: str
    sequence: int = Field(ge=1, le=LAST_MOVE)
    action: Action
    from_version: Version | None
    to_version: Version
    manifest_sha256: Sha256
    actor: str
    at: Moment
    cause: Cause = Cause.UNSPECIFIED
    reason: str
    decision: str | None
    anchor: Version
    ledger: Sha256 | None
    previous: Sha256 | None
    origin: Sha256 | None
    signature: Signature | None = None

    @model_validator(mode="after")
    def _first_or_not(self) -> Self:
        if len({self.sequence == 1, self.from_version is None, self.previous is None, self.origin is None}) > 1:
            raise ValueError("only the first move has none before it")
        if self.action in STAYS and self.from_version != self.to_version:
            raise ValueError("signing or pinning an anchor changes no version")
        return self

    def written(self) -> bytes:
        """The bytes of its object. There is one form only, so that its hash follows from what it says."""
        return self.to_pretty_json().encode()

    @property
    def sha256(self) -> str:
        """Of those bytes: what the next move names."""
        return hashlib.sha256(self.written()).hexdigest()

    @property
    def begun_by(self) -> str:
        """The SHA-256 of the channel's first move."""
        return self.origin or self.sha256

    def signed_bytes(self) -> bytes:
        """What its signature covers."""
        return move_bytes(self.model_copy(update={"signature": None}).to_json())

    def follows(self, before: Move) -> bool:
        """Whether it is the next move after that one."""
        return (self.model, self.channel, self.sequence, self.previous, self.origin, self.from_version) == (
            before.model,
            before.channel,
            before.sequence + 1,
            before.sha256,
            before.begun_by,
            before.to_version,
        )


class Hint(Record):
    """``channels/<channel>/latest.json``: from where to look for the newest move. Written after it, over any other.

    :ivar sequence: of a move that was made; there may be later ones.
    :ivar hashes: SHA-256 of that move and of those before it, the newest first, as far as its writer knew them.
    """

    format_version: Literal[1] = 1
    sequence: int = Field(ge=1, le=LAST_MOVE)
    hashes: tuple[Sha256, ...] = Field(min_length=1, max_length=RECENT_MOVES)

    @model_validator(mode="after")
    def _no_more_than_there_are(self) -> Self:
        if len(self.hashes) > self.sequence:
            raise ValueError("more hashes than moves")
        return self
