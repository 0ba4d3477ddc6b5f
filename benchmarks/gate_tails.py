"""The error of intervals at the small levels that many nights leave, 1e-3 and 1e-4, which drawing alone cannot see.

Importance sampling: rows are drawn from a population that is tilted exponentially along the metric's gradient, so that
the bound fails about half of the time, and each failure is weighted by how much rarer it truly is (D. Siegmund,
Importance sampling in the Monte Carlo study of sequential tests, Annals of Statistics 4 (1976) 673-684). ``python -m
benchmarks.gate --only tail``
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np

from benchmarks.gate_evidence import SHARES, Floats, probabilities, true_difference, with_difference
from benchmarks.gate_lines import Line, Options
from retrainer.gate.answers import Answers
from retrainer.gate.metrics import compare
from retrainer.gate.paired import normal_quantile

LABELS: Mapping[str, Floats] = {"4 labels alike": np.ones(4), "10 labels 1/k": SHARES["1/k"]}
LEVELS = (0.05, 1e-3, 1e-4)
# Of the level; what is nominal is an approximation for rows as few as these.
MOST = 1.5
STEP = 1e-6


def gradient(cells: Floats, metric: str) -> Floats:
    """How the true difference changes with each cell of a population."""
    slopes = np.zeros(cells.shape)
    base = true_difference(cells, metric)
    for at in zip(*np.nonzero(cells), strict=True):
        moved = cells.copy()
        moved[at] += STEP
        slopes[at] = (true_difference(moved / moved.sum(), metric) - base) / STEP
    return slopes


def one_sided_error(
    metric: str, labels_of: str, n: int, difference: float, level: float, runs: int
) -> tuple[float, float]:
    """How often the lower bound exceeds the true difference, and the standard error of that.

    85 % right, 8 % discordant.
    """
    n_labels = LABELS[labels_of].size
    cells = with_difference(LABELS[labels_of], difference, metric, accuracy=0.85, discordant=0.08)
    cells = cells / cells.sum()
    label, first, second = np.nonzero(cells)
    truth, slope = cells[label, first, second], gradient(cells, metric)[label, first, second]
    slope -= float(truth @ slope)
    tilt = normal_quantile(level) / np.sqrt(n * float(truth @ slope**2))
    tilted = truth * np.exp(tilt * slope)
    total = float(tilted.sum())
    random = np.random.default_rng([n, round(1 / level)])
    weights = np.zeros(runs)
    for run in range(runs):
        counts = random.multinomial(n, tilted / total)
        labels, one, two = (np.repeat(of, counts) for of in (label, first, second))
        challenger, champion = (Answers(said, probabilities(said, n_labels)) for said in (one, two))
        if compare(metric, labels, challenger, champion, level).low > difference:
            weights[run] = np.exp(n * np.log(total) - tilt * float(counts @ slope))
    return float(weights.mean()), float(weights.std() / np.sqrt(runs))


def lines(options: Options) -> Iterator[Line]:
    """Accuracy, and the metrics whose intervals are bootstrapped."""
    runs = options.runs(1000, 100)
    few, many = LABELS
    for metric, labels in (("accuracy", few), ("f1", few), ("f1", many), ("mcc", few), ("mcc", many)):
        for n, difference, level in product((500, 2000, 10_000), (0.0, -0.01), LEVELS):
            error, chance = one_sided_error(metric, labels, n, difference, level, runs)
            what = f"{metric}, {labels}, n = {n:,}, truth {difference:+g}: one-sided error at {level:g}"
            held = error <= MOST * level + 2 * chance
            times, spread = f"{error / level:.2f} x", f"{2 * chance / level:.2f} x"
            yield Line(what, f"<= {MOST:g} x", times, held, spread, f"{runs:,}")
