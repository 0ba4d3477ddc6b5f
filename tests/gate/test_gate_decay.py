"""The drop of a published model on other rows: its interval, its verdict, and the mix of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.artifacts.decay import DecayCode, Drop
from retrainer.artifacts.measures import Score
from retrainer.gate.answers import Answers, TextAnswers
from retrainer.gate.decay import at_shares, drop_between, judge_drop, label_shares, rows_of_each
from retrainer.gate.metrics import score

ALPHA = 0.05


def answers(labels: Any, right: Any, n_labels: int = 2) -> Answers:
    """Sure answers, right where told."""
    predictions = np.where(right, labels, (labels + 1) % n_labels)
    return Answers(predictions, np.eye(n_labels)[predictions])


def accuracy(random: np.random.RandomState, share: float, rows: int) -> Score:
    labels = random.randint(2, size=rows)
    return score("accuracy", labels, answers(labels, random.rand(rows) < share), ALPHA)


def test_the_interval_covers_what_it_should() -> None:
    """Each bound errs at most about as often as alpha says, also near the end of the range and with few rows."""
    random = np.random.RandomState(0)
    for before, now, n, m in ((0.9, 0.9, 200, 200), (0.97, 0.92, 300, 60), (0.99, 0.99, 40, 400), (0.7, 0.5, 100, 50)):
        too_low = too_high = 0
        for _ in range(400):
            drop = drop_between("accuracy", accuracy(random, before, n), accuracy(random, now, m), ALPHA)
            assert drop is not None
            too_high += drop.low > before - now
            too_low += drop.high < before - now
        # Three standard errors of a share of 0.05 in 400 draws.
        assert too_high / 400 <= ALPHA + 3 * 0.011, (before, now, n, m)
        assert too_low / 400 <= ALPHA + 3 * 0.011, (before, now, n, m)


def test_a_drop_of_what_is_allowed_is_called_decay_as_seldom_as_alpha_says() -> None:
    random = np.random.RandomState(1)
    verdicts = []
    for _ in range(400):
        drop = drop_between("accuracy", accuracy(random, 0.9, 500), accuracy(random, 0.85, 500), ALPHA)
        assert drop is not None
        verdicts.append(judge_drop(drop, 0.05)[0])
    assert verdicts.count("decayed") / 400 <= ALPHA + 3 * 0.011
    assert verdicts.count("holds") / 400 <= ALPHA + 3 * 0.011
    assert verdicts.count("insufficient") > 300


@given(
    st.tuples(*[st.integers(0, 60)] * 2), st.tuples(*[st.integers(0, 60)] * 2), st.floats(0.0, 0.5), st.floats(0.0, 0.5)
)
def test_no_verdict_contradicts_another(before: Any, now: Any, most: float, more: float) -> None:
    scores = []
    for right, wrong in (before, now):
        labels = np.zeros(right + wrong + 1, dtype=np.int64)
        scores.append(score("accuracy", labels, answers(labels, np.arange(labels.size) <= right), ALPHA))
    first, second = scores
    drop = drop_between("accuracy", first, second, ALPHA)
    assert drop is not None
    assert -1.0 <= drop.low <= drop.estimate <= drop.high <= 1.0
    back = drop_between("accuracy", second, first, ALPHA)
    assert back is not None
    assert (back.low, back.high) == pytest.approx((-drop.high, -drop.low))
    verdict, allowed = judge_drop(drop, most)[0], judge_drop(drop, most + more)[0]
    order = ("decayed", "insufficient", "holds")
    assert order.index(verdict) <= order.index(allowed), "what is more than more is more than less"


def test_of_a_metric_of_which_less_is_better_more_is_worse() -> None:
    worse = drop_between("log_loss", Score(value=0.2, low=0.1, high=0.4), Score(value=0.7, low=0.6, high=1.0), ALPHA)
    assert worse is not None
    assert worse.estimate == pytest.approx(0.5)
    # How far each may be off on the side that makes the drop smaller: 0.4 - 0.2, and 0.7 - 0.6.
    assert worse.low == pytest.approx(0.5 - np.hypot(0.2, 0.1))
    assert worse.high == pytest.approx(0.5 + np.hypot(0.1, 0.3))
    assert worse.confidence == pytest.approx(0.9)


def test_without_a_value_or_an_interval_there_is_no_drop() -> None:
    whole = Score(value=0.9, low=0.8, high=0.95)
    assert drop_between("accuracy", Score(value=0.9), whole, ALPHA) is None
    assert drop_between("accuracy", whole, Score(value=None), ALPHA) is None


@pytest.mark.parametrize(
    ("low", "high", "code"),
    [
        (0.051, 0.2, DecayCode.DROP_TOO_LARGE),
        (0.05, 0.2, DecayCode.NOT_TOLD),
        (-0.1, 0.2, DecayCode.NOT_TOLD),
        (-0.1, 0.05, DecayCode.WITHIN),
    ],
)
def test_each_verdict_needs_the_whole_interval(low: float, high: float, code: DecayCode) -> None:
    drop = Drop(estimate=(low + high) / 2, low=low, high=high, confidence=0.9, method="")
    assert judge_drop(drop, 0.05)[1] == code


def test_a_drop_from_another_mix_alone_is_gone_at_the_old_shares() -> None:
    names = ("a", "b", "c")
    before = {"a": 50, "b": 30, "c": 20}
    # Half of b is right, all else; and most of the new rows are b.
    labels = np.repeat([0, 1, 2], [10, 200, 10])
    said = answers(labels, (labels != 1) | (np.arange(labels.size) % 2 == 0), 3)
    assert score("accuracy", labels, said, None).value == pytest.approx(120 / 220)
    assert at_shares("accuracy", labels, said, names, before) == pytest.approx(0.85)
    same = {"a": 10, "b": 200, "c": 10}
    for metric in ("accuracy", "f1", "mcc"):
        assert at_shares(metric, labels, said, names, same) == pytest.approx(score(metric, labels, said, None).value)


def test_where_old_shares_say_nothing_there_is_no_number() -> None:
    labels = np.array([0, 0, 1])
    said = answers(labels, np.array([True, False, True]))
    assert at_shares("accuracy", labels, said, ("a", "b"), {"a": 1, "b": 1, "c": 1}) is None, "no new row is c"
    assert at_shares("accuracy", labels[:2], answers(labels[:2], True), ("a", "b"), {"a": 1, "b": 1}) is None
    assert at_shares("log_loss", labels, said, ("a", "b"), {"a": 1, "b": 1}) is None
    texts = TextAnswers(np.array(["x"], dtype=np.object_), {"exact_match": np.ones(1)})
    assert at_shares("exact_match", np.zeros(1, np.int64), texts, (), {}) is None
    assert rows_of_each(np.zeros(1, np.int64), texts, ()) == {}


def test_the_label_that_moved_most_comes_first() -> None:
    found = label_shares({"a": 50, "b": 50}, 100, {"a": 10, "b": 20, "new": 10}, 40)
    assert [(one.label, one.before, one.now) for one in found] == [
        ("a", 0.5, 0.25),
        ("new", 0.0, 0.25),
        ("b", 0.5, 0.5),
    ]
