"""Bootstrap standard errors: against closed forms, against rows drawn one by one, and their error rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from retrainer.gate import bootstrap
from retrainer.gate.bootstrap import standard_error
from retrainer.gate.compare import Answers, compare, score
from retrainer.gate.metrics import METRICS, log_loss_of_rows

UNEVEN = 1 / np.arange(1, 11)
UNEVEN /= UNEVEN.sum()


def two_models(random: np.random.Generator, n: int, shares: np.ndarray, *, gain: float = 0.0, spread: float = 0.05):
    """Labels and the predictions of two models; the first is right ``gain`` more often on every label.

    Apart from ``gain`` the two are exchangeable. Each gets about ``spread`` of the rows right that the other does not.
    """
    n_labels = shares.size
    labels = random.choice(n_labels, size=n, p=shares)
    accuracy = np.linspace(0.90, 0.75, n_labels)[labels]
    draw = random.random(n)
    shared = draw < accuracy - spread
    first_only = (draw >= accuracy - spread) & (draw < accuracy + gain)
    second_only = (draw >= accuracy + gain) & (draw < accuracy + spread + gain)
    wrong = (labels + random.integers(1, n_labels, n)) % n_labels
    first = np.where(shared | first_only, labels, wrong)
    second = np.where(shared | second_only, labels, wrong)
    return labels, first, second


def answers(predictions: np.ndarray, n_labels: int) -> Answers:
    probabilities = np.full((predictions.size, n_labels), 0.02)
    probabilities[np.arange(predictions.size), predictions] = 0.8
    return Answers(predictions, probabilities)


def test_cells_give_what_drawing_rows_gives():
    labels, first, second = two_models(np.random.default_rng(1), 2000, UNEVEN)
    metric = METRICS["f1"]
    found = standard_error(metric, labels, answers(first, 10).pair, answers(second, 10).pair)
    random = np.random.default_rng(2)
    values = []
    for _ in range(400):
        rows = np.concatenate(
            [random.choice(np.flatnonzero(labels == label), (labels == label).sum()) for label in range(10)]
        )
        probabilities = np.zeros((rows.size, 10))
        one = metric.compute(labels[rows], probabilities, first[rows])
        values.append(one - metric.compute(labels[rows], probabilities, second[rows]))
    assert found == pytest.approx(np.std(values), rel=0.12)


def test_recall_of_one_model_has_a_closed_form():
    labels = np.repeat([0, 1], [600, 300])
    predictions = labels.copy()
    predictions[:60] = 1
    predictions[600:660] = 0
    found = standard_error(METRICS["recall"], labels, answers(predictions, 2).pair)
    expected = np.sqrt(0.1 * 0.9 / 600 + 0.2 * 0.8 / 300) / 2
    assert found == pytest.approx(expected, rel=0.06)


def test_log_loss_difference_has_a_closed_form():
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 1500)
    first, second = (softmax(random.normal(size=(1500, 3)), axis=1) for _ in range(2))
    found = standard_error(METRICS["log_loss"], labels, (first, first.argmax(axis=1)), (second, second.argmax(axis=1)))
    losses = log_loss_of_rows(labels, first) - log_loss_of_rows(labels, second)
    variance = sum(losses[labels == label].var() * (labels == label).sum() for label in range(3)) / 1500**2
    assert found == pytest.approx(np.sqrt(variance), rel=0.06)


@pytest.mark.parametrize("name", ["auroc", "log_loss", "ece"])
def test_equal_weights_give_the_metric_itself(name):
    random = np.random.default_rng(4)
    labels = random.integers(0, 3, 200)
    # Rounded, so that scores tie.
    probabilities = np.round(softmax(random.normal(size=(200, 3)), axis=1), 1) + 1e-3
    predictions = probabilities.argmax(axis=1)
    weighted = bootstrap._weighted(name, labels, probabilities, predictions)
    expected = METRICS[name].compute(labels, probabilities, predictions)
    np.testing.assert_allclose(weighted(np.ones((2, 200))), expected, atol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_same_rows_same_error_and_one_chunk_or_many(name, monkeypatch):
    labels, first, second = two_models(np.random.default_rng(5), 120, np.array([0.6, 0.4]))
    pair = answers(first, 2), answers(second, 2)
    once = compare(name, labels, *pair, 0.05)
    assert compare(name, labels, *pair, 0.05) == once
    monkeypatch.setattr(bootstrap, "CHUNK", 4000)
    in_chunks = compare(name, labels, *pair, 0.05)
    assert in_chunks.estimate == once.estimate
    assert in_chunks.low == pytest.approx(once.low, rel=0.15, abs=1e-3)


def test_models_that_never_disagree_are_not_proven_equal_by_few_rows():
    labels = np.arange(60) % 3
    interval = compare("f1", labels, answers(labels, 3), answers(labels, 3), 0.05)
    assert interval.estimate == 0.0
    assert interval.low < -0.02
    labels = np.arange(6000) % 3
    assert compare("f1", labels, answers(labels, 3), answers(labels, 3), 0.05).low > -0.002


def test_a_perfect_score_has_a_bound_below_it():
    labels = np.arange(60) % 3
    for name in ("accuracy", "f1", "mcc"):
        found = score(name, labels, answers(labels, 3), 0.05)
        assert found.value == found.high == 1.0
        assert found.low is not None
        assert found.low < 0.98


def test_less_is_better_turns_the_difference():
    random = np.random.default_rng(6)
    labels = random.integers(0, 2, 500)
    sharp = np.full((500, 2), 0.1)
    sharp[np.arange(500), labels] = 0.9
    dull = np.full((500, 2), 0.4)
    dull[np.arange(500), labels] = 0.6
    interval = compare("log_loss", labels, Answers(labels, sharp), Answers(labels, dull), 0.05)
    assert interval.estimate == pytest.approx(np.log(0.9 / 0.6))
    assert interval.low > 0


@pytest.mark.parametrize(
    ("n", "shares", "runs"), [(500, UNEVEN, 300), (5000, UNEVEN, 200), (100, np.array([0.7, 0.3]), 300)]
)
def test_error_rate_of_macro_f1(n, shares, runs, monkeypatch):
    """Equal models: each side of the interval excludes 0 in about 5 % of the runs, at most."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    random = np.random.default_rng(7)
    outside = 0
    for _ in range(runs):
        labels, first, second = two_models(random, n, shares)
        interval = compare("f1", labels, answers(first, shares.size), answers(second, shares.size), 0.05)
        outside += (interval.low > 0) + (interval.high < 0)
    # Both sides together: 600 (or 400) chances of 5 %; three standard errors of the simulation above.
    allowed = 0.05 + 3 * np.sqrt(0.05 * 0.95 / (2 * runs))
    assert outside / (2 * runs) <= allowed
