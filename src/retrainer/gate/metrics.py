"""The metrics: functions of labels, probabilities and predictions of the test rows.

Averages are macro over the labels that occur among the true ones: each counts the same, and two models are
averaged over the same labels. A metric that cannot be told from these rows is NaN; the gate refuses it.

Metrics that depend on the confusion matrix alone are computed from it, many matrices at once, which is what makes
resampling them cheap (``bootstrap.py``). All of them agree with scikit-learn's, to which the tests hold them; these
forms exist because its own take many passes over the rows. Light code asks ``retrainer.spec.metric_names`` for the
names instead; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.spec.metric_names import LOWER_IS_BETTER

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Compute = Callable[[Ints, Floats, Ints], float]
FromConfusion = Callable[[NDArray[Any]], Floats]

ECE_BINS = 15
# A probability of zero on the true label costs this much, not infinity; the same bound as in most libraries.
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    :param compute: ``(labels [n], probabilities [n, labels], predictions [n])`` to a value. A prediction of -1 is a
        label that is not among the known ones, and always wrong.
    :param from_confusion: ``[..., true label, predicted label]`` to ``[...]``; the last column counts predictions
        of -1. ``None`` for a metric that needs the probabilities.
    """

    name: str
    greater_is_better: bool
    compute: Compute
    from_confusion: FromConfusion | None = None


def confusion_matrix(labels: Ints, predictions: Ints, n_labels: int) -> Ints:
    """Counts ``[true label, predicted label]``, shape ``[n_labels, n_labels + 1]``; the last column counts -1."""
    columns = n_labels + 1
    cells = labels * columns + predictions % columns
    return np.bincount(cells, minlength=n_labels * columns).reshape(n_labels, columns).astype(np.int64)


# --- on rows ---------------------------------------------------------------------------------------------


def _by_confusion(function: FromConfusion) -> Compute:
    """The same on rows: counted into one matrix first, which takes a fraction of the time on a million rows."""

    def compute(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
        return float(function(confusion_matrix(labels, predictions, probabilities.shape[1])))

    return compute


def placements(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """For each row the share of the other kind that it stands on the right side of, ties counting half, ``[n]``.

    A positive row stands right above negative ones, a negative row below positive ones. The mean over the positive
    rows is the area under the ROC curve, and so is the mean over the negative ones: E. DeLong, D. DeLong, D.
    Clarke-Pearson, Comparing the areas under two or more correlated receiver operating characteristic curves,
    Biometrics 44 (1988) 837-845; by one sort, as X. Sun, W. Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393.

    :param positive: ``[n]``; at least one row of either kind.
    """
    order = np.argsort(scores)
    ordered, kinds = scores[order], positive[order]
    n_positive = int(np.count_nonzero(positive))
    # Positive rows up to each place and negative ones, of those with the same score only half.
    up_to = np.cumsum(kinds, dtype=np.float64)
    below = np.arange(1.0, scores.size + 1) - up_to
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if first.size < scores.size:
        last = np.r_[first[1:], scores.size] - 1
        tied = last - first + 1
        up_to = np.repeat((up_to[last] + np.r_[0.0, up_to[last[:-1]]]) / 2, tied)
        below = np.repeat((below[last] + np.r_[0.0, below[last[:-1]]]) / 2, tied)
    shares = np.empty(scores.size)
    shares[order] = np.where(kinds, below / (scores.size - n_positive), 1.0 - up_to / n_positive)
    return shares


def _auroc(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
    return auroc_parts(labels, probabilities)[0]


def auroc_parts(labels: Ints, probabilities: Floats) -> tuple[float, Floats]:
    """Area under the ROC curve, one label against the rest, averaged; and how far each row moves it, ``[n]``.

    :return: the value, NaN where fewer than two labels occur or a score is no number; and by row the sum over labels
        of its placement over the number of rows of its kind: the row's influence, up to a constant in each label.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    present = np.flatnonzero(counts)
    influence = np.zeros(labels.size)
    if present.size < 2 or not np.isfinite(probabilities).all():
        return float("nan"), influence
    areas = []
    for label in present:
        positive = labels == label
        shares = placements(positive, np.ascontiguousarray(probabilities[:, label]))
        areas.append(shares[positive].mean())
        influence += shares / np.where(positive, counts[label], labels.size - counts[label])
    return float(np.mean(areas)), influence / present.size


def log_loss_of_rows(labels: Ints, probabilities: Floats) -> Floats:
    """Minus the logarithm of the true label's probability, ``[n]``."""
    chosen = probabilities[np.arange(labels.size), labels]
    losses: Floats = -np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0))
    return losses


def _log_loss(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
    return float(log_loss_of_rows(labels, probabilities).mean()) if labels.size else float("nan")


def ece_parts(labels: Ints, probabilities: Floats, predictions: Ints) -> tuple[Ints, Floats]:
    """Bin of each row by its confidence ``[n]``, and confidence minus correctness ``[n]``."""
    confidence = probabilities.max(axis=1)
    bins = np.clip((confidence * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)
    return bins, confidence - (labels == predictions)


def _ece(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
    if labels.size == 0:
        return float("nan")
    bins, gaps = ece_parts(labels, probabilities, predictions)
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=ECE_BINS)).sum() / labels.size)


# --- on confusion matrices, many at once -----------------------------------------------------------------


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """``part / whole``, and 0 where the whole is 0."""
    ratio: Floats = np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole != 0)
    return ratio


