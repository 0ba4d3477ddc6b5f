"""Statistics on counts of right and wrong rows, vectorised: one number or an array of them.

For the accuracy of two models on the same rows only the rows on which exactly one of them is right carry
information: ``better`` (only the first is right) and ``worse`` (only the second is). All tests are one-sided.

- ``tango_interval``: T. Tango, Equivalence test and confidence interval for the difference in proportions for the
  paired-sample design, Statistics in Medicine 17 (1998) 891-908. It inverts the score test. Its one-sided error,
  computed exactly by enumeration, is at most 5.6 % for a nominal 5 % from 50 rows on (see the tests).
- ``probability_not_worse``: McNemar's mid-P test: M. Fagerland, S. Lydersen, P. Laake, The McNemar test for binary
  matched-pairs data: mid-p and asymptotic are better than exact conditional, BMC Medical Research Methodology 13
  (2013) 91.
- ``holm``: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
  (1979) 65-70.
- ``proportion_bounds``: C. Clopper, E. Pearson, The use of confidence or fiducial limits, Biometrika 26 (1934)
  404-413. Never below its nominal coverage; Wilson's interval is, one-sided, near a proportion of 1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

# Halvings of [-1, 1]: enough to reach the last bit of a double.
BISECTIONS = 60
# The chance to tell, when the number of rows needed is estimated.
POWER = 0.8
MOST_ROWS = 10**9


@lru_cache(maxsize=1024)
def normal_quantile(alpha: float) -> float:
    """The standard normal's upper ``alpha`` quantile."""
    return float(-special.ndtri(alpha))


def _score_statistic(better: Floats, worse: Floats, n: Floats, difference: Floats) -> Floats:
    """Tango's statistic of "the true difference is this"; falls as the difference grows. NaN or infinite where it has
    no spread.
    """
    linear = (2 * n - better + worse) * difference - better - worse
    constant = -worse * difference * (1 - difference)
    only_second = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = np.maximum(n * (2 * only_second + difference * (1 - difference)), 0.0)
    distance = better - worse - n * difference
    statistic: Floats = np.where(distance == 0, 0.0, distance / np.sqrt(variance))
    return statistic


def tango_interval(better: ArrayLike, worse: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Floats, Floats]:
    """Score interval for ``P(only first right) - P(only second right)``.

    :param n: all rows compared, those on which the models agree too. Positive.
    :param alpha: of each side, below one half; both bounds together hold with ``1 - 2 alpha``.
    :return: lower and upper bound, of the broadcast shape.
    """
    better_, worse_, n_ = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (better, worse, n)))
    estimate = (better_ - worse_) / n_
    z = normal_quantile(alpha)
    # Both bounds at once: for a single pair of models nearly all of the time is that of the calls.
    inner, outer = np.stack([estimate, estimate]), np.stack([np.full_like(estimate, -1.0), np.ones_like(estimate)])
    ends = outer
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(BISECTIONS):
            middle = (inner + outer) / 2
            accepted = np.abs(_score_statistic(better_, worse_, n_, middle)) <= z
            inner, outer = np.where(accepted, middle, inner), np.where(accepted, outer, middle)
    # All rows disagree in one direction: the estimate is on the border and so is the bound.
    low, high = np.where(estimate == ends, ends, inner)
    return low, high


def probability_not_worse(better: ArrayLike, worse: ArrayLike) -> Floats:
    """Mid-P value of "the first is not worse than the second": small when it is. 1 when they never disagree."""
    better_, worse_ = np.broadcast_arrays(np.asarray(better), np.asarray(worse))
    both = better_ + worse_
    from scipy import stats  # takes half a second to load, and a model without a champion needs nothing of it

    tail = stats.binom.sf(worse_ - 1, both, 0.5) - 0.5 * stats.binom.pmf(worse_, both, 0.5)
    p_value: Floats = np.where(both == 0, 1.0, tail)
    return p_value


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p values, in the given order: those at most ``alpha`` are rejected with family-wise error ``alpha``."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    adjusted: Floats = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def proportion_bounds(right: int, n: int, alpha: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds of a proportion, ``alpha`` on each side."""
    low = float(special.betaincinv(right, n - right + 1, alpha)) if right > 0 else 0.0
    high = float(special.betainccinv(right + 1, n - right, alpha)) if right < n else 1.0
    return low, high


def rows_needed(
    *, n: int, half_width: float, distance: float, alpha: float, level: Callable[[int], float] | None = None
) -> int | None:
    """About how many rows would show a difference with a chance of 80 %, at the spread seen on ``n`` rows.

    :param half_width: of the interval seen, each end of which is a one-sided ``1 - alpha`` bound.
    :param distance: of the difference that is assumed to be true from the one to be excluded.
    :param level: the error rate at which so many rows would be judged, which may grow with them; ``None`` for alpha.
    :return: ``None`` when no number of rows would do: the distance is not positive.
    """
    if distance <= 0 or half_width <= 0:
        return None
    spread = half_width / normal_quantile(alpha) / distance

    def enough(rows: int) -> bool:
        at = level(rows) if level is not None else alpha
        return at > 0 and rows >= n * ((normal_quantile(at) + normal_quantile(1 - POWER)) * spread) ** 2

    return bisect_left(range(MOST_ROWS), True, lo=n + 1, key=enough)


def tidy(value: Any) -> float:
    """Ten significant digits: what is left is the same on every processor, so receipts are too."""
    return float(f"{float(value):.10g}")
