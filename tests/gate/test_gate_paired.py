"""Intervals and tests on counts: published values, exact error rates by enumeration, symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from retrainer.gate.paired import (
    holm,
    probability_not_worse,
    proportion_bounds,
    rows_needed,
    tango_interval,
    tidy,
)

# Cavo et al. 2012 in Fagerland, Lydersen, Laake, Statistical Analysis of Contingency Tables, chapter 8: complete
# response before and after consolidation, cells 59, 6, 16, 80. Then two published runs of PropCIs::scoreci.mp.
PUBLISHED = [
    (6, 16, 161, 0.025, -0.1240, -0.0054),
    (60, 20, 1000, 0.025, 0.0231, 0.0584),
    (48, 41, 549, 0.05, -0.0157, 0.0414),
]


@pytest.mark.parametrize(("better", "worse", "n", "alpha", "low", "high"), PUBLISHED)
def test_tango_interval_as_published(better, worse, n, alpha, low, high):
    found = tango_interval(better, worse, n, alpha)
    assert [round(float(bound), 4) for bound in found] == [low, high]


def test_tango_interval_without_disagreement_is_known_in_closed_form():
    z = stats.norm.isf(0.05)
    low, high = tango_interval(0, 0, 200, 0.05)
    assert high == pytest.approx(z**2 / (200 + z**2))
    assert low == pytest.approx(-high)


@settings(max_examples=60, deadline=None)
@given(better=st.integers(0, 60), worse=st.integers(0, 60), rest=st.integers(1, 300), alpha=st.floats(0.001, 0.4))
def test_tango_interval_is_sane(better, worse, rest, alpha):
    n = better + worse + rest
    low, high = (float(bound) for bound in tango_interval(better, worse, n, alpha))
    assert -1 <= low <= (better - worse) / n <= high <= 1
    mirrored = tango_interval(worse, better, n, alpha)
    assert [float(bound) for bound in mirrored] == pytest.approx([-high, -low], abs=1e-9)
    wider = tango_interval(better, worse, n, alpha / 2)
    assert wider[0] <= low + 1e-12
    assert wider[1] >= high - 1e-12


@pytest.mark.parametrize(("better", "worse"), [(5, 0), (0, 5)])
def test_tango_interval_where_all_rows_disagree_in_one_direction(better, worse):
    low, high = tango_interval(better, worse, 5, 0.05)
    assert (high == 1.0) if better else (low == -1.0)
    assert low < high


def test_tango_interval_takes_arrays():
    better, worse = np.array([[6, 60], [0, 3]]), np.array([[16, 20], [0, 9]])
    lows, highs = tango_interval(better, worse, 1000, 0.05)
    for index in np.ndindex(better.shape):
        alone = tango_interval(better[index], worse[index], 1000, 0.05)
        assert [float(lows[index]), float(highs[index])] == [float(bound) for bound in alone]


def rejection_probability(n: int, difference: float, discordant: float, alpha: float) -> float:
    """Exact probability that the lower bound lies above ``difference`` when that is the truth, all tables summed."""
    better, worse = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    possible = better + worse <= n
    better, worse = better[possible], worse[possible]
    cells = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
    chance = stats.multinomial.pmf(np.stack([better, worse, n - better - worse], axis=1), n, cells)
    low, _ = tango_interval(better, worse, n, alpha)
    return float(chance[low > difference].sum())


@pytest.mark.parametrize("n", [50, 100, 200])
@pytest.mark.parametrize("difference", [0.0, -0.01, -0.02])
@pytest.mark.parametrize("discordant", [0.03, 0.1, 0.3])
def test_one_sided_error_is_near_its_nominal_value(n, difference, discordant):
    error = rejection_probability(n, difference, discordant, 0.05)
    assert error <= 0.057
    if n * discordant >= 20:
        assert error >= 0.04


def test_mid_p_as_published():
    # The two-sided mid-P value of the same table is 0.034690.
    assert 2 * float(probability_not_worse(6, 16)) == pytest.approx(0.034690, abs=1e-6)
    assert float(probability_not_worse(16, 6)) == pytest.approx(1 - 0.034690 / 2, abs=1e-6)


def test_mid_p_without_disagreement():
    assert probability_not_worse([0, 3], [0, 3]).tolist() == [1.0, pytest.approx(0.5)]


def test_holm_by_hand():
    adjusted = holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).max() == 1.0
    assert holm([]).size == 0


def test_proportion_bounds_as_published():
    # 13 of 16, 95 % two-sided: 0.5435 to 0.9595 (Fagerland et al., chapter 2).
    assert list(proportion_bounds(13, 16, 0.025)) == pytest.approx([0.5435, 0.9595], abs=1e-4)
    assert list(proportion_bounds(10, 10, 0.025)) == pytest.approx([0.6915, 1.0], abs=1e-4)
    assert list(proportion_bounds(0, 10, 0.025)) == pytest.approx([0.0, 0.3085], abs=1e-4)


def test_rows_needed_gives_about_the_power_it_promises():
    n, alpha, margin, discordant = 500, 0.05, 0.01, 0.08
    low, high = tango_interval(20, 20, n, alpha)
    needed = rows_needed(n=n, half_width=float(high - low) / 2, distance=margin, alpha=alpha)
    assert needed is not None
    random = np.random.default_rng(1)
    drawn = random.multinomial(needed, [discordant / 2, discordant / 2, 1 - discordant], size=2000)
    lows, _ = tango_interval(drawn[:, 0], drawn[:, 1], needed, alpha)
    assert 0.76 <= (lows > -margin).mean() <= 0.86


def test_rows_needed_knows_when_no_number_would_do():
    assert rows_needed(n=100, half_width=0.05, distance=0.0, alpha=0.05) is None
    assert rows_needed(n=100, half_width=0.05, distance=1e-9, alpha=0.05) == 10**9
    assert rows_needed(n=100, half_width=0.05, distance=0.5, alpha=0.05) == 101


def test_tidy_keeps_ten_digits():
    assert tidy(1 / 3) == 0.3333333333
    assert tidy(0.1 + 0.2) == 0.3
    assert tidy(0) == 0.0
