"""The metrics: functions of labels, probabilities and predictions of the test rows.

Averages are macro over the labels that occur among the true ones: each counts the same, and two models are
averaged over the same labels. A metric that cannot be told from these rows is NaN; the gate refuses it.

Metrics that depend on the confusion matrix alone also have a form that takes many matrices at once, which is what
makes resampling them cheap (``bootstrap.py``). Light code asks ``retrainer.spec.metric_names``
for the names instead; a test holds the two together.
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


# --- with scikit-learn, on rows --------------------------------------------------------------------------


def _accuracy(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions)) if labels.size else float("nan")


def _macro(score: str) -> Compute:
    def compute(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
        import sklearn.metrics

        if labels.size == 0:
            return float("nan")
        function = getattr(sklearn.metrics, score)
        return float(function(labels, predictions, labels=np.unique(labels), average="macro", zero_division=0.0))

    return compute


def _f1_binary(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
    from sklearn.metrics import f1_score

    if labels.size == 0 or probabilities.shape[1] != 2:
        return float("nan")
    return float(f1_score(labels == 1, predictions == 1, zero_division=0.0))


def _mcc(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions)) if np.unique(labels).size > 1 else float("nan")


def _auroc(labels: Ints, probabilities: Floats, predictions: Ints) -> float:
    from sklearn.metrics import roc_auc_score

    present = np.unique(labels)
    if present.size < 2:
        return float("nan")
    # One against the rest by hand: scikit-learn's own multi-class form wants every label present.
    return float(np.mean([roc_auc_score(labels == label, probabilities[:, label]) for label in present]))


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
    return _ratio(2 * right[..., 1], rows[..., 1] + predicted[..., 1])


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
            _metric("accuracy", _accuracy, _accuracy_of),
            _metric("f1", _macro("f1_score"), _f1_of),
            _metric("f1_binary", _f1_binary, _f1_binary_of),
            _metric("precision", _macro("precision_score"), _precision_of),
            _metric("recall", _macro("recall_score"), _recall_of),
            _metric("mcc", _mcc, _mcc_of),
            _metric("auroc", _auroc),
            _metric("log_loss", _log_loss),
            _metric("ece", _ece),
        )
    }
)
