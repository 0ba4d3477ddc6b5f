"""A model's score with its bounds, and the paired comparison of two models on the same rows, as records.

Not here: how the bounds are found (``metrics.py``), what follows from an interval (``decide.py``).
"""

from __future__ import annotations

import math

from retrainer.artifacts.measures import Interval, Score
from retrainer.gate.answers import Answers, Ints
from retrainer.gate.metrics import METRICS
from retrainer.gate.paired import tidy


def score(name: str, labels: Ints, answers: Answers, alpha: float | None) -> Score:
    """A metric with one-sided ``1 - alpha`` bounds.

    :param name: one of ``METRICS``.
    :param alpha: ``None`` for the value alone.
    """
    metric = METRICS[name]
    value = metric.value(labels, answers)
    if not math.isfinite(value):
        return Score(value=None)
    if alpha is None:
        return Score(value=tidy(value))
    bounds = metric.bounds(labels, answers, alpha)
    return Score(
        value=tidy(value),
        low=tidy(max(bounds.low, metric.known.lowest)),
        high=tidy(min(bounds.high, metric.known.highest)),
        method=bounds.method,
    )


def compare(name: str, labels: Ints, first: Answers, second: Answers, alpha: float) -> Interval:
    """How much better the first model is than the second, with its interval.

    The difference is turned so that positive means better, also for metrics of which less is better.

    :raises ValueError: the metric has no value on these rows.
    """
    metric = METRICS[name]
    estimate, bounds = metric.compare(labels, first, second, alpha)
    widest = metric.known.highest - metric.known.lowest
    return Interval(
        metric=name,
        estimate=tidy(estimate),
        low=tidy(max(bounds.low, -widest)),
        high=tidy(min(bounds.high, widest)),
        confidence=tidy(1 - 2 * alpha),
        method=bounds.method,
        n=labels.size,
        disagreements=int((first.predictions != second.predictions).sum()),
    )
