"""Standard errors and bounds by the bootstrap: against closed forms, and against rows drawn one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from retrainer.gate import bootstrap
from retrainer.gate.answers import Answers
from retrainer.gate.bootstrap import confusion_error, variance_of_sum
from retrainer.gate.confidence import ECE, log_loss_of_rows
from retrainer.gate.confusion import FromConfusion, confusion_matrix
from retrainer.gate.metrics import METRICS, compare, score
from retrainer.gate.paired import normal_quantile
from retrainer.gate.paired_bootstrap import difference_bounds
from retrainer.gate.ranking import auroc_parts
from retrainer.spec.known_metrics import names_of

UNEVEN = 1 / np.arange(1, 11)
UNEVEN /= UNEVEN.sum()
PAIRED = [name for name, metric in METRICS.items() if metric.from_confusion and name != "accuracy"]


def of_confusion(name: str) -> FromConfusion:
    function = METRICS[name].from_confusion
    assert function is not None
    return function


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


def drawn_error(name: str, labels: np.ndarray, models: list[Answers], *, resamples: int = 1500) -> float:
    """Standard error of one model's metric, or of the difference of two, by drawing rows one by one."""
    random = np.random.default_rng(12)
    strata = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    values = []
    for _ in range(resamples):
        rows = np.concatenate([random.choice(stratum, stratum.size) for stratum in strata])
        drawn = [
            METRICS[name].compute(labels[rows], model.probabilities[rows], model.predictions[rows]) for model in models
        ]
        values.append(drawn[0] - sum(drawn[1:]))
    return float(np.std(values, ddof=1))


def scored_models(seed: int, n: int, n_labels: int, *, ties: bool = False):
    """Labels and the answers of two related models with real-valued scores, or rounded ones."""
    random = np.random.default_rng(seed)
    labels = random.choice(n_labels, size=n, p=UNEVEN[:n_labels] / UNEVEN[:n_labels].sum())
    shared = random.normal(size=(n, n_labels))
    models = []
    for skill in (1.6, 1.4):
        logits = shared + 0.5 * random.normal(size=(n, n_labels))
        logits[np.arange(n), labels] += skill
        probabilities = softmax(logits, axis=1)
        probabilities = np.round(probabilities, 1) if ties else probabilities
        models.append(Answers(probabilities.argmax(axis=1), probabilities))
    return labels, models


def test_bounds_are_those_of_drawing_rows_where_there_are_many():
    labels, first, second = two_models(np.random.default_rng(1), 4000, np.full(4, 0.25), gain=0.02)
    f1 = of_confusion("f1")
    found = difference_bounds(f1, labels, first, second, 4, 0.05)
    random = np.random.default_rng(2)
    values = []
    for _ in range(300):
        rows = np.concatenate(
            [random.choice(np.flatnonzero(labels == label), (labels == label).sum()) for label in range(4)]
        )
        one, two = (confusion_matrix(labels[rows], said[rows], 4) for said in (first, second))
        values.append(f1(one) - f1(two))
    width = 2 * normal_quantile(0.05) * np.std(values)
    assert found.high - found.low == pytest.approx(width, rel=0.12)


def test_recall_of_one_model_has_a_closed_form():
    confusion = np.array([[540, 60, 0], [60, 240, 0]])
    expected = np.sqrt(0.1 * 0.9 / 600 + 0.2 * 0.8 / 300) / 2
    assert confusion_error(of_confusion("recall"), confusion) == pytest.approx(expected, rel=0.06)


def test_recall_of_two_models_has_a_closed_form():
    # 900 rows of either label; on the first 60 and 20 rows are won and lost, on the second 30 and 50.
    labels = np.repeat([0, 1], 900)
    first, second = labels.copy(), labels.copy()
    second[:60], first[60:80], second[900:930], first[930:980] = 1, 1, 0, 0
    found = difference_bounds(of_confusion("recall"), labels, first, second, 2, 0.05)
    variance = sum((b + c - (b - c) ** 2 / 900) / 900**2 for b, c in ((60, 20), (30, 50))) / 4
    assert found.high - found.low == pytest.approx(2 * normal_quantile(0.05) * np.sqrt(variance), rel=0.08)
    assert (found.high + found.low) / 2 == pytest.approx(10 / 900, abs=0.001)


def test_bounds_turn_with_the_models():
    labels, first, second = two_models(np.random.default_rng(9), 600, UNEVEN)
    one = compare("f1", labels, answers(first, 10), answers(second, 10), 0.05)
    other = compare("f1", labels, answers(second, 10), answers(first, 10), 0.05)
    assert other.estimate == -one.estimate
    assert [-other.high, -other.low] == pytest.approx([one.low, one.high], abs=0.1 * (one.high - one.low))


def test_a_smaller_alpha_gives_wider_bounds():
    labels, first, second = two_models(np.random.default_rng(10), 600, UNEVEN)
    pair = answers(first, 10), answers(second, 10)
    wide, narrow = compare("f1", labels, *pair, 0.01), compare("f1", labels, *pair, 0.1)
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


@pytest.mark.parametrize("ties", [False, True])
def test_computed_errors_are_those_of_many_resamples(ties):
    """What is computed is what drawing rows tends to."""
    labels, (one, two) = scored_models(3, 1500, 4, ties=ties)
    drawn = drawn_error("auroc", labels, [one, two])
    influence = auroc_parts(labels, one.probabilities)[1] - auroc_parts(labels, two.probabilities)[1]
    assert np.sqrt(variance_of_sum(labels, influence)) == pytest.approx(drawn, rel=0.05)
    assert np.sqrt(variance_of_sum(labels, auroc_parts(labels, one.probabilities)[1])) == pytest.approx(
        drawn_error("auroc", labels, [one]), rel=0.05
    )
    assert np.sqrt(ECE.limit(labels, [one, two])[0]) == pytest.approx(drawn_error("ece", labels, [one, two]), rel=0.05)
    assert np.sqrt(ECE.limit(labels, [one])[0]) == pytest.approx(drawn_error("ece", labels, [one]), rel=0.05)


