"""All checks of a deployment, one after another, and what came of them as text for people and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from retrainer.doctor.deployment import Deployment
from retrainer.doctor.findings import Check, Finding, State, broken
from retrainer.errors import RetrainerError
from retrainer.report.presentation import escaped

_SIGNS: dict[State, str] = {"ok": "✓ ok", "warning": "▲ warning", "broken": "✗ broken"}
_PLURALS: dict[State, str] = {"ok": "ok", "warning": "warnings", "broken": "broken"}


def examine(checks: Sequence[Check], deployment: Deployment) -> Iterator[tuple[Check, Finding]]:
    """Every finding of every check, as soon as it is known."""
    for check in checks:
        try:
            yield from ((check, found) for found in check.look(deployment))
        except (RetrainerError, OSError, ValueError) as error:  # a folder that may not be entered, a name with a NUL
            yield check, broken(check.title.lower(), error)


@dataclass(frozen=True, slots=True)
class Examination:
    """What all checks found."""

    found: tuple[tuple[Check, Finding], ...]

    @classmethod
    def of(cls, found: Iterable[tuple[Check, Finding]]) -> Examination:
        """The outcome of ``examine``."""
        return cls(tuple(found))

    @property
    def counts(self) -> dict[State, int]:
        """How many findings there are of each state."""
        counted = Counter(finding.state for _, finding in self.found)
        return {state: counted[state] for state in get_args(State)}

    @property
    def broken(self) -> bool:
        """Whether anything is."""
        return self.counts["broken"] > 0

    @property
    def summary(self) -> str:
        """``12 ok, 1 warning, 2 broken``."""
        counts = self.counts
        return ", ".join(f"{count} {_PLURALS[state] if count != 1 else state}" for state, count in counts.items())

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "summary": self.counts,
            "findings": [{"check": check.title, **asdict(finding)} for check, finding in self.found],
        }

    def lines(self) -> Iterator[str]:
        """For a log: a line for each finding, below it how to mend it."""
        for check, finding in self.found:
            yield f"{_SIGNS[finding.state]:<9}  {check.title}: {finding.what}: {' '.join(finding.text.split())}"
            if finding.hint:
                yield f"{'':<9}  mend it: {finding.hint}"
        yield self.summary

    def markdown(self) -> str:
        """A table, the worst first."""
        states = get_args(State)
        worst_first = sorted(self.found, key=lambda pair: -states.index(pair[1].state))
        rows = [
            f"| {_SIGNS[finding.state]} | {escaped(check.title)} | {escaped(finding.what)} | {escaped(finding.text)} "
            f"| {escaped(finding.hint or '')} |"
            for check, finding in worst_first
        ]
        head = ["| | check | of | finding | how to mend it |", "|---|---|---|---|---|"]
        return "\n".join([f"**{self.summary}**", "", *head, *rows, ""])
