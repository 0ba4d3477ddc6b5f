"""Error rates by simulation, seeded. ``benchmarks/gate.py`` measures the same with more runs and more settings.

Tolerances are three standard errors of the simulation, so that what is tested is the method and not the seed.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gate import (
    NON_INFERIORITY,
    SUPERIORITY,
    names_the_slice,
    promoted_by_accuracy,
    refused_for_a_slice,
    shown_by_macro_f1,
)
from benchmarks.gate_evidence import SHARES, population, true_difference, with_difference
from benchmarks.gate_lines import ALPHA
from retrainer.gate import paired_bootstrap
from retrainer.gate.paired import tango_interval


def error(share: float, runs: int) -> float:
    return float(3 * np.sqrt(share * (1 - share) / runs))


@pytest.mark.parametrize(
    ("difference", "threshold", "least", "most"),
    [
        (0.0, 0.0, 0.035, ALPHA),
        (0.03, 0.0, 0.95, 1.0),
        (-0.02, -0.01, 0.0, ALPHA),
        (-0.01, -0.01, 0.035, ALPHA),
    ],
)
def test_accuracy_on_2000_rows(difference, threshold, least, most):
    """8 % discordant: who is promoted, over many pairs."""
    runs = 4000
    cells = [(0.08 + difference) / 2, (0.08 - difference) / 2, 0.92]
    drawn = np.random.default_rng(1).multinomial(2000, cells, size=runs)
    low, _ = tango_interval(drawn[:, 0], drawn[:, 1], 2000, ALPHA)
    promoted = (low > threshold).mean()
    assert least - error(0.05, runs) <= promoted <= most + error(0.05, runs)


@pytest.mark.parametrize(
    ("policy", "difference", "most"), [(SUPERIORITY, 0.0, 2), (NON_INFERIORITY, -0.02, 2)], ids=["equal", "worse"]
)
def test_the_whole_decision_promotes_few_of_them(policy, difference, most):
    """Of 20 runs of ``decide``; more than 4 of them are promoted by chance once in 400 suites."""
    assert sum(promoted_by_accuracy(policy, difference, 0.08, 2000, seed) for seed in range(20)) <= most + 2


def test_the_whole_decision_promotes_what_is_better():
    assert sum(promoted_by_accuracy(SUPERIORITY, 0.03, 0.08, 2000, seed) for seed in range(20)) >= 17


@pytest.mark.parametrize("shares", ["1/k", "halving"])
@pytest.mark.parametrize("threshold", [0.0, -0.01])
def test_macro_f1_of_ten_uneven_labels(shares, threshold, monkeypatch):
    """The truth at the threshold, n = 500: promoted in about 5 % of the runs."""
    monkeypatch.setattr(paired_bootstrap, "RESAMPLES", 200)
    monkeypatch.setattr(paired_bootstrap, "FEWEST_RESAMPLES", 200)
    runs = 100
    promoted = sum(shown_by_macro_f1(shares, 500, threshold, threshold, 0.85, seed) for seed in range(runs)) / runs
    assert promoted <= 0.065 + error(0.05, runs)
    assert promoted > 0


@pytest.mark.parametrize("shares", SHARES)
def test_populations_have_the_difference_they_state(shares):
    equal = population(SHARES[shares], accuracy=0.85, discordant=0.08)
    assert equal.sum() == pytest.approx(1)
    assert equal.min() >= 0
    assert true_difference(equal, "f1") == pytest.approx(0, abs=1e-12)
    worse = with_difference(SHARES[shares], -0.01, "f1", accuracy=0.85, discordant=0.08)
    assert true_difference(worse, "f1") == pytest.approx(-0.01, abs=1e-9)


def test_slices_of_equal_models():
    """20 slices of 300 rows, no loss tolerated: any refusal in at most 5 % of the runs."""
    runs = 100
    assert sum(refused_for_a_slice(0.0, seed) for seed in range(runs)) / runs <= 0.05 + error(0.05, runs)


def test_a_slice_that_lost_is_named():
    assert sum(names_the_slice(seed) for seed in range(10)) >= 9
