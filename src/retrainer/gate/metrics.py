"""The metrics, each with its bounds: made from the entries of ``retrainer.spec.known_metrics``. By them a model is
scored, and two are compared on the same rows.

An entry names the function and, by its ``interval``, one of the kinds below. Shares of right rows, such as accuracy and
exact match, go by exact and score methods (``paired.py``), means of row scores by the score interval
(``mean_interval.py``), and so do metrics of sets of labels, by how far each row moves them. Every other metric goes by
the bootstrap: two models' metrics of the confusion matrix under each bound (``paired_bootstrap.py``), all else by its
standard error, drawn or in closed form (``bootstrap.py``).
"""

from __future__ import annotations

import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np

from retrainer.artifacts.measures import Interval, Score
from retrainer.gate.answers import Answers, Floats, Ints, Said, SetAnswers, TextAnswers
from retrainer.gate.bootstrap import RESAMPLES, Bounds, Probable, RowStatistic, confusion_error, variance_of_sum
from retrainer.gate.confusion import FromConfusion, confusion_matrix
from retrainer.gate.label_sets import FALSE, HIT, LEFT_OUT, MISSED, FromCounts, counts_of, moved_by_rows
from retrainer.gate.mean_interval import METHOD, Mean
from retrainer.gate.paired import normal_quantile, proportion_bounds, tango_interval, tidy
from retrainer.gate.paired_bootstrap import difference_bounds
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import KNOWN_METRICS, SHARE_RIGHT, Family, IntervalMethod, KnownMetric, names_of

# Of the true labels ``[n]``, or of which labels each row has ``[n, labels]``, and the probabilities ``[n, labels]``.
LossOfRows = Callable[[Any, Floats], Floats]
Given = TypeVar("Given", bound=Said)


# Of a metric that is made of nothing: no label is given, or no row has one.
NOTHING_COUNTED = "nothing was counted"


class Metric(ABC, Generic[Given]):
    """One metric.

    :ivar known: its entry.
    :ivar from_confusion: the function of confusion matrices; ``None`` for a metric that needs the probabilities.
    """

    from_confusion: FromConfusion | None = None

    def __init__(self, known: KnownMetric) -> None:
        self.known = known

    @property
    def sign(self) -> float:
        """Turns a difference so that positive means better."""
        return 1.0 if self.known.greater_is_better else -1.0

    def compute(self, labels: Ints, probabilities: Floats, predictions: Ints, *, positive: int = 1) -> float:
        """The value on all rows of a metric of labels; NaN where it cannot be told.

        :param probabilities: ``[n, labels]``.
        :param predictions: ``[n]``; -1 is a label that is not among the known ones, and always wrong.
        :param positive: index of the label that a metric of one label scores.
        """
        answers: Any = Answers(predictions, probabilities, positive)
        return self.value(labels, answers)

    @abstractmethod
    def value(self, labels: Ints, answers: Given) -> float:
        """The same of answers, which remember what takes long."""

    @abstractmethod
    def bounds(self, labels: Ints, answers: Given, alpha: float) -> Bounds:
        """One-sided bounds of the value, which is known to be finite; they may be beyond the range."""

    @abstractmethod
    def compare(self, labels: Ints, first: Given, second: Given, alpha: float) -> tuple[float, Bounds]:
        """How much better the first model is, and the bounds of that.

        :raises ValueError: it has no value on these rows.
        """

    def difference(self, labels: Ints, first: Given, second: Given) -> float:
        """The first model's value minus the second's, turned so that positive means better.

        :raises ValueError: one of them has no value on these rows.
        """
        difference = self.sign * (self.value(labels, first) - self.value(labels, second))
        if not math.isfinite(difference):
            raise ValueError(f"{self.known.name} has no value on these rows")
        return difference


class _OfConfusion(Metric[Answers]):
    """A metric of the confusion matrix; rows are counted into one first, a fraction of the time on a million rows."""

    def __init__(self, known: KnownMetric, function: FromConfusion) -> None:
        super().__init__(known)
        self.from_confusion: FromConfusion = function

    def _function(self, answers: Answers) -> FromConfusion:
        """The function, of the positive label where it is about one."""
        if not self.known.of_one_label:
            return self.from_confusion
        return partial(self.from_confusion, positive=answers.positive)

    def value(self, labels: Ints, answers: Answers) -> float:
        return float(self._function(answers)(_counted(labels, answers)))

    def bounds(self, labels: Ints, answers: Answers, alpha: float) -> Bounds:
        error = confusion_error(self._function(answers), _counted(labels, answers))
        method = f"bootstrap, stratified by label, {RESAMPLES} resamples"
        return _around(self.value(labels, answers), error, method, alpha)

    def compare(self, labels: Ints, first: Answers, second: Answers, alpha: float) -> tuple[float, Bounds]:
        difference = self.difference(labels, first, second)
        n_labels = first.probabilities.shape[1]
        function = self._function(first)
        return difference, difference_bounds(
            lambda confusion: self.sign * function(confusion),
            labels,
            first.predictions,
            second.predictions,
            n_labels,
            alpha,
        )


