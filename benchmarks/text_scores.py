"""How often a challenger that writes text, whose loss is exactly the margin, is promoted by the interval of the mean
difference of its scores; beside "mean plus or minus standard errors". ``python -m benchmarks.text_scores``
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from retrainer.gate.mean_interval import Mean

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]


def rare(random: np.random.Generator, n: int) -> Floats:
    """One row in twenty loses half of its score, all others come out alike."""
    return -np.where(random.random(n) < 0.05, random.beta(4, 4, n), 0.0)


def common(random: np.random.Generator, n: int) -> Floats:
    """Two rows in five differ, either way."""
    return np.where(random.random(n) < 0.4, np.clip(random.normal(-0.05, 0.2, n), -1, 1), 0.0)


def skewed(random: np.random.Generator, n: int) -> Floats:
    """Many small gains and few large losses."""
    moved = np.where(random.random(n) < 0.1, -random.beta(5, 2, n), random.beta(1, 20, n))
    return np.where(random.random(n) < 0.5, moved, 0.0)


DRAWS: tuple[Draw, ...] = (rare, common, skewed)


def true_mean(drawn: Draw) -> float:
    """Of many rows."""
    return float(drawn(np.random.default_rng(0), 2_000_000).mean())


def distances(drawn: Draw, mean: float, rows: int, trials: int, seed: int) -> tuple[Floats, Floats]:
    """Of each trial how far the mean seen is above the true one, by the score test and in its own standard errors."""
    random = np.random.default_rng(seed)
    by_score, by_error = np.empty(trials), np.empty(trials)
    for trial in range(trials):
        differences = drawn(random, rows)
        by_score[trial] = Mean(differences, -1.0, 1.0).distance(mean)
        error = differences.std(ddof=1) / np.sqrt(rows)
        by_error[trial] = (differences.mean() - mean) / error if error > 0 else np.inf
    return by_score, by_error


def main() -> None:
    """Print the rates as multiples of alpha."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20_000)
    trials = parser.parse_args().trials
    for rows in (100, 400, 2_000):
        for drawn in DRAWS:
            mean = true_mean(drawn)
            found = distances(drawn, mean, rows, trials, seed=1)
            for alpha in (0.05, 0.01, 0.001):
                score, error = (float((each > stats.norm.isf(alpha)).mean() / alpha) for each in found)
                what = f"{drawn.__name__:<7} {rows:>5} rows, margin {-mean:.4f}, alpha {alpha:<5g}"
                print(f"{what}: {score:.2f} ({error:.2f})")


if __name__ == "__main__":
    main()
