"""Why a channel moves, in a word that can be counted. The one list: command line, Airflow's form and records follow it.

A new cause is one line here, and one in the table of ``docs/store.md``, which a test holds against this one.
"""

from __future__ import annotations

from enum import StrEnum


class Cause(StrEnum):
    """A cause, and what it means.

    :ivar meaning: in words.
    :ivar for_people: whether a person may give it; else it is for the pipeline to give.
    """

    meaning: str
    for_people: bool

    def __new__(cls, word: str, meaning: str = "", for_people: bool = True) -> Cause:
        """One line of the list."""
        cause = str.__new__(cls, word)
        cause._value_ = word
        cause.meaning = meaning
        cause.for_people = for_people
        return cause

    GATE = "gate", "the statistics promoted it", False
    APPROVAL = "approval", "a person approved what the gate promoted"
    RELEASE = "release", "it goes on to the next channel"
    REGRESSION = "regression", "the one before answers better"
    INCIDENT = "incident", "a service broke"
    MAINTENANCE = "maintenance", "a drill, a move of stores, keys rotated"
    OTHER = "other", "something else; the text says what"
    UNSPECIFIED = "unspecified", "nobody said"

    @classmethod
    def of_people(cls) -> list[Cause]:
        """Those that a person may give."""
        return [cause for cause in cls if cause.for_people]
