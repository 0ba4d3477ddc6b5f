"""Metrics of the confidence of a model: log loss, and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrainer.gate.answers import Floats, Ints, Rights
from retrainer.gate.bootstrap import SEED, Probable, RowStatistic

ECE_BINS = 15
ECE_DRAWS = 20_000
# A probability of zero on the true label costs this much, not infinity; the same bound as in most libraries.
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)


def log_loss_of_rows(labels: Ints | Rights, probabilities: Floats) -> Floats:
    """Minus the logarithm of the probability of what is true, ``[n]``.

    :param labels: of each row the true one, ``[n]``; or which it has of any number ``[n, labels]``, of whose
        probabilities, each by itself, the mean is taken.
    """
    if labels.ndim == 2:
        losses: Floats = _surprise(np.where(labels, probabilities, 1.0 - probabilities)).mean(axis=1)
        return losses
    return _surprise(probabilities[np.arange(labels.size), labels])


def _surprise(chosen: Floats) -> Floats:
    losses: Floats = -np.log(np.clip(chosen, SMALLEST_PROBABILITY, 1.0))
    return losses


def _parts(labels: Ints, answers: Probable) -> tuple[Ints, Floats]:
    """Bin of each decision by its confidence, and confidence minus correctness: ``[n]``, or ``[n, labels]`` where each
    label of a row is decided by itself.
    """
    confidence, right = answers.decisions(labels)
    bins = np.clip((confidence * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)
    return bins, confidence - right


def _value(labels: Ints, answers: Probable) -> float:
    if labels.size == 0:
        return float("nan")
    bins, gaps = _parts(labels, answers)
    return float(np.abs(np.bincount(bins.ravel(), weights=gaps.ravel(), minlength=ECE_BINS)).sum() / gaps.size)


def _limit(labels: Ints, models: Sequence[Probable]) -> tuple[float, str]:
    """Variance of the calibration error of one model, or of the difference of two, without drawing rows.

    The error is a function of the sums of its bins, of both models together. Their covariance is exact by the same
    formula as the variance of a mean, their distribution normal by the central limit theorem. The function bends where
    a bin's sum is zero, so its variance is taken from seeded draws of those sums. Decisions on one row go together.
    """
    parts = [_parts(labels, model) for model in models]
    n, size = parts[0][1].size, ECE_BINS * len(models)
    strata = int(labels.max()) + 1
    counts = np.bincount(labels, minlength=strata)
    sums = np.concatenate([_table(labels, bins, gaps, (strata, ECE_BINS)) for bins, gaps in parts], axis=1)
    covariance = np.zeros((size, size))
    for row, (bins, gaps) in enumerate(parts):
        for column, (other_bins, other_gaps) in enumerate(parts):
            block = _products(bins, gaps, other_bins, other_gaps)
            covariance[row * ECE_BINS : (row + 1) * ECE_BINS, column * ECE_BINS : (column + 1) * ECE_BINS] = block
    used = counts > 0
    covariance -= (sums[used].T / counts[used]) @ sums[used]
    random = np.random.RandomState(SEED)
    drawn = sums.sum(axis=0) + random.standard_normal((ECE_DRAWS, size)) @ _root(covariance).T
    values = np.abs(drawn[:, :ECE_BINS]).sum(axis=1)
    if len(models) > 1:
        values -= np.abs(drawn[:, ECE_BINS:]).sum(axis=1)
    return float(np.var(values, ddof=1)) / n**2, "its limit by the covariance of the bins"


def _least_variance(labels: Ints, answers: Probable) -> float:
    """Of two rows, one in favour of either model, with a decision in which one of them is sure and wrong."""
    return 2.0 / answers.decisions(labels)[0].size ** 2


def _products(bins: Ints, gaps: Floats, other_bins: Ints, other_gaps: Floats) -> Floats:
    """Sums over rows of the products of two models' gaps, by the bins of both."""
    if gaps.ndim == 1:
        return _table(bins, other_bins, gaps * other_gaps, (ECE_BINS, ECE_BINS))
    rows = np.arange(len(gaps))
    first, second = (
        _table(rows, of, values, (len(gaps), ECE_BINS)) for of, values in ((bins, gaps), (other_bins, other_gaps))
    )
    products: Floats = first.T @ second
    return products


def _table(rows: Ints, columns: Ints, values: Floats, shape: tuple[int, int]) -> Floats:
    """Sums of values by two codes, the first of each row of ``values``."""
    if values.ndim == 2:
        rows, columns, values = np.repeat(rows, values.shape[1]), columns.ravel(), values.ravel()
    summed = np.bincount(rows * shape[1] + columns, weights=values, minlength=shape[0] * shape[1])
    return summed.reshape(shape).astype(np.float64)


def _root(covariance: Floats) -> Floats:
    """Lower triangular root, also where bins are empty. Cholesky's is unique, unlike that of eigenvectors."""
    size = covariance.shape[0]
    root = np.zeros((size, size))
    least = 1e-12 * max(float(np.diagonal(covariance).max()), 0.0)
    for column in range(size):
        rest = covariance[column:, column] - root[column:, :column] @ root[column, :column]
        if rest[0] > least:
            root[column:, column] = rest / np.sqrt(rest[0])
    return root


ECE = RowStatistic(_value, _limit, _least_variance)
