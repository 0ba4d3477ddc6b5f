"""Intervals at the levels that many decisions leave: wider than at larger ones, and for accuracy about Tango's."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gate_evidence import SHARES, Ints, draw, population
from retrainer.gate.confusion import accuracy, f1, mcc
from retrainer.gate.paired import tango_interval
from retrainer.gate.paired_bootstrap import difference_bounds

LEVELS = (0.05, 0.01, 0.005, 1e-3, 1e-4, 1e-6)


def rows(n: int, seed: int = 0) -> tuple[Ints, Ints, Ints]:
    return draw(population(SHARES["1/k"], accuracy=0.85, discordant=0.08), n, np.random.default_rng(seed))


@pytest.mark.parametrize("function", [f1, mcc], ids=["f1", "mcc"])
def test_the_smaller_the_level_the_wider_the_interval(function):
    labels, first, second = rows(1000)
    bounds = [difference_bounds(function, labels, first, second, 10, level) for level in LEVELS]
    lows, highs = [bound.low for bound in bounds], [bound.high for bound in bounds]
    assert lows == sorted(lows, reverse=True)
    assert highs == sorted(highs)
    assert len(set(lows)) == len(LEVELS)


@pytest.mark.parametrize("level", [1e-3, 1e-4])
@pytest.mark.parametrize("n", [500, 5000])
def test_of_accuracy_they_are_about_tangos(level, n):
    labels, first, second = rows(n)
    found = difference_bounds(accuracy, labels, first, second, 10, level)
    right, other = first == labels, second == labels
    low, high = map(float, tango_interval(int((right & ~other).sum()), int((other & ~right).sum()), n, level))
    assert found.low == pytest.approx(low, abs=0.06 * (high - low))
    assert found.high == pytest.approx(high, abs=0.06 * (high - low))
    assert "normal tail" in found.method
