"""What people read of a decision among many: the level, what is left, the anchor, the flips."""

from __future__ import annotations

from dataclasses import replace

import pytest

from retrainer.artifacts.standing import Standing
from retrainer.gate.decide import decide
from retrainer.report.decision import explain, parts
from retrainer.report.presentation import percent
from retrainer.spec.gate import Gate, OverTime

STANDING = Standing(
    decisions=40, looks=2, wear=41.0, row_looks=41, row_decisions=40, anchor="0123456789abcdef", rows_per_day=30.0
)


def test_level_and_what_is_left_are_said(make):
    receipt = decide(Gate(), replace(make.pair(2000, better=150, worse=10), standing=STANDING))
    first, second, third = parts(receipt)["over_time"].lines()
    assert first == (
        "Decision 41 of 365 of the channel, the best of 2 looks; "
        "these rows had been looked at 41 times, in 40 decisions."
    )
    assert receipt.spending is not None
    assert f"{receipt.spending.level:.2g} (familywise), a single one would be at 0.05" in second
    assert "left for the channel" in third


def test_the_anchor_is_said_and_that_it_moves(make):
    receipt = decide(Gate(), replace(make.pair(2000, better=150, worse=10), standing=STANDING))
    lines = parts(receipt)["anchor"].lines()
    assert lines[0] == "The anchor is the champion: at most 0.01 may be lost against it, over all decisions."
    assert "becomes it when it is published" in lines[-1]


def test_flips_are_in_what_a_terminal_shows(make):
    said = "\n".join(explain(decide(Gate(max_harmful_flips=0.02), make.pair(2000, better=60, worse=10))))
    assert "10 of 2,000 rows that the champion has right are wrong with the challenger (0.50%" in said
    assert "at most 2.00% may be" in said


@pytest.mark.parametrize("standing", [None, STANDING])
def test_where_nothing_is_counted_nothing_is_said(make, standing):
    policy = Gate(over_time=OverTime(control="none"), anchor=None)
    made = parts(decide(policy, replace(make.pair(2000, better=60), standing=standing)))
    assert not made["over_time"].said
    assert not made["anchor"].said


@pytest.mark.parametrize(("share", "text"), [(0.9, "90 %"), (1.0, "100 %"), (0.99998, "99.998 %"), (0.9999, "99.99 %")])
def test_a_confidence_near_one_is_not_rounded_to_it(share, text):
    assert percent(share) == text
