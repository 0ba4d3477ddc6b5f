"""How a model stands, as the worst of some signs. Pure.

Not here: where the facts come from (``overview.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from retrainer.console.host import Runs
from retrainer.console.words import ago
from retrainer.records import Record
from retrainer.spec.model import Pipeline, Schedule
from retrainer.store.summary import ChannelSummary

Level = Literal["good", "unknown", "note", "warn", "bad"]
# From the best to the worst.
LEVELS: tuple[Level, ...] = ("good", "unknown", "note", "warn", "bad")
# A scheduler that is this late is not just busy.
LATE = timedelta(minutes=15)
# Refusals in a row: one is the gate at work, several say that the pipeline brings nothing any more.
MANY_REFUSALS = 3


class Sign(Record):
    """One respect in which a model is well or not.

    :ivar name: of the respect: ``serving``, ``schedule``, ``decision``, ``drift``, ``decay``.
    :ivar text: in words.
    """

    name: str
    level: Level
    text: str


class Health(Record):
    """The worst of the signs, and all of them."""

    level: Level
    signs: tuple[Sign, ...]

    @classmethod
    def of(cls, signs: Sequence[Sign]) -> Health:
        """The health that these signs give."""
        return cls(level=max((sign.level for sign in signs), key=LEVELS.index, default="unknown"), signs=tuple(signs))

    @property
    def reason(self) -> str:
        """The words of the worst sign; one word where all are good."""
        if self.level == "good":
            return "well"
        return next((sign.text for sign in self.signs if sign.level == self.level), "")


def serving(channel: ChannelSummary, checked: str | None, *, was_checked: bool) -> Sign:
    """Whether the channel serves a version, and one that verifies.

    :param checked: what is wrong with it; ``None`` where nothing is.
    """
    if checked is not None:
        return Sign(name="serving", level="bad", text=checked)
    if channel.champion is None:
        return Sign(name="serving", level="note", text="nothing was published yet")
    if not was_checked:
        return Sign(name="serving", level="unknown", text="what it serves was not checked yet")
    return Sign(name="serving", level="good", text="serves a version that was checked")


def scheduled(schedule: Schedule, runs: Runs | None, now: datetime) -> Sign:
    """Whether it is as fresh as its schedule promises."""
    if runs is None:
        return Sign(name="schedule", level="unknown", text="its DAG is not known to Airflow")
    by_itself = schedule.cron is not None or schedule.on_new_data
    last = f"last success {ago(runs.succeeded, now)}" if runs.succeeded else "no run succeeded yet"
    if runs.state == "failed":
        when = f" {ago(runs.ended, now)}" if runs.ended else ""
        return Sign(name="schedule", level="bad", text=f"the last run failed{when}; {last}")
    if by_itself and runs.paused:
        return Sign(name="schedule", level="warn", text=f"its DAG is paused, so that nothing starts; {last}")
    if runs.next_at is not None and now - runs.next_at > LATE:
        return Sign(name="schedule", level="warn", text=f"a run was due {ago(runs.next_at, now)}; {last}")
    if not by_itself:
        return Sign(name="schedule", level="good", text=f"started by hand; {last}")
    return Sign(name="schedule", level="good" if runs.succeeded else "note", text=f"on schedule; {last}")


def decided(channel: ChannelSummary) -> Sign:
    """What became of the last challengers."""
    if not channel.decisions:
        return Sign(name="decision", level="note", text="no challenger was judged yet")
    refused = next((at for at, one in enumerate(channel.decisions) if one.verdict == "promote"), len(channel.decisions))
    if not refused:
        return Sign(name="decision", level="good", text="the last challenger was promoted")
    many = refused >= MANY_REFUSALS
    text = "the last challenger was refused" if refused == 1 else f"the last {refused} challengers were refused"
    return Sign(name="decision", level="warn" if many else "note", text=text)


_DRIFT: dict[str, tuple[Level, str]] = {
    "none": ("good", "the data is as it was"),
    "note": ("good", "the data moved a little"),
    "warn": ("warn", "the data moved"),
    "block": ("bad", "the data moved further than the gate allows"),
}


def drifted(channel: ChannelSummary) -> Sign | None:
    """What the last decision that measured it said of the data; ``None`` where none did."""
    measured = (one.judged.drift for one in channel.decisions if one.judged is not None)
    found = next((drift for drift in measured if drift is not None), None)
    if found is None:
        return None
    level, text = _DRIFT.get(found, ("unknown", f"drift: {found}"))
    return Sign(name="drift", level=level, text=text)


_DECAY: dict[str, Level] = {"holds": "good", "decayed": "bad", "insufficient": "unknown"}


def decayed(channel: ChannelSummary, *, is_checked: bool) -> Sign | None:
    """What the last check of what the channel serves said; ``None`` where nobody asked for one.

    :param is_checked: the pipeline wants it.
    """
    note = channel.decay
    if note is None or note.version != channel.champion:
        # A check of an older champion says nothing of this one.
        text = "whether it still answers as well was not checked yet"
        return Sign(name="decay", level="unknown", text=text) if is_checked and channel.champion is not None else None
    words = {"holds": "it answers as well as at its decision", "decayed": "it has decayed"}
    text = words.get(note.verdict, "new rows do not tell whether it still answers as well")
    return Sign(name="decay", level=_DECAY[note.verdict], text=f"{text}: {note.text}")


def of_own_channel(pipeline: Pipeline, channel: ChannelSummary, runs: Runs | None, now: datetime) -> list[Sign]:
    """The signs that a pipeline's runs and checks give the channel that it publishes to; they say nothing of others."""
    measured = [drifted(channel), decayed(channel, is_checked=pipeline.decay is not None)]
    return [scheduled(pipeline.schedule, runs, now), decided(channel), *filter(None, measured)]
