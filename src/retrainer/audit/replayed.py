"""The records of a replay: each night of it, where it stopped, what it comes to. Not here: how it goes (``replay``)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from retrainer.artifacts.measures import Interval
from retrainer.audit.answers import Lacking
from retrainer.audit.history import Decision
from retrainer.gate.paired import tidy
from retrainer.gate.receipt import ReasonCode, Receipt

# A refusal for nothing but these says that the history does not hold what a policy asks for.
UNMEASURED = frozenset(
    {
        ReasonCode.METRIC_MISSING,
        ReasonCode.BUDGET_NOT_MEASURED,
        ReasonCode.DRIFT_NOT_MEASURED,
        ReasonCode.BASELINE_MISSING,
        ReasonCode.SLICE_MISSING,
        ReasonCode.ANCHOR_UNAVAILABLE,
    }
)


@dataclass(frozen=True, slots=True)
class Night:
    """One decision, and what it would have been.

    :param receipt: of the replay; ``None`` where the challenger was live already, or nothing could be decided.
    :param equal: the receipt is the recorded one, byte for byte; ``None`` where it need not be.
    :param problems: why the record does not hold.
    :param notes: what was left out of the decision, and why.
    :param live_recorded: export artifact of the model that was live after it; ``live_replayed`` of the one that would
        have been. ``None`` for none.
    :param difference: how much better the latter answers the rows of this night; ``None`` where that is not known.
    """

    decision: Decision
    receipt: Receipt | None
    equal: bool | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    live_recorded: str | None = None
    live_replayed: str | None = None
    difference: float | None = None

    @property
    def verdict(self) -> str:
        """Of the replay."""
        if self.receipt is not None:
            return self.receipt.verdict
        return "not decided" if self.problems else "unchanged"

    @property
    def codes(self) -> tuple[str, ...]:
        """Why it refused."""
        return self.receipt.codes if self.receipt is not None else ()

    @property
    def unmeasured(self) -> bool:
        """It refused for nothing but what the history does not hold."""
        reasons = self.receipt.reasons if self.receipt is not None else ()
        return bool(reasons) and all(reason.code in UNMEASURED for reason in reasons)


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a replay could not go on.

    :param decision: that could not be taken.
    :param model: export artifact of what has no answers; ``role`` what it would have been.
    """

    decision: Decision
    model: str
    role: str
    lacking: Lacking


@dataclass(frozen=True, slots=True)
class Replay:
    """How it went.

    :param metric: in which the differences are.
    :param comparison: the model live in the replay minus that of the record, on the rows of ``compared_on``, the last
        night on which they were not the same and both have answers; ``None`` where there was none.
    """

    nights: tuple[Night, ...]
    stop: Stop | None
    metric: str
    comparison: Interval | None
    compared_on: Night | None

    @property
    def holds(self) -> bool:
        """Nothing that has to be byte-equal is not."""
        return not any(night.problems for night in self.nights)

    @property
    def mean_difference(self) -> float | None:
        """Over the nights of which it is known; those on which the same model was live count as 0."""
        known = [night.difference for night in self.nights if night.difference is not None]
        return tidy(fmean(known)) if known else None