class _RightRows(Metric[Said]):
    """The share of rows that are right, whatever is said."""

    def value(self, labels: Ints, answers: Said) -> float:
        return int(answers.right(labels).sum()) / labels.size if labels.size else math.nan

    def bounds(self, labels: Ints, answers: Said, alpha: float) -> Bounds:
        right = int(answers.right(labels).sum())
        return Bounds(*proportion_bounds(right, labels.size, alpha), "Clopper-Pearson")

    def compare(self, labels: Ints, first: Said, second: Said, alpha: float) -> tuple[float, Bounds]:
        right_first, right_second = first.right(labels), second.right(labels)
        better, worse = int((right_first & ~right_second).sum()), int((right_second & ~right_first).sum())
        low, high = tango_interval(better, worse, labels.size, alpha)
        return (better - worse) / labels.size, Bounds(float(low), float(high), "Tango score interval")


class _Proportion(_RightRows):
    """The same of labels, of which it is a metric of the confusion matrix, too."""

    def __init__(self, known: KnownMetric, function: FromConfusion) -> None:
        super().__init__(known)
        self.from_confusion = function


class _RowScores(Metric[TextAnswers]):
    """The mean of the scores of the rows, which the evaluation wrote down."""

    def value(self, labels: Ints, answers: TextAnswers) -> float:
        scores = answers.scores.get(self.known.name)
        return float(scores.mean()) if scores is not None and scores.size else math.nan

    def bounds(self, labels: Ints, answers: TextAnswers, alpha: float) -> Bounds:
        mean = Mean(answers.scores[self.known.name], self.known.lowest, self.known.highest)
        return Bounds(*mean.bounds(alpha), METHOD)

    def compare(self, labels: Ints, first: TextAnswers, second: TextAnswers, alpha: float) -> tuple[float, Bounds]:
        difference = self.difference(labels, first, second)
        widest = self.known.highest - self.known.lowest
        scores, others = first.scores[self.known.name], second.scores[self.known.name]
        bounds = Mean(self.sign * (scores - others), -widest, widest).bounds(alpha)
        return difference, Bounds(*bounds, f"paired {METHOD}")


class _OfSets(Metric[SetAnswers]):
    """A metric of how often each label is rightly given, wrongly given and missed: the delta method.

    What the value is, plus how far each row moves it, is a value for each row, of which the metric is the mean; so its
    bounds are those of a mean of scores, by the score interval. Of two models the rows' differences are taken.

    The score interval needs to know how far a row can be off that no row shows: as far as the furthest row seen, or
    as one decision on the rarest label that is seen, whichever is further. Few rows on which models agree, or which
    are all right, so prove no more than they can: by the rule of three (J. Hanley, A. Lippman-Hand, JAMA 249 (1983)
    1743-1745), three rows of the rarest label may be otherwise. With "so many standard errors" in its place the truth
    is excluded up to 100 times as often as an alpha of 0.001 says, where models differ on few rows (see the tests).

    Where no row that could come moves the value, as where no label is given, or no row has one, it is 0 by convention
    and not by what was seen; then the bounds are the ends of the range.
    """

    def __init__(self, known: KnownMetric, function: FromCounts) -> None:
        super().__init__(known)
        self._function = function

    def value(self, labels: Ints, answers: SetAnswers) -> float:
        return self._function(counts_of(answers))[0] if answers.truth.size else math.nan

    def bounds(self, labels: Ints, answers: SetAnswers, alpha: float) -> Bounds:
        value = self.value(labels, answers)
        if not self._seen(answers):
            return Bounds(self.known.lowest, self.known.highest, NOTHING_COUNTED)
        low, high = self.by_rows(answers).bounds(alpha)
        return Bounds(value + low, value + high, f"delta method, {METHOD}")

    def compare(self, labels: Ints, first: SetAnswers, second: SetAnswers, alpha: float) -> tuple[float, Bounds]:
        difference = self.difference(labels, first, second)
        if not (self._seen(first) and self._seen(second)):
            widest = self.known.highest - self.known.lowest
            return difference, Bounds(-widest, widest, NOTHING_COUNTED)
        low, high = self.by_rows(first, second).bounds(alpha)
        return difference, Bounds(difference + low, difference + high, f"paired delta method, {METHOD}")

    def _seen(self, answers: SetAnswers) -> bool:
        """Whether one decision more, or otherwise, would move the value."""
        counts = counts_of(answers)
        slopes = self._function(counts)[1]
        return _one_decision(counts, slopes, slopes) > 0.0

    def by_rows(self, first: SetAnswers, second: SetAnswers | None = None) -> Mean:
        """How far each row moves the value, or the difference of two models, turned so that positive means better: a
        mean that is 0 on these rows.
        """
        counts = counts_of(first)
        ours = theirs = self._function(counts)[1]
        moved = moved_by_rows(first, ours)
        if second is not None:
            theirs = self._function(counts_of(second))[1]
            moved = self.sign * (moved - moved_by_rows(second, theirs))
        far = max(float(np.abs(moved).max()), _one_decision(counts, ours, theirs))
        return Mean(moved, -far, far)


