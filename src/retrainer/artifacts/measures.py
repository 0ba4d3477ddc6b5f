"""Scores, differences and latencies with their bounds: the figures that records of several steps hold.

A number that could not be measured, or came out as NaN or infinite, is ``None``, for which JSON has a word.
Not here: how an interval is computed (``gate/metrics.py``).
"""

from __future__ import annotations

from retrainer.records import Record


class Latency(Record):
    """Time per request of one text, milliseconds, in a fresh process with fixed threads.

    Without the time that its threads waited for a processor: that says what else ran, not what the model costs.
    """

    p50: float | None
    p95: float | None


class Interval(Record):
    """A difference with its interval. Positive means that the first model is better.

    :param low: one-sided ``1 - alpha`` bound; so is ``high``.
    :param confidence: of both bounds together, ``1 - 2 alpha``.
    :param n: rows compared.
    :param disagreements: rows on which the two models predict different labels.
    """

    metric: str
    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    n: int
    disagreements: int

    @property
    def range(self) -> str:
        """Both ends in words: ``[+0.0010, +0.0230]``."""
        return f"[{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def seen(self) -> str:
        """The difference in half a sentence: ``by +0.0120, interval [+0.0010, +0.0230] on 2,000 rows``."""
        return f"by {self.estimate:+.4f}, interval {self.range} on {self.n:,} rows"


class Score(Record):
    """A metric of one model with its interval; ``None`` where undefined or not computed.

    :param low: one-sided ``1 - alpha`` bound; so is ``high``.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None


class Overturn(Record):
    """How firmly a comparison stands on the labels of its rows.

    :param labels: the fewest test labels that would have to be wrong for it to come out otherwise; ``None`` when no
        number of them would do.
    :param rows: on which the two models predict different labels: on no others does a label count.
    :param exact: whether ``labels`` is the fewest there are, and not an estimate.
    :param method: how it was found, in words.
    """

    labels: int | None
    rows: int
    exact: bool
    method: str