def _mean_over_present(values: Floats, confusion: NDArray[Any]) -> Floats:
    present = confusion.sum(axis=-1) > 0
    count = present.sum(axis=-1)
    mean: Floats = np.where(count > 0, (values * present).sum(axis=-1) / np.maximum(count, 1), np.nan)
    return mean


def _counts(confusion: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Right ones, rows and predictions of each label, ``[..., labels]``."""
    n_labels = confusion.shape[-2]
    known = confusion[..., :n_labels]
    return np.diagonal(known, axis1=-2, axis2=-1), confusion.sum(axis=-1), known.sum(axis=-2)


def _accuracy_of(confusion: NDArray[Any]) -> Floats:
    right, rows, _ = _counts(confusion)
    total = rows.sum(axis=-1)
    return np.where(total > 0, _ratio(right.sum(axis=-1), total), np.nan)


def _f1_of(confusion: NDArray[Any]) -> Floats:
    right, rows, predicted = _counts(confusion)
    return _mean_over_present(_ratio(2 * right, rows + predicted), confusion)


def _precision_of(confusion: NDArray[Any]) -> Floats:
    right, _, predicted = _counts(confusion)
    return _mean_over_present(_ratio(right, predicted), confusion)


def _recall_of(confusion: NDArray[Any]) -> Floats:
    right, rows, _ = _counts(confusion)
    return _mean_over_present(_ratio(right, rows), confusion)


def _f1_binary_of(confusion: NDArray[Any]) -> Floats:
    if confusion.shape[-2] != 2:
        return np.full(confusion.shape[:-2], np.nan)
    right, rows, predicted = _counts(confusion)
    value = _ratio(2 * right[..., 1], rows[..., 1] + predicted[..., 1])
    return np.where(rows.sum(axis=-1) > 0, value, np.nan)


def _mcc_of(confusion: NDArray[Any]) -> Floats:
    right, rows, _ = _counts(confusion)
    # All columns, the one for -1 too: it is a prediction that no row has as its label. In floats, for the squares.
    predicted = confusion.sum(axis=-2).astype(np.float64)
    rows = rows.astype(np.float64)
    total = rows.sum(axis=-1)
    covariance = right.sum(axis=-1) * total - (rows * predicted[..., :-1]).sum(axis=-1)
    spread_rows = total**2 - (rows**2).sum(axis=-1)
    spread_predicted = total**2 - (predicted**2).sum(axis=-1)
    value = _ratio(covariance, np.sqrt(spread_rows * spread_predicted))
    return np.where(spread_rows > 0, value, np.nan)


def _metric(name: str, compute: Compute, from_confusion: FromConfusion | None = None) -> Metric:
    return Metric(name, name not in LOWER_IS_BETTER, compute, from_confusion)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            _metric("accuracy", _by_confusion(_accuracy_of), _accuracy_of),
            _metric("f1", _by_confusion(_f1_of), _f1_of),
            _metric("f1_binary", _by_confusion(_f1_binary_of), _f1_binary_of),
            _metric("precision", _by_confusion(_precision_of), _precision_of),
            _metric("recall", _by_confusion(_recall_of), _recall_of),
            _metric("mcc", _by_confusion(_mcc_of), _mcc_of),
            _metric("auroc", _auroc),
            _metric("log_loss", _log_loss),
            _metric("ece", _ece),
        )
    }
)
