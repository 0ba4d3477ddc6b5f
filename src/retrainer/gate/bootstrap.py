"""Standard errors by the bootstrap, stratified by label: drawn, seeded and vectorised, or in closed form.

Each resample draws, within each true label, as many rows as there are, together with what the models said on them.
The bounds built on it are "estimate plus or minus normal quantile times standard error" (B. Efron, R. Tibshirani,
An Introduction to the Bootstrap, 1993, chapter 13).

Here: one model's metrics of the confusion matrix, which are drawn; and statistics that need the probabilities, of one
model or of two on the same rows, which are not: what the bootstrap tends to, with resamples without end, is known in
closed form. Of a mean over rows its variance is, in each label, the variance of the rows divided by how many there are
(Efron and Tibshirani, chapter 5). Pairing is in the rows: for two models, the difference is averaged. The difference of
two models' metrics of the confusion matrix has its own module (``paired_bootstrap.py``).

``numpy.random.RandomState`` on purpose: its streams are frozen for good, so receipts stay recomputable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from retrainer.gate.answers import Answers, Floats, Ints, SetAnswers
from retrainer.gate.confusion import FromConfusion

SEED = 20_240_601
RESAMPLES = 2_000
CHUNK = 2_000_000


# What comes with probabilities.
Probable: TypeAlias = Answers | SetAnswers


@dataclass(frozen=True, slots=True)
class Bounds:
    """One-sided bounds, each with ``1 - alpha``, and in words how they were found."""

    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class RowStatistic:
    """A metric of the probabilities.

    :param value: on all rows; NaN where it cannot be told.
    :param limit: of one model, or of the difference of two: the variance that the bootstrap tends to, and how it is
        found.
    :param least_variance: the least that is believed, of the true labels and one model's answers: that of two rows that
        tell the models apart, one in favour of either. Few rows on which nothing varies, all of them in perfect order,
        say, would else prove a difference of zero.
    """

    value: Callable[[Ints, Probable], float]
    limit: Callable[[Ints, Sequence[Probable]], tuple[float, str]]
    least_variance: Callable[[Ints, Probable], float]


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


def variance_of_sum(labels: Ints, values: Floats) -> float:
    """Variance of the sum of ``values`` ``[n]`` when rows are drawn anew within each label."""
    counts = np.bincount(labels)
    means = np.bincount(labels, weights=values) / np.maximum(counts, 1)
    # Without the bias of a variance about a mean that was taken from the same rows: it matters where they are few.
    unbiased = counts / np.maximum(counts - 1, 1)
    return float((unbiased[labels] * (values - means[labels]) ** 2).sum())


def chunks(total: int, width: int) -> Iterator[int]:
    """Sizes that add up to ``total``, each with at most ``CHUNK`` numbers of that width."""
    size = max(1, CHUNK // max(width, 1))
    for start in range(0, total, size):
        yield min(size, total - start)
