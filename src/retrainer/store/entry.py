"""One entry of a model's ledger of decisions: a look at test rows, what a decision spends, its verdict, what a person
said to it.

Entries are written once, each naming the one before it by its hash, so that nobody can edit, drop or reorder one
unseen. Not here: how they are read and written (``ledger.py``), what follows from them (``chain/accounts.py``).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retrainer.records import Record
from retrainer.store.move import Moment
from retrainer.store.names import LAST_MOVE, Sha256, Version


class Look(Record):
    """A challenger was scored on test rows, whatever became of it.

    :ivar channel: that it was first scored for.
    :ivar challenger: digest of its export artifact.
    :ivar evaluation: digest of the first evaluate artifact that holds its answers.
    :ivar rows: of the set of test rows, by which it is found in ``rows/``; ``row_count`` of them.
    """

    kind: Literal["look"] = "look"
    channel: str
    challenger: Sha256
    evaluation: Sha256
    rows: Sha256
    row_count: int = Field(ge=1)


class Spent(Record):
    """What a decision spends, written before anything is decided.

    :ivar look: number of the entry with the look that it judges.
    :ivar evaluation: digest of the evaluate artifact that it judges: the look may have been at an earlier one, against
        another champion.
    :ivar champion: that the challenger is compared with; ``None`` for the first release, which spends nothing.
    :ivar anchor: of the channel; ``anchor_error`` why it could not be asked.
    :ivar metric: by which they are compared: another one is another question.
    :ivar standing: SHA-256 of the record of what was counted before it.
    :ivar level: at which the challenger is compared with the champion; ``None`` where nothing is spent.
    """

    kind: Literal["spent"] = "spent"
    channel: str
    look: int = Field(ge=1)
    evaluation: Sha256
    champion: Version | None
    anchor: Version | None
    anchor_error: str | None = None
    metric: str | None
    standing: Sha256
    level: float | None


class Verdict(Record):
    """What the gate said.

    :ivar spent: number of the entry with what it spent.
    :ivar decision: digest of the decide artifact.
    :ivar receipt: SHA-256 of its ``receipt.json``.
    :ivar reasons: codes, where it refused.
    """

    kind: Literal["verdict"] = "verdict"
    channel: str
    spent: int = Field(ge=1)
    decision: Sha256
    receipt: Sha256
    verdict: Literal["promote", "refuse"]
    reasons: tuple[str, ...] = ()


class Answer(Record):
    """What a person said to what the gate promotes. The newest answer to a decision counts.

    :ivar to: number of the entry with the verdict.
    :ivar decision: digest of the decide artifact.
    :ivar reason: in the person's own words; may be empty.
    """

    kind: Literal["answer"] = "answer"
    channel: str
    to: int = Field(ge=1)
    decision: Sha256
    answer: Literal["approve", "reject"]
    reason: str = ""


Event = Annotated[Look | Spent | Verdict | Answer, Field(discriminator="kind")]


class Entry(Record):
    """``decisions/<number>.json``.

    :ivar sequence: its number; 1 for the first of the model.
    :ivar previous: SHA-256 of the entry before; ``None`` for the first.
    :ivar actor: who ran it, ``run`` in which run.
    :ivar at: ISO 8601 in UTC, by the clock of whoever wrote it. The number gives the order, not the time.
    """

    format_version: Literal[1] = 1
    model: str
    sequence: int = Field(ge=1, le=LAST_MOVE)
    previous: Sha256 | None
    actor: str
    run: str
    at: Moment
    event: Event

    @model_validator(mode="after")
    def _first_or_not(self) -> Self:
        if (self.sequence == 1) is not (self.previous is None):
            raise ValueError("only the first entry has none before it")
        refers = {"spent": "look", "verdict": "spent", "answer": "to"}.get(self.event.kind)
        if refers is not None and getattr(self.event, refers) >= self.sequence:
            raise ValueError("it names an entry that is not before it")
        return self

    def written(self) -> bytes:
        """The bytes of its object. There is one form only, so that its hash follows from what it says."""
        return self.to_pretty_json().encode()

    @property
    def sha256(self) -> str:
        """Of those bytes: what the next entry names."""
        return hashlib.sha256(self.written()).hexdigest()

    def follows(self, before: Entry | None) -> bool:
        """Whether it is the next entry after that one; after ``None``, whether it is the first."""
        if before is None:
            return self.sequence == 1
        return (self.model, self.sequence, self.previous) == (before.model, before.sequence + 1, before.sha256)
