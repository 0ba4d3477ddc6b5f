"""Standard errors by the bootstrap, stratified by label, seeded, vectorised.

Each resample draws, within each true label, as many rows as there are, together with what the models said on them.
The bounds built on it are "estimate plus or minus normal quantile times standard error" (B. Efron, R. Tibshirani,
An Introduction to the Bootstrap, 1993, chapter 13).

Here: one model's metrics of the confusion matrix, and metrics that need the probabilities, of one model or of two on
the same rows. Above ``MOST_ROWS_DRAWN`` rows the latter are computed instead of drawn (``closed_form.py``); the
difference of two models' metrics of the confusion matrix has its own module (``paired_bootstrap.py``).

``numpy.random.RandomState`` on purpose: its streams are frozen for good, so receipts stay recomputable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.metrics import ECE_BINS, FromConfusion, ece_parts

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# How often each row is drawn in each resample, ``[n, resamples]``, and the metric of each from them.
Draws = NDArray[np.int16]
Weighted = Callable[[Draws], Floats]

SEED = 20_240_601
RESAMPLES = 2_000
# With weights on rows a resample costs as much as there are rows. Fewer will do: the standard error itself has a
# relative error of 2 % with 1,000 of them.
ROW_RESAMPLES = 1_000
MOST_ROWS_DRAWN = 5_000
CHUNK = 2_000_000


def confusion_error(function: FromConfusion, confusion: Ints) -> float:
    """Standard error of a metric of the confusion matrix.

    Drawing rows is a multinomial draw over the cells of each label, so a resample costs as much for a million rows
    as for a thousand. Two pseudo rows are spread over the labels, a right and a wrong one: without them a model
    that is right on few rows would have no spread at all. The idea is that of A. Agresti, B. Coull, Approximate is
    better than "exact" for interval estimation of binomial proportions, The American Statistician 52 (1998) 119-126.

    :param confusion: ``[true label, predicted label]``; the last column counts foreign labels.
    """
    rows = confusion.sum(axis=1)
    shares = confusion + _pseudo(rows, confusion.shape[1])
    random = np.random.RandomState(SEED)
    values = []
    for size in chunks(RESAMPLES, confusion.size):
        drawn = np.zeros((size, *confusion.shape))
        for label in np.flatnonzero(rows):
            drawn[:, label] = random.multinomial(rows[label], shares[label] / shares[label].sum(), size=size)
        values.append(function(drawn))
    return float(np.std(np.concatenate(values), ddof=1))


def _pseudo(rows: Ints, columns: int) -> Floats:
    """A right and a wrong row, spread over the labels by their shares; the wrong answer by how common it is."""
    pseudo = np.zeros((rows.size, columns))
    for label in np.flatnonzero(rows):
        others = rows.astype(np.float64)
        others[label] = 0.0
        if not others.any():
            others = np.ones(rows.size)
            others[label] = 0.0
        pseudo[label, : rows.size] = others / others.sum()
        pseudo[label, label] = 1.0
    spread: Floats = pseudo * (rows / rows.sum())[:, None]
    return spread


def rows_error(name: str, labels: Ints, models: Sequence[tuple[Floats, Ints]]) -> float:
    """Standard error of ``auroc`` or ``ece`` of one model, or of the difference of two, by drawing rows.

    :param models: probabilities ``[n, labels]`` and predictions ``[n]`` of each.
    """
    functions = [_weighted(name, labels, *model) for model in models]
    random = np.random.RandomState(SEED)
    strata = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    values = []
    for size in chunks(ROW_RESAMPLES, labels.size):
        weights = np.zeros((labels.size, size), dtype=np.int16)
        offsets = np.arange(size)
        for rows in strata:
            drawn = random.randint(0, rows.size, size=(rows.size, size)) * size + offsets
            weights[rows] = np.bincount(drawn.ravel(), minlength=rows.size * size).reshape(rows.size, size)
        drawn_values = functions[0](weights)
        values.append(drawn_values - functions[1](weights) if len(functions) > 1 else drawn_values)
    return float(np.std(np.concatenate(values), ddof=1))


def _weighted(name: str, labels: Ints, probabilities: Floats, predictions: Ints) -> Weighted:
    """A metric as a function of row weights. Stratified weights sum to ``n``, and to each label's rows."""
    n = labels.size
    if name == "ece":
        bins, gaps = ece_parts(labels, probabilities, predictions)
        spread = np.zeros((ECE_BINS, n))
        spread[bins, np.arange(n)] = gaps
        return lambda weights: np.abs(spread @ weights).sum(axis=0) / n
    if name == "auroc":
        curves = [_weighted_auroc(labels == label, probabilities[:, label]) for label in np.unique(labels)]
        return lambda weights: np.mean([curve(weights) for curve in curves], axis=0)
    raise KeyError(name)


def _weighted_auroc(positive: NDArray[np.bool_], scores: Floats) -> Weighted:
    rows, others = np.flatnonzero(positive), np.flatnonzero(~positive)
    others = others[np.argsort(scores[others], kind="stable")]
    # Rows with the same score count half against each other: once as below, once as not below.
    lower = np.searchsorted(scores[others], scores[rows], side="left")
    upper = np.searchsorted(scores[others], scores[rows], side="right")
    pairs = 2.0 * rows.size * others.size

    def curve(weights: Draws) -> Floats:
        below = np.zeros((others.size + 1, weights.shape[1]), dtype=np.int32)
        np.cumsum(weights[others], axis=0, out=below[1:])
        counted = weights[rows] * (below[lower] + below[upper]).astype(np.int64)
        area: Floats = counted.sum(axis=0) / pairs
        return area

    return curve


def chunks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to ``total``, each with at most ``CHUNK`` numbers of that width."""
    size = max(1, CHUNK // max(width, 1))
    for start in range(0, total, size):
        yield min(size, total - start)
