"""The record of a check whether a published model still answers as well as when it was decided about: ``decay.json``.

Light: pydantic only. Not here: the judging (``gate/decay.py``), scoring the model (``work/decay.py``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from retrainer.artifacts.measures import Score
from retrainer.records import FileRecord, Record

DecayVerdict = Literal["holds", "decayed", "insufficient"]
"""``decayed``: the drop is shown to be larger than allowed. ``holds``: it is shown not to be. ``insufficient``: neither
is, and the reason says why."""


class DecayCode(StrEnum):
    """Why a check came out as it did."""

    DROP_TOO_LARGE = "drop_too_large"
    WITHIN = "within"
    NOT_TOLD = "not_told"
    TOO_FEW_ROWS = "too_few_rows"
    NO_CHAMPION = "no_champion"
    ORIGIN_UNKNOWN = "origin_unknown"
    NOT_SCORED_BEFORE = "not_scored_before"
    METRIC_UNDEFINED = "metric_undefined"


class Drop(Record):
    """How much worse the model is on new rows than on those of its decision. Positive is worse, whatever the metric.

    :param low: one-sided ``1 - alpha`` bound; so is ``high``.
    :param confidence: of both bounds together, ``1 - 2 alpha``.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    method: str


class LabelShare(Record):
    """Share of the rows that have a label: on those of the decision, and on the new ones."""

    label: str
    before: float
    now: float


class LeftOut(Record):
    """Rows that say nothing new of the model, because it has seen them.

    :param train: it was trained on their text; ``near`` on nearly the same text with the same label.
    :param validation: they chose its checkpoint; ``test`` they judged it.
    :param near_unknown: why near ones could not be looked for; ``None`` where they were, or nobody asked.
    """

    train: int = 0
    near: int = 0
    validation: int = 0
    test: int = 0
    near_unknown: str | None = None

    @property
    def rows(self) -> int:
        """All of them."""
        return self.train + self.near + self.validation + self.test


class DecayRecord(FileRecord):
    """``decay.json``.

    :param version: the champion; ``None`` where the channel serves nothing.
    :param decision: digest of the decision by which it was published.
    :param code: why the verdict is what it is, and ``text`` the same in a sentence with the numbers.
    :param before: on the test rows of its decision, as the receipt has it; ``before_rows`` how many these were.
    :param now: on the new rows; ``rows`` how many there are.
    :param shares: of labels, the one that moved most first; none where the task writes text.
    :param at_old_shares: what the metric would be on the new rows with the label shares of before; ``None`` where the
        metric is not one of the confusion matrix, or a label has no new row.
    :param unknown_labels: labels of new rows that the model cannot give, to rows.
    """

    file: ClassVar[str] = "decay.json"
    format_version: Literal[1] = 1
    model: str
    channel: str
    version: str | None
    decision: str | None = None
    verdict: DecayVerdict
    code: DecayCode
    text: str
    metric: str
    max_drop: float
    min_rows: int
    before: Score | None = None
    before_rows: int = 0
    now: Score | None = None
    rows: int = 0
    left_out: LeftOut = LeftOut()
    drop: Drop | None = None
    shares: tuple[LabelShare, ...] = ()
    at_old_shares: float | None = None
    unknown_labels: dict[str, int] = Field(default_factory=dict)
