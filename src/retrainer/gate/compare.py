"""A model's score with its bounds, and the paired comparison of two models on the same rows.

Accuracy goes by exact and score methods (``paired.py``), every other metric by the bootstrap: two models' metrics of
the confusion matrix under each bound (``paired_bootstrap.py``), all else by its standard error, drawn
(``bootstrap.py``) or, on many rows, computed (``closed_form.py``). What follows from an interval is ``decide.py``'s
business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.bootstrap import MOST_ROWS_DRAWN, RESAMPLES, ROW_RESAMPLES, SEED, confusion_error, rows_error
from retrainer.gate.closed_form import ece_error, least_variance, variance_of_sum
from retrainer.gate.metrics import METRICS, Metric, auroc_parts, confusion_matrix, ece_parts, log_loss_of_rows
from retrainer.gate.paired import normal_quantile, proportion_bounds, tango_interval, tidy
from retrainer.gate.paired_bootstrap import difference_bounds
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
    # What takes long to compute and is needed several times: each model is scored and compared.
    _kept: dict[str, tuple[Ints, Any]] = field(default_factory=dict, init=False, repr=False)

    def kept(self, name: str, labels: Ints, compute: Callable[[Ints, Floats], Any]) -> Any:
        """``compute(labels, probabilities)``, from memory where it was computed for these labels before."""
        known = self._kept.get(name)
        if known is None or known[0] is not labels:
            known = self._kept[name] = labels, compute(labels, self.probabilities)
        return known[1]

    @property
    def pair(self) -> tuple[Floats, Ints]:
        """Probabilities and predictions."""
        return self.probabilities, self.predictions


def value_of(metric: Metric, labels: Ints, answers: Answers) -> float:
    """The metric on all rows; NaN where it cannot be told."""
    if metric.name == "auroc":
        return float(answers.kept("auroc", labels, auroc_parts)[0])
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
    error, method = _standard_error(metric, labels, [answers])
    width = normal_quantile(alpha) * error
    lowest, highest = _RANGES.get(name, _UNIT)
    return Score(
        value=tidy(value),
        low=tidy(max(value - width, lowest)),
        high=tidy(min(value + width, highest)),
        method=method,
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
        if metric.from_confusion is not None:
            # Of all of these more is better, so the sign plays no part.
            n_labels = first.probabilities.shape[1]
            found = difference_bounds(
                metric.from_confusion, labels, first.predictions, second.predictions, n_labels, alpha
            )
            low, high = found.low, found.high
            method = f"paired bootstrap under each bound, stratified by label, {found.resamples} resamples"
        else:
            error, method = _standard_error(metric, labels, [first, second])
            width = normal_quantile(alpha) * error
            low, high = estimate - width, estimate + width
    lowest, highest = _RANGES.get(name, _UNIT)
    widest = highest - lowest
    return Interval(
        metric=name,
        estimate=tidy(estimate),
        low=tidy(max(low, -widest)),
        high=tidy(min(high, widest)),
        confidence=tidy(1 - 2 * alpha),
        method=method,
        n=labels.size,
        disagreements=disagreements,
    )


def _standard_error(metric: Metric, labels: Ints, models: Sequence[Answers]) -> tuple[float, str]:
    """Of one model's metric, or of the difference of two; and how it was found."""
    kind = f"{'paired ' if len(models) > 1 else ''}bootstrap, stratified by label"
    n_labels = models[0].probabilities.shape[1]
    if metric.from_confusion is not None:
        confusion = confusion_matrix(labels, models[0].predictions, n_labels)
        return confusion_error(metric.from_confusion, confusion), f"{kind}, {RESAMPLES} resamples"
    if metric.name == "log_loss":
        losses = _difference([_losses(labels, model) for model in models])
        variance, method = variance_of_sum(labels, losses) / labels.size**2, f"{kind}, exact"
    elif labels.size <= MOST_ROWS_DRAWN:
        drawn = rows_error(metric.name, labels, [model.pair for model in models])
        variance, method = drawn**2, f"{kind}, {ROW_RESAMPLES} resamples"
    elif metric.name == "auroc":
        influence = _difference([model.kept("auroc", labels, auroc_parts)[1] for model in models])
        variance, method = variance_of_sum(labels, influence), f"{kind}, its limit by placement values (DeLong)"
    else:
        parts = [ece_parts(labels, *model.pair) for model in models]
        variance, method = ece_error(labels, parts, SEED) ** 2, f"{kind}, its limit by the covariance of the bins"
    least = least_variance(metric.name, np.bincount(labels, minlength=n_labels))
    return math.sqrt(max(variance, least)), method


def _losses(labels: Ints, model: Answers) -> Floats:
    losses: Floats = model.kept("log_loss", labels, log_loss_of_rows)
    return losses


def _difference(values: Sequence[Floats]) -> Floats:
    return values[0] - values[1] if len(values) > 1 else values[0]
