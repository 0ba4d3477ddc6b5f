"""A model's score with its bounds, and the paired comparison of two models on the same rows.

Accuracy goes by exact and score methods (``paired.py``), every other metric by the bootstrap
(``bootstrap.py``). What follows from an interval is ``decide.py``'s business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.bootstrap import resamples_for, standard_error
from retrainer.gate.metrics import METRICS, Metric
from retrainer.gate.paired import normal_quantile, proportion_bounds, tango_interval, tidy
from retrainer.gate.records import Interval, Score

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Metrics in [0, 1] and in [-1, 1]: bounds are cut there. Log loss has no upper end.
_RANGES = {"mcc": (-1.0, 1.0), "log_loss": (0.0, math.inf)}
_UNIT = (0.0, 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one model said on the test rows.

    :param predictions: label index of each row, ``[n]``; -1 for a label that is not among the known ones.
    :param probabilities: ``[n, labels]``.
    """

    predictions: Ints
    probabilities: Floats

    @property
    def pair(self) -> tuple[Floats, Ints]:
        """Probabilities and predictions."""
        return self.probabilities, self.predictions


def value_of(metric: Metric, labels: Ints, answers: Answers) -> float:
    """The metric on all rows; NaN where it cannot be told."""
    return metric.compute(labels, answers.probabilities, answers.predictions)


def score(name: str, labels: Ints, answers: Answers, alpha: float) -> Score:
    """A metric with one-sided ``1 - alpha`` bounds.

    :param name: one of ``METRICS``.
    """
    metric = METRICS[name]
    value = value_of(metric, labels, answers)
    if not math.isfinite(value):
        return Score(value=None)
    if name == "accuracy":
        right = int((labels == answers.predictions).sum())
        low, high = proportion_bounds(right, labels.size, alpha)
        return Score(value=tidy(value), low=tidy(low), high=tidy(high), method="Clopper-Pearson")
    width = normal_quantile(alpha) * standard_error(metric, labels, answers.pair)
    lowest, highest = _RANGES.get(name, _UNIT)
    return Score(
        value=tidy(value),
        low=tidy(max(value - width, lowest)),
        high=tidy(min(value + width, highest)),
        method=_bootstrap_method(metric, labels.size, paired=False),
    )


def compare(name: str, labels: Ints, first: Answers, second: Answers, alpha: float) -> Interval:
    """How much better the first model is than the second, with its interval.

    The difference is turned so that positive means better, also for metrics of which less is better.

    :raises ValueError: the metric cannot be told on these rows.
    """
    metric = METRICS[name]
    disagreements = int((first.predictions != second.predictions).sum())
    if name == "accuracy":
        right_first, right_second = labels == first.predictions, labels == second.predictions
        better, worse = int((right_first & ~right_second).sum()), int((right_second & ~right_first).sum())
        estimate = (better - worse) / labels.size
        bounds = tango_interval(better, worse, labels.size, alpha)
        low, high = float(bounds[0]), float(bounds[1])
        method = "Tango score interval"
    else:
        sign = 1.0 if metric.greater_is_better else -1.0
        estimate = sign * (value_of(metric, labels, first) - value_of(metric, labels, second))
        if not math.isfinite(estimate):
            raise ValueError(f"{name} cannot be told on these rows")
        width = normal_quantile(alpha) * standard_error(metric, labels, first.pair, second.pair)
        low, high = estimate - width, estimate + width
        method = _bootstrap_method(metric, labels.size, paired=True)
    return Interval(
        metric=name,
        estimate=tidy(estimate),
        low=tidy(low),
        high=tidy(high),
        confidence=tidy(1 - 2 * alpha),
        method=method,
        n=labels.size,
        disagreements=disagreements,
    )


def _bootstrap_method(metric: Metric, n: int, *, paired: bool) -> str:
    kind = "paired bootstrap" if paired else "bootstrap"
    return f"{kind}, stratified by label, {resamples_for(metric, n)} resamples"
