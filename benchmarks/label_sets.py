"""How often the bounds of the difference of two models exclude the truth where rows have any number of labels, by the
score interval and by "so many standard errors". ``python -m benchmarks.label_sets``
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from retrainer.gate.answers import Rights, SetAnswers
from retrainer.gate.metrics import METRICS

Floats = NDArray[np.float64]
# Of all labels that a row lacks.
FALSE = 0.02


@dataclass(frozen=True, slots=True)
class Scene:
    """Two models on rows without end.

    :param shares: of the rows that have each label.
    :param recall: of the two models.
    :param alike: how often they decide by the same luck.
    """

    shares: tuple[float, ...]
    recall: tuple[float, float]
    alike: float


SCENES: Mapping[str, Scene] = {
    "common": Scene((0.4, 0.3, 0.2), (0.8, 0.78), 0.8),
    "rare": Scene((0.3, 0.1, 0.03, 0.01), (0.8, 0.78), 0.8),
    "alike": Scene((0.3, 0.1, 0.03, 0.01), (0.9, 0.89), 0.98),
}


def population(scene: Scene, n: int) -> tuple[Rights, Rights, Rights]:
    """Which labels rows have, and which each model gives."""
    random = np.random.default_rng(1)
    truth = random.random((n, len(scene.shares))) < np.array(scene.shares)
    luck = random.random(truth.shape)
    other = np.where(random.random(truth.shape) < scene.alike, luck, random.random(truth.shape))
    one, two = (
        np.where(truth, of < recall, of < FALSE) for of, recall in zip((luck, other), scene.recall, strict=True)
    )
    return truth, one, two


def distances(name: str, scene: Scene, rows: int, trials: int, *, of: int = 100_000) -> tuple[Floats, Floats]:
    """How far the true difference is from the one seen in each trial: by the score interval, and in standard errors.

    :param name: of the metric.
    :param of: rows that each trial's are drawn from.
    """
    truth, one, two = population(scene, of)
    nothing, random = np.zeros(of, dtype=np.int64), np.random.default_rng(9)
    metric: Any = METRICS[name]

    def said(given: Rights, at: Any) -> SetAnswers:
        return SetAnswers.of(truth[at], given[at].astype(np.float64), 0.5)

    true = metric.difference(nothing, said(one, slice(None)), said(two, slice(None)))
    by_score, by_error = np.empty(trials), np.empty(trials)
    for trial in range(trials):
        at = random.integers(0, of, rows)
        models = said(one, at), said(two, at)
        off = true - metric.difference(nothing[:rows], *models)
        mean = metric.by_rows(*models)
        by_score[trial] = abs(mean.distance(off))
        by_error[trial] = abs(off) / max(mean.standard_error, 1e-12)
    return by_score, by_error


def main() -> None:
    """Print the rates as multiples of alpha."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20_000)
    trials = parser.parse_args().trials
    for rows in (300, 2_000):
        for scene in SCENES:
            for name in ("f1_micro", "f1_macro", "recall_micro"):
                found = distances(name, SCENES[scene], rows, trials)
                for alpha in (0.05, 0.01, 0.001):
                    score, error = (float((each > stats.norm.isf(alpha)).mean() / alpha / 2) for each in found)
                    what = f"{scene:<6} {name:<12} {rows:>5} rows, alpha {alpha:<5g}"
                    print(f"{what}: {score:.2f} ({error:.2f})", flush=True)


if __name__ == "__main__":
    main()
