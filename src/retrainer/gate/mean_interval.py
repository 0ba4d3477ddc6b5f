"""Bounds of the mean of scores that have a least and a largest value, and of the mean difference of two models' scores.

A bound is the mean that the rows just do not exclude, by the score test: the distance of the mean seen from the one
tested, in standard errors of the likeliest population that has the mean tested. That population gives each value seen
the weight ``1 / (n (1 + tilt (value - mean)))``, which is empirical likelihood (A. Owen, Empirical likelihood ratio
confidence intervals for a single functional, Biometrika 75 (1988) 237-249); where no tilt brings the mean so far, the
rest of the weight is on the end of the range, seen there or not. So rows that all agree do not prove that the models
do.

Of differences that are -1, 0 or 1 this is Tango's interval (``paired.py``) and of scores that are 0 or 1 Wilson's, to
which the tests hold it. "Mean plus or minus standard errors" of the rows themselves excludes the truth far too often
where few rows differ and those by much, as with texts of which most come out alike.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special
from scipy.optimize import brentq

from retrainer.gate.answers import Floats
from retrainer.gate.paired import BISECTIONS, normal_quantile

METHOD = "score interval, empirical likelihood"
# Of the largest tilt, at which a row at the end of the range would have infinite weight.
NEARLY = 1 - 1e-12


class Mean:
    """The mean of some values, of which it is known how small and large they can be.

    :param values: ``[n]``, at least one; ``lowest`` and ``highest`` enclose them all.
    """

    def __init__(self, values: Floats, lowest: float, highest: float) -> None:
        self._values, self._counts = np.unique(values, return_counts=True)
        self._n = values.size
        self._lowest, self._highest = lowest, highest
        self.estimate = float(values.mean())

    @property
    def standard_error(self) -> float:
        """Of the rows themselves: see above why no bound goes by it."""
        squares = self._counts * (self._values - self.estimate) ** 2
        return math.sqrt(float(squares.sum()) / max(self._n - 1, 1) / self._n)

    def distance(self, mean: float) -> float:
        """How far the mean of the rows is above the one tested, in standard errors under the latter."""
        centred = self._values - mean
        seen = self.estimate - mean
        edge = (self._lowest if seen > 0 else self._highest) - mean
        if seen == 0.0:
            return 0.0
        if edge == 0.0:  # all of the population is at the end of the range, and some rows are not
            return math.copysign(math.inf, seen)

        def moved(tilt: float) -> float:
            return float((self._counts * centred / (1 + tilt * centred)).sum()) / self._n

        most = -NEARLY / edge
        tilt = most if moved(most) * seen >= 0 else float(brentq(moved, 0.0, most))
        weights = self._counts / (self._n * (1 + tilt * centred))
        at_the_end = max(1.0 - float(weights.sum()), 0.0)
        variance = float((weights * centred**2).sum()) + at_the_end * edge**2
        return seen / math.sqrt(variance / self._n)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The lowest and the highest mean that are not excluded, each at an error rate of ``alpha``."""
        z = normal_quantile(alpha)
        return self._bound(self._lowest, z), self._bound(self._highest, z)

    def _bound(self, end: float, z: float) -> float:
        inner, outer = self.estimate, end
        for _ in range(BISECTIONS):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if abs(self.distance(middle)) <= z else (inner, middle)
        return inner

    def probability_not_below(self, mean: float) -> float:
        """P value of "the truth is not below that": small when it is. 1 where every row is just there."""
        if self._values.size == 1 and self._values[0] == mean:
            return 1.0
        return float(special.ndtr(self.distance(mean)))
