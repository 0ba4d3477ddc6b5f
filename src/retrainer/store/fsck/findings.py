"""What a check of a store found: records that a person, a script and a repair can read. Nothing is looked at here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from retrainer.records import Record

Severity = Literal[
    "damage",  # a reader is refused, or would have been misled without the checks that readers do
    "suspect",  # nothing fails, and yet no publisher leaves it like that: somebody should look
    "leftover",  # harmless: a publisher was killed, lost a race, or is at work right now
]


class Code(StrEnum):
    """Kinds of findings. ``docs/store.md`` says of each what it means and what can be done."""

    MOVE_MISSING = "move-missing"
    MOVE_ALTERED = "move-altered"
    MOVE_UNSIGNED = "move-unsigned"
    MOVE_SIGNATURE = "move-signature"
    MOVE_TIMES = "move-times"
    CHANNEL_DANGLING = "channel-dangling"
    CHANNEL_ANCHOR = "channel-anchor"
    HINT_ALTERED = "hint-altered"
    HINT_BEHIND = "hint-behind"
    ENTRY_MISSING = "entry-missing"
    ENTRY_ALTERED = "entry-altered"
    ROWS_MISSING = "rows-missing"
    ROWS_ALTERED = "rows-altered"
    MANIFEST_ALTERED = "manifest-altered"
    VERSION_UNSIGNED = "version-unsigned"
    VERSION_SIGNATURE = "version-signature"
    VERSION_INCOMPLETE = "version-incomplete"
    REMOVAL_UNFINISHED = "removal-unfinished"
    FILE_MISSING = "file-missing"
    FILE_ALTERED = "file-altered"
    FILE_UNLISTED = "file-unlisted"
    OBJECT_UNREADABLE = "object-unreadable"
    OBJECT_UNKNOWN = "object-unknown"
    TEMPORARY = "temporary"


class Finding(Record):
    """One thing that is not as a publisher leaves it.

    :ivar version: the version that it is about, where it is about one.
    :ivar channels: those that it touches: that serve the version, or whose move or hint it is.
    :ivar key: of the object within the store.
    :ivar where: its full address, for people.
    :ivar hint: what to do about it.
    :ivar repair: what ``repair`` would do; ``None`` where that is nothing.
    """

    code: Code
    severity: Severity
    model: str
    version: str | None = None
    channels: tuple[str, ...] = ()
    key: str
    where: str
    message: str
    hint: str
    repair: str | None = None


class Findings(Record):
    """The result of a check.

    :ivar quick: files were only counted and measured, not read.
    :ivar at: when the check began, ISO 8601 in UTC.
    :ivar versions: complete versions looked at, ``files`` and ``bytes`` theirs.
    :ivar notes: what could not be looked at, and why. No damage: nothing that a reader needs.
    """

    store: str
    quick: bool
    at: str
    models: tuple[str, ...]
    channels: int
    versions: int
    files: int
    bytes: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged. What is suspect or left over does not count."""
        return not any(finding.severity == "damage" for finding in self.findings)

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Those of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def counts(self) -> dict[Severity, int]:
        """Severity -> how many, the worst first."""
        found = Counter(finding.severity for finding in self.findings)
        worst_first: tuple[Severity, ...] = ("damage", "suspect", "leftover")
        return {severity: found[severity] for severity in worst_first}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is.

    :ivar files: of all complete versions of the model, checked so far; ``bytes`` theirs.
    """

    model: str
    files: int
    total_files: int
    bytes: int
    total_bytes: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Repair:
    """What would put something right.

    :ivar text: what it does, for people.
    :ivar act: does it. It proves what it writes, and raises where it cannot.
    """

    text: str
    act: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding, and what would repair it."""

    finding: Finding
    repair: Repair | None = None
