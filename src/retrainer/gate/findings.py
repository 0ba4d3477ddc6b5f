"""What a decision found on its way: reasons to refuse, and notes on what was skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from retrainer.gate.receipt import Reason, ReasonCode


@dataclass(slots=True)
class Findings:
    """Collected while judging; in the order found."""

    reasons: list[Reason] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, code: ReasonCode, detail: str) -> None:
        """Add a reason."""
        self.reasons.append(Reason(code=code, detail=detail))

    def extend(self, reasons: Iterable[Reason]) -> None:
        """Add reasons."""
        self.reasons += reasons

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)
