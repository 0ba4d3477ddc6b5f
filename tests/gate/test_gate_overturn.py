"""How many wrong test labels overturn a comparison: against all ways to relabel the rows of small tables."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from retrainer.artifacts.measures import Interval, Overturn
from retrainer.gate.answers import Answers, Ints
from retrainer.gate.claims import FEWEST_ROWS
from retrainer.gate.decide import decide
from retrainer.gate.metrics import compare
from retrainer.gate.overturn import look_first, overturn_of
from retrainer.gate.paired import tango_interval
from retrainer.gate.receipt import ReasonCode
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.gate import AgainstChampion, Gate

LEVELS = (0.2, 0.05, 0.01, 0.001)
THRESHOLDS = (0.0, -0.01, -0.1, -0.3)


def answers(predictions: Ints, n_labels: int) -> Answers:
    scores = np.full((predictions.size, n_labels), 0.1 / (n_labels - 1))
    at = np.flatnonzero(predictions >= 0)
    scores[at, predictions[at]] = 0.9
    return Answers(predictions, scores)


def shown(interval: Interval, threshold: float) -> bool:
    return interval.low > threshold and interval.n >= FEWEST_ROWS


def table(random: np.random.Generator) -> tuple[Ints, Ints, Ints, int]:
    """A small table: most rows right by both, some by one only, some by neither; foreign labels of the champion."""
    n, n_labels = int(random.integers(18, 31)), int(random.integers(2, 5))
    labels = random.integers(0, n_labels, n)
    labels[:2] = 0, 1
    slips = random.choice([0.05, 0.2, 0.5], 2)
    challenger = np.where(random.random(n) < slips[0], random.integers(0, n_labels, n), labels)
    champion = np.where(random.random(n) < slips[1], random.integers(-1, n_labels, n), labels)
    return labels, challenger, champion, n_labels


def by_brute_force(
    labels: Ints, challenger: Ints, champion: Ints, n_labels: int, level: float, threshold: float
) -> int | None:
    """Every row with every label: the fewest changes for each outcome ``(better, worse)``, then of those that turn."""
    fewest = {(0, 0): 0}
    for label, ours, theirs in zip(labels.tolist(), challenger.tolist(), champion.tolist(), strict=True):
        grown: dict[tuple[int, int], int] = {}
        for (better, worse), changes in fewest.items():
            for given in range(n_labels):
                outcome = better + (ours == given != theirs), worse + (theirs == given != ours)
                cost = changes + (given != label)
                grown[outcome] = min(grown.get(outcome, cost), cost)
        fewest = grown
    n = labels.size
    pairs = np.array(list(fewest))
    low, _ = tango_interval(pairs[:, 0], pairs[:, 1], n, level)
    holds = {
        outcome: float(f"{bound:.10g}") > threshold and n >= FEWEST_ROWS
        for outcome, bound in zip(fewest, low, strict=True)
    }
    as_it_is = next(outcome for outcome, changes in fewest.items() if changes == 0)
    turned = [changes for outcome, changes in fewest.items() if holds[outcome] != holds[as_it_is]]
    return min(turned, default=None)


def overturned(
    labels: Ints, challenger: Ints, champion: Ints, n_labels: int, level: float, threshold: float
) -> tuple[Overturn, Interval]:
    ours, theirs = answers(challenger, n_labels), answers(champion, n_labels)
    rows = Rows(labels, {FP32: ours, "champion": theirs}, None, {})
    interval = compare("accuracy", labels, ours, theirs, level)
    found = overturn_of(rows, interval, threshold, level=level)
    assert found is not None
    return found, interval


def test_the_number_is_that_of_brute_force():
    random = np.random.default_rng(12)
    seen = set()
    for _ in range(500):
        labels, challenger, champion, n_labels = table(random)
        level, threshold = random.choice(LEVELS), random.choice(THRESHOLDS)
        found, interval = overturned(labels, challenger, champion, n_labels, level, threshold)
        expected = by_brute_force(labels, challenger, champion, n_labels, level, threshold)
        assert found.exact
        assert found.labels == expected, (labels, challenger, champion, level, threshold)
        assert found.rows == int((challenger != champion).sum())
        seen.add((shown(interval, threshold), None if expected is None else min(expected, 3)))
    # Both directions, with few and many labels, and where none would do.
    assert {held for held, _ in seen} == {True, False}
    assert {count for _, count in seen} == {None, 1, 2, 3}


def test_relabelling_rows_one_by_one_gives_the_same():
    """The same without a word on what a row can do: the gate compares again for every one and every two rows."""
    random = np.random.default_rng(3)
    few = 0
    for _ in range(4):
        labels, challenger, champion, n_labels = table(random)
        level, threshold = 0.2, -0.3
        found, interval = overturned(labels, challenger, champion, n_labels, level, threshold)
        holds = shown(interval, threshold)
        ours, theirs = answers(challenger, n_labels), answers(champion, n_labels)
        turning = None
        for count in (1, 2):
            for rows in combinations(range(labels.size), count):
                for given in product(range(n_labels), repeat=count):
                    changed = labels.copy()
                    changed[list(rows)] = given
                    better = int(((ours.predictions == changed) & (theirs.predictions != changed)).sum())
                    worse = int(((theirs.predictions == changed) & (ours.predictions != changed)).sum())
                    low = _low(better, worse, labels.size, level)
                    if (low > threshold and labels.size >= FEWEST_ROWS) != holds:
                        turning = turning or count
        assert turning == (found.labels if found.labels and found.labels <= 2 else None)
        few += turning is not None
    assert few


_KNOWN: dict[tuple[int, int, int, float], float] = {}


def _low(better: int, worse: int, n: int, level: float) -> float:
    key = better, worse, n, level
    if key not in _KNOWN:
        _KNOWN[key] = float(tango_interval(better, worse, n, level)[0])
    return _KNOWN[key]


@pytest.mark.parametrize("level", [0.4, 0.05, 0.001, 1e-6, 1e-12])
@pytest.mark.parametrize("n", [20, 25, 60, 2000])
def test_the_bounds_never_fall_with_more_right_or_fewer_wrong(n, level):
    """What spares trying all ways to relabel."""
    most = min(n, 40)
    better, worse = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
    possible = better + worse <= n
    for bound in tango_interval(better, worse, n, level):
        held = np.where(possible, bound, np.nan)
        assert np.nanmin(np.diff(held, axis=0)) > -1e-12
        assert np.nanmax(np.diff(held, axis=1)) < 1e-12


def test_it_is_in_the_receipt_and_holds_there(make):
    policy = Gate(against_champion=AgainstChampion(mode="superiority"))
    receipt = decide(policy, make.pair(2000, better=100, worse=68))
    assert receipt.promoted
    assert receipt.overturn is not None
    count = receipt.overturn.labels
    assert count is not None
    # Each wrong label takes a row from the challenger and gives it to the champion.
    turned = decide(policy, make.pair(2000, better=100 - count, worse=68 + count))
    assert [reason.code for reason in turned.reasons] == [ReasonCode.INSUFFICIENT_ROWS]
    assert decide(policy, make.pair(2000, better=101 - count, worse=67 + count)).promoted
    back = decide(policy, make.pair(2000, better=100 - count, worse=68 + count))
    assert back.overturn is not None
    assert back.overturn.labels == 1


def test_without_a_comparison_there_is_nothing_to_overturn(make):
    labels = np.arange(200) % 2
    assert decide(Gate(floors={"accuracy": 0.5}), make(labels, {"fp32": labels})).overturn is None


def test_models_that_agree_on_every_row_cannot_be_told_apart_by_any_label(make):
    receipt = decide(Gate(against_champion=AgainstChampion(margin=0.05)), make.pair(1000, both_wrong=50))
    assert receipt.promoted
    assert receipt.overturn is not None
    assert (receipt.overturn.labels, receipt.overturn.rows) == (None, 0)


@pytest.mark.parametrize("metric", ["f1", "log_loss"])
def test_of_other_metrics_it_is_an_estimate_that_says_so(make, metric):
    policy = Gate(against_champion=AgainstChampion(metric=metric, mode="superiority"))
    evidence = make.pair(2000, better=110, worse=50, measured=("accuracy", "f1", "log_loss"))
    receipt = decide(policy, evidence)
    assert receipt.promoted
    found = receipt.overturn
    assert found is not None
    assert not found.exact
    assert found.method.startswith("an estimate")
    exactly = decide(Gate(against_champion=AgainstChampion(mode="superiority")), evidence).overturn
    assert exactly is not None
    # With labels of the same size and equal confidence these metrics say what accuracy says.
    assert found.labels == pytest.approx(exactly.labels, rel=0.35)


def test_the_rows_to_look_at_first_are_those_that_move_it_and_are_suspicious():
    labels = np.array([0, 0, 0, 1, 2, 0])
    challenger = np.array([0, 0, 1, 1, 0, 0])
    champion = np.array([0, 1, 0, 2, 1, -1])
    doubt = np.array(
        [
            [0.0, 0.5, 0.5],  # both agree: whatever its label, nothing moves
            [0.4, 0.6, 0.0],  # only the challenger is right, and the champion's label is likely: 0.6 * 2
            [0.1, 0.9, 0.0],  # only the champion is right: 0.9 * 2
            [0.5, 0.5, 0.0],  # only the challenger is right, a third label is likely: 0.5 * 1
            [0.3, 0.0, 0.7],  # both are wrong, and the challenger may not be: 0.3 * 1
            [1.0, 0.0, 0.0],  # the label is certain
        ]
    )
    # With two in three labels wrong a given label says nothing, and these are the probabilities of the truth.
    rows, expected = look_first(labels, challenger, champion, doubt, 2 / 3)
    assert rows.tolist() == [2, 1, 3, 4]
    assert expected.tolist() == pytest.approx([1.8, 1.2, 0.5, 0.3])


def test_a_label_that_was_given_speaks_for_itself():
    """A row in doubt is not a row whose label is likely wrong: one that all models deny comes first."""
    labels, challenger, champion = np.array([0, 2]), np.array([0, 0]), np.array([1, 1])
    doubt = np.array([[0.4, 0.6, 0.0], [0.5, 0.49, 0.01]])
    rows, expected = look_first(labels, challenger, champion, doubt, 2 / 3)
    assert rows.tolist() == [0, 1]
    rows, expected = look_first(labels, challenger, champion, doubt, 0.05)
    assert rows.tolist() == [1, 0]
    wrong, given = 0.6 * 0.05 / 2, 0.4 * 0.95
    assert expected[1] == pytest.approx(2 * wrong / (wrong + given))
