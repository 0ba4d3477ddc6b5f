"""Metrics of the confusion matrix, of many matrices at once, which is what makes resampling them cheap.

Each is a function from ``[..., true label, predicted label]`` to ``[...]``; the last column counts predictions of -1, a
label that is not among the known ones. Averages are macro over the labels that occur among the true ones: each counts
the same, and two models are averaged over the same labels. What cannot be told is NaN. All agree with scikit-learn's,
to which the tests hold them; these forms exist because its own take many passes over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.answers import Floats, Ints

# Of one that is about one label, ``positive`` is its index.
FromConfusion = Callable[..., Floats]


def confusion_matrix(labels: Ints, predictions: Ints, n_labels: int) -> Ints:
    """Counts ``[true label, predicted label]``, shape ``[n_labels, n_labels + 1]``; the last column counts -1."""
    columns = n_labels + 1
    cells = labels * columns + predictions % columns
    return np.bincount(cells, minlength=n_labels * columns).reshape(n_labels, columns).astype(np.int64)


class Confusion(NamedTuple):
    """Two labels that were mixed up.

    :param rows: how many rows of the true label were predicted as the other; ``of`` is how many there are.
    """

    true: str
    predicted: str
    rows: int
    of: int


def most_confused(labels: Ints, predictions: Ints, names: Sequence[str], *, most: int) -> tuple[Confusion, ...]:
    """The pairs that were mixed up in the most rows; of equally many, those with the rarer true label first."""
    counts = confusion_matrix(labels, predictions, len(names))[:, :-1]
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    pairs = [
        Confusion(names[true], names[predicted], int(wrong[true, predicted]), int(counts[true].sum()))
        for true, predicted in np.argwhere(wrong)
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.rows, pair.of))[:most])


def accuracy(confusion: NDArray[Any]) -> Floats:
    """The share of rows that are right."""
    right, rows, _ = _counts(confusion)
    total = rows.sum(axis=-1)
    return np.where(total > 0, _ratio(right.sum(axis=-1), total), np.nan)


def f1(confusion: NDArray[Any]) -> Floats:
    """Harmonic mean of precision and recall of each label, averaged."""
    right, rows, predicted = _counts(confusion)
    return _mean_over_present(_ratio(2 * right, rows + predicted), confusion)


def precision(confusion: NDArray[Any]) -> Floats:
    """Of the predictions of a label the share that is right, averaged."""
    right, _, predicted = _counts(confusion)
    return _mean_over_present(_ratio(right, predicted), confusion)


def recall(confusion: NDArray[Any]) -> Floats:
    """Of the rows of a label the share that is right, averaged."""
    right, rows, _ = _counts(confusion)
    return _mean_over_present(_ratio(right, rows), confusion)


def f1_binary(confusion: NDArray[Any], *, positive: int = 1) -> Floats:
    """F1 of one of two labels."""
    if confusion.shape[-2] != 2:
        return np.full(confusion.shape[:-2], np.nan)
    right, rows, predicted = _counts(confusion)
    value = _ratio(2 * right[..., positive], rows[..., positive] + predicted[..., positive])
    return np.where(rows.sum(axis=-1) > 0, value, np.nan)


def mcc(confusion: NDArray[Any]) -> Floats:
    """Matthews' correlation coefficient."""
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


def quadratic_kappa(confusion: NDArray[Any]) -> Floats:
    """Cohen's kappa of labels in their order, a mistake weighing the square of its distance (J. Cohen, Weighted kappa,
    Psychological Bulletin 70 (1968) 213-220).
    """
    weights = _distances(confusion.shape[-2]) ** 2
    rows, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    total = rows.sum(axis=-1).astype(np.float64)
    by_chance = rows[..., :, None] * (predicted[..., None, :] / np.maximum(total, 1.0)[..., None, None])
    expected = (weights * by_chance).sum(axis=(-2, -1))
    value = 1.0 - _ratio((weights * confusion).sum(axis=(-2, -1)), expected)
    return np.where(expected > 0, value, np.nan)


def mae(confusion: NDArray[Any]) -> Floats:
    """How many places the label predicted is from the true one, labels in their order, on average."""
    total = confusion.sum(axis=(-2, -1))
    off = (_distances(confusion.shape[-2]) * confusion).sum(axis=(-2, -1))
    return np.where(total > 0, _ratio(off, total), np.nan)


def _distances(n_labels: int) -> Floats:
    """Places between a true label and a predicted one. A label that is not known has no place: it is as far off as the
    furthest one, like a mistake of the worst kind.
    """
    at = np.arange(n_labels)
    known = np.abs(at[:, None] - at)
    return np.column_stack([known, known.max(axis=1)]).astype(np.float64)


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
