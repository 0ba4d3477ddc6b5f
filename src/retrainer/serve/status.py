"""What a client says of itself: what it serves, since when, and why it serves nothing newer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What looking at the store has come to. Times are in UTC.

    :ivar checked_at: when the channel was last read from the store; ``None`` while that never succeeded.
    :ivar swaps: versions that took over from another since the start.
    :ivar refusals: moves or versions that were refused since the start, each counted once however often it is
        tried again.
    :ivar failures_in_a_row: looks at the store since the last one that ended well: with the version that the channel
        points at being served.
    :ivar problem: why the last look did not end well; ``None`` when it did.
    :ivar refused_version: what the channel points at, when that is refused.
    :ivar offline: whether the store could not be reached when it was last asked.
    :ivar looking_since: when the look at the store began that is under way; ``None`` when none is. A look at a store
        that hangs, or at a version that is slow to load, is told by its age.
    """

    checked_at: datetime | None = None
    swaps: int = 0
    refusals: int = 0
    failures_in_a_row: int = 0
    problem: str | None = None
    refused_version: str | None = None
    offline: bool = False
    looking_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Progress):
    """The state of a client at one moment.

    :ivar model: its name in the store; the name of the folder for a bundle that was never published.
    :ivar channel: the channel that is followed; ``None`` for a version asked for by name, and for a folder.
    :ivar version: the one that answers.
    :ivar precision: of the graph that answers.
    :ivar sequence: number of the move of the channel that brought this version; ``None`` without a channel.
    :ivar loaded_at: when this version began to answer.
    :ivar watching: whether ``watch`` is at work.
    :ivar labels: the names of the labels, none of a model that writes text; of the same version as ``version`` and
        ``precision``, as are those below.
    :ivar task: such as ``text-classification``.
    :ivar max_length: tokens that a text is cut to; ``None`` for a bundle that was never published.
    """

    model: str
    channel: str | None
    version: str
    precision: str
    sequence: int | None
    loaded_at: datetime
    watching: bool
    labels: tuple[str, ...] = ()
    task: str = ""
    max_length: int | None = None
