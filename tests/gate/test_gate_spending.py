"""The levels of a year of decisions: they add up to alpha, on both accounts, and fall with every look."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.artifacts.standing import Standing
from retrainer.gate.spending import eased, in_period, share, spend
from retrainer.spec.gate import OverTime

YEAR = OverTime()

policies = st.builds(OverTime, alpha=st.floats(0.001, 0.4), decisions=st.integers(1, 500))
standings = st.builds(
    Standing,
    decisions=st.integers(0, 2000),
    promotions=st.integers(0, 100),
    looks=st.integers(1, 10),
    wear=st.floats(0, 1000),
)


@given(st.integers(1, 3000))
def test_the_shares_of_a_period_add_up_to_one(decisions):
    assert math.fsum(share(at, decisions) for at in range(1, decisions + 1)) == pytest.approx(1.0)
    assert share(decisions + 1, decisions) == 0.0


@given(policies, st.integers(1, 5), st.integers(1, 5))
def test_the_levels_of_a_period_add_up_to_at_most_alpha_also_of_the_best_of_several(policy, looks, period):
    start = (period - 1) * policy.decisions
    spent = [
        looks * spend(policy, 0.49, Standing(decisions=start + at, looks=looks)).level for at in range(policy.decisions)
    ]
    assert math.fsum(spent) <= policy.alpha * (1 + 1e-8)


@given(policies, st.integers(1, 6))
def test_the_levels_on_the_same_rows_add_up_to_at_most_alpha_whatever_the_channel(policy, looks):
    """As many looks as rows bear, ``looks`` of them each decision; the channel is always new."""
    spent = 0.0
    for last in range(looks, policy.decisions + 2 * looks, looks):
        spent += looks * spend(policy, 0.49, Standing(wear=last - 1)).level
    assert spent <= policy.alpha * (1 + 1e-8)


@given(policies, standings, st.integers(1, 10_000), st.integers(0, 10_000))
def test_new_rows_never_lower_the_level_and_looks_never_raise_it(policy, standing, rows, more):
    level = spend(policy, 0.1, standing).level
    assert spend(policy, 0.1, eased(standing, rows, rows + more)).level >= level
    assert spend(policy, 0.1, standing.model_copy(update={"wear": standing.wear + 1})).level <= level
    assert spend(policy, 0.1, standing.model_copy(update={"looks": standing.looks + 1})).level <= level


@given(policies, standings)
def test_the_channel_is_never_refilled_by_rows(policy, standing):
    fresh = standing.model_copy(update={"wear": 0.0})
    at = in_period(standing.decisions, policy) + 1
    assert spend(policy, 0.49, fresh).level <= policy.alpha * share(at, policy.decisions) * (1 + 1e-9)


@given(policies, standings, st.floats(0.0001, 0.49))
def test_no_level_is_above_that_of_a_single_decision(policy, standing, nominal):
    for control in ("familywise", "fdr", "none"):
        spending = spend(policy.model_copy(update={"control": control}), nominal, standing)
        assert 0 <= spending.guard <= spending.level <= nominal * (1 + 1e-9)


def test_fdr_raises_the_level_with_each_promotion_and_not_that_of_the_guard():
    standing = Standing(decisions=100, promotions=19, wear=100)
    familywise, fdr = (spend(YEAR.model_copy(update={"control": c}), 0.05, standing) for c in ("familywise", "fdr"))
    assert fdr.level == pytest.approx(20 * familywise.level)
    assert fdr.guard == familywise.guard == familywise.level


def test_none_takes_each_decision_at_its_own_alpha():
    assert spend(OverTime(control="none"), 0.05, Standing(decisions=300, wear=900)).level == 0.05


def test_rows_are_used_up_after_as_many_looks_as_there_are_decisions():
    assert spend(YEAR, 0.05, Standing(wear=364)).level > 0
    last = spend(YEAR, 0.05, Standing(wear=365))
    assert (last.level, last.account, last.rows_left) == (0.0, "rows", 0.0)


def test_after_a_period_another_begins():
    first, again = (spend(YEAR, 0.05, Standing(decisions=at)) for at in (0, 365))
    assert (first.decision, first.period, again.decision, again.period) == (1, 1, 1, 2)
    assert again.level == first.level


def test_what_is_left_falls_to_nothing():
    left = [spend(YEAR, 0.05, Standing(decisions=at, wear=at)).left for at in range(365)]
    assert left == sorted(left, reverse=True)
    assert left[-1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("decision", "z"), [(1, 2.42), (10, 3.17), (50, 3.61), (365, 4.09)])
def test_the_levels_are_those_that_the_page_states(decision, z):
    from scipy.stats import norm

    assert norm.isf(spend(YEAR, 0.05, Standing(decisions=decision - 1)).level) == pytest.approx(z, abs=0.01)
