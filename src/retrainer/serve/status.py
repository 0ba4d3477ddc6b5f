"""What a classifier says of itself: what it serves, since when, and why it serves nothing newer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a classifier at one moment. Times are in UTC.

    :ivar model: its name in the store; the name of the folder for a bundle that was never published.
    :ivar channel: the channel that is followed; ``None`` for a version asked for by name, and for a folder.
    :ivar version: the one that answers.
    :ivar precision: of the graph that answers.
    :ivar sequence: number of the move of the channel that brought this version; ``None`` without a channel.
    :ivar loaded_at: when this version began to answer.
    :ivar checked_at: when the channel was last read from the store; ``None`` while that never succeeded.
    :ivar watching: whether ``watch`` is at work.
    :ivar swaps: versions that took over from another since the start.
    :ivar refusals: moves or versions that were refused since the start, each counted once however often it is
        tried again.
    :ivar failures_in_a_row: looks at the store since the last one that ended well: with the version that the channel
        points at being served.
    :ivar problem: why the last look did not end well; ``None`` when it did.
    :ivar refused_version: what the channel points at, when that is refused.
    :ivar offline: whether the store could not be reached when it was last asked.
    :ivar labels: the names of the labels, of the same version as ``version`` and ``precision``, as are those below.
    :ivar task: ``text-classification`` or ``text-pair-classification``.
    :ivar max_length: tokens that a text is cut to; ``None`` for a bundle that was never published.
    """

    model: str
    channel: str | None
    version: str
    precision: str
    sequence: int | None
    loaded_at: datetime
    checked_at: datetime | None
    watching: bool
    swaps: int
    refusals: int
    failures_in_a_row: int
    problem: str | None
    refused_version: str | None
    offline: bool
    labels: tuple[str, ...] = ()
    task: str = ""
    max_length: int | None = None
