"""Standard errors of metrics of the probabilities in closed form: what the bootstrap tends to, without drawing rows.

The bootstrap that ``bootstrap.py`` draws is within each true label. Of a mean over rows its variance, with resamples
without end, is known: in each label the variance of the rows, divided by how many there are (B. Efron, R.
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 5). Log loss is such a mean. The area under the ROC curve
is one up to terms of order 1/n, of placement values: E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44 (1988)
837-845. Pairing is in the rows: for two models, what is averaged is the difference.

The calibration error is a function of the sums of its bins, of both models together. Their covariance is exact by the
same formula, their distribution normal by the central limit theorem. The function bends where a bin's sum is
zero, so its standard error is taken from seeded draws of those sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.metrics import ECE_BINS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ECE_DRAWS = 20_000


def variance_of_sum(labels: Ints, values: Floats) -> float:
    """Variance of the sum of ``values`` ``[n]`` when rows are drawn anew within each label."""
    counts = np.bincount(labels)
    means = np.bincount(labels, weights=values) / np.maximum(counts, 1)
    return float(((values - means[labels]) ** 2).sum())


def ece_error(labels: Ints, models: Sequence[tuple[Ints, Floats]], seed: int) -> float:
    """Standard error of the calibration error of one model, or of the difference of two.

    :param models: of each, bin of each row ``[n]`` and its confidence minus correctness ``[n]``.
    """
    n, size = labels.size, ECE_BINS * len(models)
    strata = int(labels.max()) + 1
    counts = np.bincount(labels, minlength=strata)
    sums = np.concatenate([_table(labels, bins, gaps, (strata, ECE_BINS)) for bins, gaps in models], axis=1)
    covariance = np.zeros((size, size))
    for row, (bins, gaps) in enumerate(models):
        for column, (other_bins, other_gaps) in enumerate(models):
            block = _table(bins, other_bins, gaps * other_gaps, (ECE_BINS, ECE_BINS))
            covariance[row * ECE_BINS : (row + 1) * ECE_BINS, column * ECE_BINS : (column + 1) * ECE_BINS] = block
    used = counts > 0
    covariance -= (sums[used].T / counts[used]) @ sums[used]
    random = np.random.RandomState(seed)
    drawn = sums.sum(axis=0) + random.standard_normal((ECE_DRAWS, size)) @ _root(covariance).T
    values = np.abs(drawn[:, :ECE_BINS]).sum(axis=1)
    if len(models) > 1:
        values -= np.abs(drawn[:, ECE_BINS:]).sum(axis=1)
    return float(np.std(values, ddof=1)) / n


def least_variance(name: str, rows: Ints) -> float:
    """The least variance that is believed: that of two rows that tell the models apart, one in favour of either.

    They are spread over the labels by their shares. Few rows on which nothing varies, all of them in perfect order,
    say, would else prove a difference of zero. On such a row one of the models knows nothing: the row stands in the
    middle of the others, or the true label is one of many alike; for the calibration error it is sure and wrong.

    :param rows: how many each label has, ``[labels]``.
    """
    n = int(rows.sum())
    if name == "ece":
        return 2.0 / n**2
    if name == "log_loss":
        return float(2.0 * np.log(rows.size) ** 2 / n**2)
    present = rows[rows > 0].astype(np.float64)
    as_other = (1 / (n - present)).sum() - 1 / (n - present)
    moved = (1 / present + as_other) / 2 / present.size
    return float((present / n * 2.0 * moved**2).sum())


def _table(rows: Ints, columns: Ints, values: Floats, shape: tuple[int, int]) -> Floats:
    """Sums of values by two codes."""
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
