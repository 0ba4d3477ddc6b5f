"""Bounds of the difference of two models' metrics of the confusion matrix: a bootstrap under each bound.

A bound is the difference that the rows just do not exclude. So it is not read from resamples of the rows as they
are, but from resamples of a population in which the models differ by that much. For accuracy the same idea with
a normal approximation is Tango's score interval (``paired.py``); it is what keeps the error near ``alpha`` where
labels are rare or disagreements few, while "estimate plus or minus quantile times standard error" excludes the truth
twice as often as it should. ``benchmarks/gate.py`` measures it.

The population. What tells the models apart are the rows that only one of them gets right. Were the models equally
good, either could have been the one: so each pattern of such rows counts for the one and for the other model alike, as
in the randomisation test (E. Noreen, Computer Intensive Methods for Testing Hypotheses, 1989, chapter 2; A. Yeh, More
accurate tests for the statistical significance of result differences, COLING 2000). How many there are of either
kind, over all labels, is what is most likely given the rows and the difference tested, which is Tango's restricted
estimate: where ``b`` rows were won and ``c`` lost it is ``b / (1 - t)`` and ``c / (1 + t)``, with the tilt ``t`` that
gives the difference. Where fewer than three rows tell the models apart, they are filled up to three. Else few rows on
which the models never disagree would prove them equal; with it, the bounds are then three rows away, as by the rule of
three (J. Hanley, A. Lippman-Hand, If nothing goes wrong, is everything all right?, JAMA 249 (1983) 1743-1745).

Drawing rows with replacement within a label is a multinomial draw over the pairs of answers, so a resample costs as
much for a million rows as for a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq

from retrainer.gate.answers import Floats, Ints
from retrainer.gate.bootstrap import RESAMPLES, SEED, Bounds, chunks
from retrainer.gate.confusion import FromConfusion
from retrainer.gate.paired import normal_quantile

# With very many different pairs of answers fewer are drawn.
FEWEST_RESAMPLES = 400
CELL_DRAWS = 20_000_000
# For a first guess of the bounds only.
PILOT_RESAMPLES = 199
# Resamples beyond a quantile that is read from them.
FEWEST_BEYOND = 20
# Of a bound whose standard error depends on it; the third changes it by less than the error by chance.
ITERATIONS = 3
FEWEST_DISCORDANT = 3.0
# Share of a label's rows that can tell the models apart in the population.
MOST_DISCORDANT = 0.999
# A tilt of 1 would take infinitely many rows.
MOST_TILT = 1 - 1e-6
# Half a row won and half a row lost more than there were: what was not seen may still be.
UNSEEN = 0.5
# Counters that are made whatever the number of rows.
LEAST_COUNTED = 1_000_000


def difference_bounds(
    function: FromConfusion, labels: Ints, first: Ints, second: Ints, n_labels: int, alpha: float
) -> Bounds:
    """Bounds of ``function(first's confusion matrix) - function(second's)``.

    :param labels: ``[n]``, at least one row; ``first`` and ``second`` are predictions ``[n]``, -1 for a foreign label.
    """
    population = _Population(function, labels, first, second, n_labels)
    estimate = population.observed
    resamples = population.resamples
    if alpha * resamples < FEWEST_BEYOND:
        return _normal_bounds(population, alpha)
    even = population.tilt(0.0) or 0.0
    pilot = np.sort(population.draw(even, PILOT_RESAMPLES)) - population.difference(even)

    def bound(share: float) -> float:
        guess = estimate - _quantile(pilot, share)
        tilt = population.tilt(guess)
        if tilt is None:
            return guess
        drawn = np.sort(population.draw(tilt, resamples)) - population.difference(tilt)
        return estimate - _quantile(drawn, share)

    method = f"paired bootstrap under each bound, stratified by label, {resamples} resamples"
    return Bounds(min(bound(1 - alpha), estimate), max(bound(alpha), estimate), method)


def _normal_bounds(population: _Population, alpha: float) -> Bounds:
    """The same for an ``alpha`` so small that resamples have no tail to read: so many standard errors under the bound.

    As for Tango's interval the standard error is that of the population at the bound, which is found by iterating.
    """
    estimate, z = population.observed, normal_quantile(alpha)
    resamples = max(FEWEST_RESAMPLES, population.resamples // 2)

    def bound(sign: float) -> float:
        tilt: float | None = population.tilt(0.0) or 0.0
        found = estimate
        for _ in range(ITERATIONS):
            if tilt is None:
                break
            drawn = population.draw(tilt, resamples)
            bias = float(drawn.mean()) - population.difference(tilt)
            found = estimate - bias + sign * z * float(drawn.std(ddof=1))
            tilt = population.tilt(found)
        return found

    method = f"normal tail of the paired bootstrap under each bound, stratified by label, {resamples} resamples"
    return Bounds(min(bound(-1.0), estimate), max(bound(1.0), estimate), method)


def _quantile(ordered: Floats, share: float) -> float:
    """Of sorted draws, such that one more draw is beyond it with the probability wanted, or less."""
    position = share * (ordered.size + 1)
    # The slack is for positions that are whole numbers but for rounding.
    rank = np.ceil(position - 1e-9) if share > 0.5 else np.floor(position + 1e-9)
    return float(ordered[int(np.clip(rank, 1, ordered.size)) - 1])


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """The pairs of answers that occur in a population, label by label.

    :param label: true label of each cell, ``[cells]``, ascending; ``first`` and ``second`` are the models' answers.
    :param favours: 1 where only the first is right, -1 where only the second is, 0 elsewhere.
    :param shares: of each cell among the rows of its label, where neither model is favoured.
    """

    label: Ints
    first: Ints
    second: Ints
    favours: Ints
    shares: Floats

    def tilted(self, won: float, lost: float) -> Floats:
        """Shares of the cells where so many times as many rows favour the first model, and the second."""
        telling = self.shares * np.where(self.favours > 0, won, lost) * (self.favours != 0)
        telling /= np.maximum(np.bincount(self.label, weights=telling) / MOST_DISCORDANT, 1.0)[self.label]
        rest = self.shares * (self.favours == 0)
        left = 1.0 - np.bincount(self.label, weights=telling)
        known = np.bincount(self.label, weights=rest)
        scaled: Floats = telling + rest * np.divide(left, known, out=np.zeros_like(left), where=known > 0)[self.label]
        return scaled


class _Population:
    """What the rows are drawn from, at any tilt.

    :param observed: the difference on the rows themselves.
    """

    def __init__(self, function: FromConfusion, labels: Ints, first: Ints, second: Ints, n_labels: int) -> None:
        columns = n_labels + 1
        codes, counts = _distinct((labels * columns + first % columns) * columns + second % columns, n_labels)
        label, one, two = codes // columns**2, codes // columns % columns, codes % columns
        self._function = function
        self._shape = (n_labels, columns)
        self._rows = np.bincount(label, weights=counts, minlength=n_labels).astype(np.int64)
        self._cells = _evened(label, one, two, counts, self._shape)
        right_first, right_second = one == label, two == label
        self._won = float(counts[right_first & ~right_second].sum()) + UNSEEN
        self._lost = float(counts[right_second & ~right_first].sum()) + UNSEEN
        self.observed = self._difference(label, one, two, counts)

    def _difference(self, label: Ints, one: Ints, two: Ints, rows: Floats) -> float:
        """Of cells with so many rows each."""
        size = self._shape[0] * self._shape[1]
        matrices = (
            np.bincount(label * self._shape[1] + answers, weights=rows, minlength=size).reshape(self._shape)
            for answers in (one, two)
        )
        first, second = (float(self._function(matrix)) for matrix in matrices)
        return first - second

    def _shares(self, tilt: float) -> Floats:
        half = (self._won + self._lost) / 2
        return self._cells.tilted(self._won / (1 - tilt) / half, self._lost / (1 + tilt) / half)

    def difference(self, tilt: float) -> float:
        """The truth in the population."""
        cells = self._cells
        return self._difference(cells.label, cells.first, cells.second, self._rows[cells.label] * self._shares(tilt))

    def tilt(self, difference: float) -> float | None:
        """The tilt at which the truth is this; ``None`` where no tilt makes the models differ so much."""

        def distance(tilt: float) -> float:
            return self.difference(tilt) - difference

        if distance(-MOST_TILT) >= 0 or distance(MOST_TILT) <= 0:
            return None
        return float(brentq(distance, -MOST_TILT, MOST_TILT, xtol=1e-9))

    @property
    def resamples(self) -> int:
        """How many can be drawn in reasonable time."""
        return max(FEWEST_RESAMPLES, min(RESAMPLES, CELL_DRAWS // self._cells.shares.size))

    def draw(self, tilt: float, resamples: int) -> Floats:
        """The difference on rows drawn anew within each label, ``[resamples]``."""
        random = np.random.RandomState(SEED)
        cells, shares = self._cells, self._shares(tilt)
        starts = np.flatnonzero(np.r_[True, cells.label[1:] != cells.label[:-1], True])
        values = []
        for size in chunks(resamples, max(shares.size, self._shape[0] * self._shape[1])):
            one, two = np.zeros((size, *self._shape)), np.zeros((size, *self._shape))
            for start, end in pairwise(starts.tolist()):
                label = int(cells.label[start])
                drawn = random.multinomial(self._rows[label], shares[start:end], size=size)
                _add(one[:, label], drawn, cells.first[start:end])
                _add(two[:, label], drawn, cells.second[start:end])
            values.append(self._function(one) - self._function(two))
        return np.concatenate(values)


def _evened(label: Ints, one: Ints, two: Ints, counts: Floats, shape: tuple[int, int]) -> _Cells:
    """A population that favours neither model; see the top of this module.

    :param label: of each pair of answers that occurs, ``[pairs]``; so are ``one``, ``two`` and ``counts``.
    """
    n_labels, columns = shape
    rows = np.bincount(label, weights=counts, minlength=n_labels)
    telling = (one == label) != (two == label)
    # Rows that only one model gets right, by label and by what the other says instead.
    code = label * columns + np.where(one == label, two, one)
    apart = np.bincount(code[telling], weights=counts[telling], minlength=n_labels * columns).reshape(shape)
    filled = max(FEWEST_DISCORDANT - apart.sum(), 0.0) / rows.sum()
    if filled > 0:
        # What a model says where it is wrong; all names by how common they are, where nothing is known.
        wrong: Floats = np.bincount(one, weights=counts * (one != label), minlength=columns).astype(np.float64)
        wrong += np.bincount(two, weights=counts * (two != label), minlength=columns)
        wrong[:n_labels] += rows / rows.sum()
        others = np.tile(wrong, (n_labels, 1))
        np.fill_diagonal(others, 0.0)
        apart = apart + others / others.sum(axis=1, keepdims=True) * filled * rows[:, None]
    at, said = np.nonzero(apart)
    halves = np.minimum(apart[at, said] / rows[at], MOST_DISCORDANT) / 2
    # Every label has a cell of rows that tell nothing, if need be one of rows that both get right.
    alike = ~telling
    bare = np.setdiff1d(np.flatnonzero(rows), label[alike])
    labels = np.concatenate([at, at, label[alike], bare])
    shares = np.concatenate([halves, halves, counts[alike] / rows[label[alike]], np.ones(bare.size)])
    order = np.argsort(labels, kind="stable")
    return _Cells(
        label=labels[order],
        first=np.concatenate([at, said, one[alike], bare])[order],
        second=np.concatenate([said, at, two[alike], bare])[order],
        favours=np.repeat([1, -1, 0], [at.size, at.size, labels.size - 2 * at.size])[order],
        shares=shares[order],
    )


def _add(target: Floats, drawn: Ints, columns: Ints) -> None:
    """Sum the draws of the cells that share a column into ``target`` ``[resamples, columns]``."""
    order = np.argsort(columns, kind="stable")
    ordered = columns[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    target[:, ordered[starts]] = np.add.reduceat(drawn[:, order], starts, axis=1)


def _distinct(codes: Ints, n_labels: int) -> tuple[Ints, Floats]:
    """The codes that occur and how often; by counting where that takes no more room than the rows, else by sorting."""
    size = n_labels * (n_labels + 1) ** 2
    if size <= max(codes.size, LEAST_COUNTED):
        counted = np.bincount(codes, minlength=size)
        found = np.flatnonzero(counted)
        return found, counted[found].astype(np.float64)
    found, counts = np.unique(codes, return_counts=True)
    return found, counts.astype(np.float64)
