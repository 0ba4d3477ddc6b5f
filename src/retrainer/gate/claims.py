"""One model against another: what is asked, at which level, and how the interval is read.

``[low, high]`` is the interval of the difference, each end a one-sided bound; the threshold is 0 (superiority) or minus
the loss allowed (non-inferiority):

- ``low`` at the level of this decision above the threshold: shown. When the truth is at the threshold this happens
  with the probability of that level. Every claim about one pair is read from the same bound, so asking for both "not
  worse" and "better" costs nothing more (T. Morikawa, M. Yoshida, A useful testing strategy in phase III trials:
  combined test of superiority and test of equivalence, Journal of Biopharmaceutical Statistics 5 (1995) 297-306).
- else ``high`` at the policy's alpha below 0: the challenger is worse, beyond chance. Refusing spends nothing.
- else there are too few rows to tell; or, for superiority, the difference seen is not even positive. Where the same
  answers would have been enough for a first decision on rows that nobody had looked at, or where nothing is left of
  the level, it is the looks that are to blame: the test set is worn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from retrainer.artifacts.measures import Interval
from retrainer.gate.paired import rows_needed
from retrainer.gate.receipt import Reason, ReasonCode

# Below this no interval is trusted, whatever it says.
FEWEST_ROWS = 20


@dataclass(frozen=True, slots=True)
class Levels:
    """The error rates at which a comparison is read.

    :param now: of this decision; 0 where nothing is left.
    :param nominal: of a single decision, by the policy.
    :param fresh: of a first decision on rows that nobody has looked at.
    :param with_rows: of this decision if there were so many test rows.
    :param history: why it is not ``fresh``, as half a sentence; empty where it is.
    """

    now: float
    nominal: float
    fresh: float
    with_rows: Callable[[int], float]
    history: str = ""

    @classmethod
    def single(cls, alpha: float) -> Levels:
        """Of a decision that is the only one."""
        return cls(alpha, alpha, alpha, lambda rows: alpha)


@dataclass(frozen=True, slots=True)
class Question:
    """What the challenger must show against another model.

    :param threshold: what the whole interval must be above.
    :param gain: whether a gain must be shown.
    :param other: ``anchor``; empty for the champion, against whom everything is compared.
    :param worse: the reason when it is shown to be worse.
    :param rows_per_day: at which test rows arrive.
    """

    metric: str
    threshold: float
    gain: bool
    worse: ReasonCode
    levels: Levels
    other: str = ""
    rows_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found.

    :param interval: at the level of the decision; at the nominal one where nothing is left.
    :param reason: why it is not shown; ``None`` where it is.
    :param rows_needed: about how many rows would tell; ``None`` when told, or when none would.
    """

    interval: Interval
    nominal: Interval
    reason: Reason | None = None
    rows_needed: int | None = None

    @property
    def shown(self) -> bool:
        """Whether the challenger has shown what was asked."""
        return self.reason is None


def ask(question: Question, at: Callable[[float], Interval]) -> Reading:
    """What one comparison shows.

    :param at: the interval of the difference at an error rate.
    :raises ValueError: the metric has no value on these rows.
    """
    levels = question.levels
    nominal = at(levels.nominal)
    interval = nominal if levels.now in (0.0, levels.nominal) else at(levels.now)
    if levels.now > 0 and shows(interval, question.threshold):
        return Reading(interval, nominal)
    seen = _seen(question, interval)
    if nominal.high < 0:
        return Reading(interval, nominal, Reason(code=question.worse, detail=seen))
    if question.gain and nominal.estimate <= 0:
        return Reading(interval, nominal, Reason(code=ReasonCode.NOT_BETTER, detail=seen))
    # Planned for the difference seen; for non-inferiority at least for models that are equally good.
    assumed = nominal.estimate if question.gain else max(nominal.estimate, 0.0)
    needed = rows_needed(
        n=nominal.n,
        half_width=(nominal.high - nominal.low) / 2,
        distance=assumed - question.threshold,
        alpha=levels.nominal,
        level=levels.with_rows,
    )
    worn = levels.now < levels.fresh and (levels.now == 0 or shows(at(levels.fresh), question.threshold))
    if worn:
        seen += f". {levels.history}"
        if levels.now > 0:
            seen += f"; a first decision on fresh rows is taken at {levels.fresh:.2g}, which would have been enough"
    if needed is not None:
        needed = max(needed, FEWEST_ROWS)
        premise = "if this difference is real" if assumed > 0 else "if the models are equally good"
        seen += f". About {needed:,} rows would be needed to tell, {premise}{_arrival(question, needed - nominal.n)}"
    code = ReasonCode.WORN_TEST_SET if worn else ReasonCode.INSUFFICIENT_ROWS
    return Reading(interval, nominal, Reason(code=code, detail=seen), needed)


def shows(interval: Interval, threshold: float) -> bool:
    """Whether the whole interval is above the threshold, on rows enough to trust it."""
    return interval.low > threshold and interval.n >= FEWEST_ROWS


def _seen(question: Question, interval: Interval) -> str:
    levels = question.levels
    other = f" from that of the {question.other}" if question.other else ""
    spent = f", at the level of {levels.now:.2g} that this decision has" if 0 < levels.now < levels.nominal else ""
    return (
        f"{question.metric} differs{other} {interval.seen}; the whole interval must be above "
        f"{question.threshold:g}{spent}"
    )


def _arrival(question: Question, more: int) -> str:
    """When so many more rows have arrived, where that is known."""
    if question.rows_per_day is None:
        return ""
    days = math.ceil(more / question.rows_per_day)
    return f"; at {question.rows_per_day:,.3g} new ones a day they are there in about {days:,} days"