def _one_decision(counts: Floats, ours: Floats, theirs: Floats) -> float:
    """How far one row moves the difference of two models, or the value of one, if they come to differ on one label.

    :param counts: by them it is known which labels rows have, and which rows lack; ``[4, labels + 1]``.
    :param ours: slopes, as ``counts``; so is ``theirs``.
    """
    there, lacking = counts[[HIT, MISSED]].sum(axis=0) > 0, counts[[FALSE, LEFT_OUT]].sum(axis=0) > 0
    apart = [
        np.abs(one[right] - other[wrong])[seen]
        for one, other in ((ours, theirs), (theirs, ours))
        for right, wrong, seen in ((HIT, MISSED, there), (LEFT_OUT, FALSE, lacking))
    ]
    return float(counts[:, 0].sum() * np.concatenate(apart).max(initial=0.0))


class _OfRows(Metric[Any]):
    """A metric of the probabilities; its bounds are the value, or the difference, and so many standard errors."""

    def __init__(self, known: KnownMetric, statistic: RowStatistic) -> None:
        super().__init__(known)
        self._statistic = statistic

    def value(self, labels: Ints, answers: Probable) -> float:
        return self._statistic.value(labels, answers)

    def bounds(self, labels: Ints, answers: Probable, alpha: float) -> Bounds:
        error, method = self._error(labels, [answers])
        return _around(self.value(labels, answers), error, f"bootstrap, {method}", alpha)

    def compare(self, labels: Ints, first: Probable, second: Probable, alpha: float) -> tuple[float, Bounds]:
        difference = self.difference(labels, first, second)
        error, method = self._error(labels, [first, second])
        return difference, _around(difference, error, f"paired bootstrap, {method}", alpha)

    def _error(self, labels: Ints, models: list[Probable]) -> tuple[float, str]:
        """Of one model's value or of the difference of two, and how it was found."""
        variance, method = self._statistic.limit(labels, models)
        how = f"stratified by label, {method}" if models[0].stratified else method
        return math.sqrt(max(variance, self._statistic.least_variance(labels, models[0]))), how


def _mean_of_rows(known: KnownMetric, loss: LossOfRows) -> Metric[Any]:
    """The mean of a loss of each row, whose error is known exactly."""

    def of_rows(labels: Ints, answers: Probable) -> Floats:
        values: Floats = answers.kept(known.name, labels, loss)
        return values

    def value(labels: Ints, answers: Probable) -> float:
        return float(of_rows(labels, answers).mean()) if labels.size else math.nan

    def limit(labels: Ints, models: Sequence[Probable]) -> tuple[float, str]:
        values = [of_rows(labels, model) for model in models]
        variance = variance_of_sum(labels, values[0] - values[1] if len(values) > 1 else values[0])
        return variance / labels.size**2, "exact"

    def least_variance(labels: Ints, answers: Probable) -> float:
        # On the two rows the true label is one of many alike.
        uninformed = loss(*answers.uninformed())
        return 2.0 * float(uninformed[0]) ** 2 / labels.size**2

    return _OfRows(known, RowStatistic(value, limit, least_variance))


def _counted(labels: Ints, answers: Answers) -> Ints:
    return confusion_matrix(labels, answers.predictions, answers.probabilities.shape[1])


def _around(value: float, error: float, method: str, alpha: float) -> Bounds:
    width = normal_quantile(alpha) * error
    return Bounds(value - width, value + width, method)


_KINDS: Mapping[IntervalMethod, Callable[..., Metric[Any]]] = {
    "proportion": _Proportion,
    "confusion": _OfConfusion,
    "mean": _mean_of_rows,
    "statistic": _OfRows,
    "label_sets": _OfSets,
}

# Of these the rows' scores are in the evidence, or every kind of answer knows them.
_OF_WRITTEN_SCORES: Mapping[IntervalMethod, Callable[[KnownMetric], Metric[Any]]] = {
    "right_rows": _RightRows,
    "row_scores": _RowScores,
}


def _metric(known: KnownMetric) -> Metric[Any]:
    if known.interval in _OF_WRITTEN_SCORES:
        return _OF_WRITTEN_SCORES[known.interval](known)
    return _KINDS[known.interval](known, pkgutil.resolve_name(known.function))


METRICS: Mapping[str, Metric[Any]] = MappingProxyType({name: _metric(known) for name, known in KNOWN_METRICS.items()})


def metrics_of(family: Family | None) -> dict[str, Metric[Any]]:
    """The metrics of a family of tasks, by name: others have no meaning for them."""
    return {name: METRICS[name] for name in names_of(family)}


def compared_by(policy: Gate, family: Family | None) -> str:
    """The metric by which models are compared; where the policy names none, or none of this family, the share of right
    rows."""
    against = policy.against_champion
    named = against is not None and against.metric in metrics_of(family)
    return against.metric if against is not None and named else SHARE_RIGHT[family or "classification"]


def score(name: str, labels: Ints, answers: Said, alpha: float | None) -> Score:
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


def compare(name: str, labels: Ints, first: Said, second: Said, alpha: float) -> Interval:
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