def test_log_loss_has_the_error_of_drawing_rows():
    labels, (one, two) = scored_models(4, 800, 3)
    losses = log_loss_of_rows(labels, one.probabilities) - log_loss_of_rows(labels, two.probabilities)
    random = np.random.default_rng(5)
    strata = [losses[labels == label] for label in range(3)]
    sums = sum(random.choice(stratum, (4000, stratum.size)).sum(axis=1) for stratum in strata)
    assert np.sqrt(variance_of_sum(labels, losses)) == pytest.approx(np.std(sums), rel=0.05)


@pytest.mark.parametrize("name", ["auroc", "ece"])
def test_computed_errors_are_about_those_of_resamples_on_few_rows_too(name):
    """On 60 rows of three labels; over several pairs of models, for one pair is a matter of chance."""
    ratios = []
    for seed in range(8):
        labels, (one, two) = scored_models(seed, 60, 3)
        interval = compare(name, labels, one, two, 0.05)
        computed = (interval.high - interval.low) / 2 / normal_quantile(0.05)
        ratios.append(computed / drawn_error(name, labels, [one, two], resamples=400))
    assert 0.93 < np.mean(ratios) < 1.1


ORDINAL = {"mae", "quadratic_kappa"}


@pytest.mark.parametrize("name", names_of("classification"))
def test_same_rows_same_error_and_one_chunk_or_many(name, monkeypatch):
    labels, first, second = two_models(np.random.default_rng(5), 120, np.array([0.6, 0.4]))
    pair = answers(first, 2), answers(second, 2)
    once = compare(name, labels, *pair, 0.05)
    assert compare(name, labels, *pair, 0.05) == once
    monkeypatch.setattr(bootstrap, "CHUNK", 4000)
    in_chunks = compare(name, labels, *pair, 0.05)
    assert in_chunks.estimate == once.estimate
    # By chance a bound of so few rows moves by one of them, where a row moves a whole step.
    assert in_chunks.low == pytest.approx(once.low, rel=0.15, abs=2.1 / 120 if name in ORDINAL else 1e-3)


@pytest.mark.parametrize("name", names_of("classification"))
def test_models_that_never_disagree_are_not_proven_equal_by_few_rows(name):
    for n in (2, 3, 20):
        labels = np.arange(n) % 2
        interval = compare(name, labels, answers(labels, 2), answers(labels, 2), 0.05)
        assert interval.estimate == 0.0
        assert interval.low < -0.05
        assert interval.high > 0.05
    labels = np.arange(6000) % 2
    assert compare(name, labels, answers(labels, 2), answers(labels, 2), 0.05).low > -0.002


def test_rows_that_all_tell_the_models_apart_have_bounds():
    labels = np.arange(20) % 2
    better = compare("f1", labels, answers(labels, 2), answers(1 - labels, 2), 0.05)
    assert (better.estimate, better.high) == (1.0, 1.0)
    assert 0.5 < better.low < 1.0
    worse = compare("f1", labels, answers(1 - labels, 2), answers(labels, 2), 0.05)
    assert worse.low == -1.0
    assert -1.0 < worse.high < -0.5


def test_a_perfect_score_has_a_bound_below_it():
    labels = np.arange(60) % 3
    for name in ("accuracy", "f1", "mcc", "auroc"):
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
    turned = {name for name, metric in METRICS.items() if not metric.known.greater_is_better}
    assert turned == {"log_loss", "ece", "mae", "hamming_loss"}


def test_foreign_predictions_are_wrong_ones():
    labels, first, second = two_models(np.random.default_rng(8), 400, np.full(3, 1 / 3))
    foreign = np.where(np.arange(400) < 40, -1, second)
    for name in ("f1", "mcc", "recall"):
        found = compare(name, labels, answers(first, 3), Answers(foreign, answers(second, 3).probabilities), 0.05)
        assert 0 < found.low < found.estimate < found.high


@pytest.mark.parametrize("name", names_of("classification"))
def test_many_rows(name):
    """200,000 rows; the bounds lie close around the estimate, and the method says how they were found."""
    labels, (one, two) = scored_models(7, 200_000, 2)
    interval = compare(name, labels, one, two, 0.05)
    assert interval.n == 200_000
    assert interval.low < interval.estimate < interval.high
    assert interval.high - interval.low < 0.02
    found = score(name, labels, one, 0.05)
    assert (found.low or 0.0) < (found.value or 0.0) < (found.high or 0.0)
    if name in ("auroc", "ece"):
        assert "its limit" in interval.method
        assert "its limit" in (found.method or "")
    if name in PAIRED:
        assert "2000 resamples" in interval.method


def test_what_a_model_remembers_is_of_the_same_labels():
    labels, (one, two) = scored_models(11, 300, 3)
    other = (labels + 1) % 3
    before = compare("auroc", labels, one, two, 0.05), compare("log_loss", labels, one, two, 0.05)
    assert compare("auroc", other, one, two, 0.05) != before[0]
    assert compare("auroc", labels, one, two, 0.05) == before[0]
    assert compare("log_loss", labels, one, two, 0.05) == before[1]
