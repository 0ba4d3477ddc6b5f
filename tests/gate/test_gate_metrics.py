"""Metrics: the names, what they compute, and that the form for many matrices computes the same."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from retrainer.gate.answers import Answers, Said, SetAnswers, TextAnswers
from retrainer.gate.confusion import confusion_matrix
from retrainer.gate.metrics import METRICS, compare, score
from retrainer.gate.ranking import placements
from retrainer.spec.known_metrics import KNOWN_METRICS, METRIC_NAMES, SHARE_RIGHT, Family, meant, names_of


def draw(seed: int, n: int, n_labels: int, *, foreign: bool = False):
    random = np.random.default_rng(seed)
    labels = random.integers(0, n_labels, n)
    logits = random.normal(size=(n, n_labels))
    logits[np.arange(n), labels] += 1.0
    probabilities = softmax(logits, axis=1)
    predictions = probabilities.argmax(axis=1)
    if foreign:
        predictions[random.random(n) < 0.1] = -1
    return labels, probabilities, predictions


def test_every_entry_has_its_function_and_its_range():
    """A value, its bounds and a difference of every metric that a pipeline may name are within what the entry says."""
    labels, probabilities, predictions = draw(7, 300, 2)
    one, two = Answers(predictions, probabilities), Answers(1 - labels, probabilities[:, ::-1].copy())
    truth = np.random.default_rng(8).random((300, 3)) < 0.4
    words = np.array(["right", "wrong"], dtype=np.object_)
    better, worse = np.where(predictions == labels, 1.0, 0.3), np.where(predictions == labels, 0.4, 1.0)
    texts = names_of("generation")
    first, second = (TextAnswers(words[labels], dict.fromkeys(texts, scores)) for scores in (better, worse))
    sure, doubting = np.where(truth, 0.9, 0.2), np.where(truth, 0.3, 0.6)
    said: dict[Family, tuple[Said, Said]] = {
        "classification": (one, two),
        "multi_label": (SetAnswers.of(truth, sure, 0.5), SetAnswers.of(truth, doubting, 0.5)),
        "generation": (first, second),
    }
    assert tuple(METRICS) == METRIC_NAMES
    for name, family in [(known.name, family) for known in KNOWN_METRICS.values() for family in known.families]:
        known = KNOWN_METRICS[name]
        for answers in said[family]:
            found = score(name, labels, answers, 0.05)
            assert found.value is not None
            assert found.low is not None
            assert found.high is not None
            assert known.lowest <= found.low <= found.value <= found.high <= known.highest
        # The first is right more often, and is turned to be the better one.
        assert compare(name, labels, *said[family], 0.05).low > 0


def test_no_metric_has_two_names_and_no_two_of_a_family_have_one():
    for family in SHARE_RIGHT:
        known = [KNOWN_METRICS[name] for name in names_of(family)]
        names = [name for one in known for name in (one.name, *one.also_called)]
        assert len(names) == len(set(names))


def test_what_is_called_otherwise_elsewhere_is_meant_as_the_task_has_it():
    assert meant("f1_macro", "classification") == "f1"
    assert meant("macro_f1", "multi_label") == "f1_macro"
    assert meant("accuracy", "multi_label") == "subset_accuracy"
    assert meant("qwk", "classification") == "quadratic_kappa"
    assert meant("nothing") is None


def test_against_scikit_learn():
    labels, probabilities, predictions = draw(1, 400, 4)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "f1": sklearn.metrics.f1_score(labels, predictions, average="macro"),
        "precision": sklearn.metrics.precision_score(labels, predictions, average="macro"),
        "recall": sklearn.metrics.recall_score(labels, predictions, average="macro"),
        "mcc": sklearn.metrics.matthews_corrcoef(labels, predictions),
        "auroc": sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities),
    }
    for name, value in expected.items():
        assert METRICS[name].compute(labels, probabilities, predictions) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("positive", [0, 1])
def test_binary_f1_is_that_of_the_positive_label(positive):
    labels, probabilities, predictions = draw(2, 300, 2)
    value = METRICS["f1_binary"].compute(labels, probabilities, predictions, positive=positive)
    assert value == pytest.approx(sklearn.metrics.f1_score(labels, predictions, pos_label=positive))
    answers = Answers(predictions, probabilities, positive)
    scored = score("f1_binary", labels, answers, 0.05)
    assert scored.low is not None
    assert scored.high is not None
    assert scored.low < value < scored.high
    assert compare("f1_binary", labels, answers, answers, 0.05).estimate == 0


def test_binary_f1_has_no_value_where_there_are_more_labels():
    assert math.isnan(METRICS["f1_binary"].compute(*draw(2, 300, 3)))


def test_calibration_error_by_hand():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.4, 0.6]])
    predictions = probabilities.argmax(axis=1)
    # One bin for 0.9 (both right), one each for 0.7 (wrong) and 0.6 (right).
    assert METRICS["ece"].compute(labels, probabilities, predictions) == pytest.approx((0.2 + 0.7 + 0.4) / 4)


def test_labels_that_no_row_has_do_not_count():
    labels = np.array([0, 0, 1, 1])
    probabilities = np.full((4, 3), 1 / 3)
    predictions = np.array([0, 0, 1, 2])
    f1 = METRICS["f1"].compute(labels, probabilities, predictions)
    assert f1 == pytest.approx((1.0 + 2 / 3) / 2)
    assert math.isfinite(METRICS["auroc"].compute(labels, probabilities, predictions))


@pytest.mark.parametrize("name", names_of("classification"))
def test_no_rows_have_no_value(name):
    empty = np.empty(0, dtype=np.int64)
    assert math.isnan(METRICS[name].compute(empty, np.empty((0, 2)), empty))


@pytest.mark.parametrize("name", ["mcc", "auroc"])
def test_a_single_label_leaves_some_metrics_undefined(name):
    labels = np.zeros(5, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(METRICS[name].compute(labels, np.full((5, 2), 0.5), labels))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.from_confusion])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), n_labels=st.integers(2, 5), foreign=st.booleans())
def test_many_matrices_give_what_rows_give(name, seed, n, n_labels, foreign):
    labels, probabilities, predictions = draw(seed, n, n_labels, foreign=foreign)
    metric = METRICS[name]
    assert metric.from_confusion is not None
    matrix = confusion_matrix(labels, predictions, n_labels)
    with warnings.catch_warnings():
        # scikit-learn remarks on a prediction of -1, which no row has as its label.
        warnings.simplefilter("ignore", UserWarning)
        by_rows = metric.compute(labels, probabilities, predictions)
    by_matrix = metric.from_confusion(np.stack([matrix, 3 * matrix]))
    np.testing.assert_allclose(by_matrix, [by_rows, by_rows], atol=1e-12)


SCIKIT_LEARN: dict[str, Callable[..., float]] = {
    "accuracy": sklearn.metrics.accuracy_score,
    "mcc": sklearn.metrics.matthews_corrcoef,
    **{
        name: partial(getattr(sklearn.metrics, f"{name}_score"), average="macro", zero_division=0.0)
        for name in ("f1", "precision", "recall")
    },
}


@pytest.mark.parametrize("name", SCIKIT_LEARN)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), n_labels=st.integers(2, 5), foreign=st.booleans())
def test_metrics_of_the_confusion_matrix_are_scikit_learns(name, seed, n, n_labels, foreign):
    labels, probabilities, predictions = draw(seed, n, n_labels, foreign=foreign)
    function = SCIKIT_LEARN[name]
    if name in ("f1", "precision", "recall"):
        function = partial(function, labels=np.unique(labels))
    with warnings.catch_warnings():
        # scikit-learn remarks on a prediction of -1, which no row has as its label.
        warnings.simplefilter("ignore", UserWarning)
        expected = function(labels, predictions)
    found = METRICS[name].compute(labels, probabilities, predictions)
    if name == "mcc" and np.unique(labels).size == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(expected, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), n_labels=st.integers(2, 5))
def test_metrics_of_labels_in_their_order_are_scikit_learns(seed, n, n_labels):
    labels, probabilities, predictions = draw(seed, n, n_labels)
    found = {name: METRICS[name].compute(labels, probabilities, predictions) for name in ("quadratic_kappa", "mae")}
    assert found["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(labels, predictions))
    if np.unique(np.r_[labels, predictions]).size == 1:
        assert math.isnan(found["quadratic_kappa"])
    else:
        every = np.arange(n_labels)
        expected = sklearn.metrics.cohen_kappa_score(labels, predictions, weights="quadratic", labels=every)
        assert found["quadratic_kappa"] == pytest.approx(expected, abs=1e-12)


def test_a_label_without_a_place_is_as_far_off_as_any():
    labels = np.array([0, 1, 2, 2])
    probabilities = np.full((4, 3), 1 / 3)
    foreign, worst = np.array([-1, 1, 2, 2]), np.array([2, 1, 2, 2])
    for name in ("quadratic_kappa", "mae"):
        assert METRICS[name].compute(labels, probabilities, labels) == (1.0 if name == "quadratic_kappa" else 0.0)
    assert METRICS["mae"].compute(labels, probabilities, foreign) == 0.5
    assert METRICS["mae"].compute(labels, probabilities, worst) == 0.5
    assert METRICS["quadratic_kappa"].compute(labels, probabilities, foreign) < 0.5


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 80), steps=st.sampled_from([1, 3, 10, 10_000]))
def test_placements_are_shares_of_pairs_and_ties_count_half(seed, n, steps):
    random = np.random.default_rng(seed)
    scores = np.floor(random.random(n) * steps) / steps
    positive = random.permutation(np.arange(n) < random.integers(1, n))
    found = placements(positive, scores)
    for row in range(n):
        others = scores[positive != positive[row]]
        above, tied = (others < scores[row]).mean(), (others == scores[row]).mean()
        expected = above + tied / 2 if positive[row] else 1 - above - tied / 2
        assert found[row] == pytest.approx(expected, abs=1e-12)
    area = sklearn.metrics.roc_auc_score(positive, scores)
    assert found[positive].mean() == pytest.approx(area, abs=1e-12)
    assert found[~positive].mean() == pytest.approx(area, abs=1e-12)


def test_auroc_of_many_rows_is_scikit_learns():
    labels, probabilities, predictions = draw(3, 30_000, 3)
    for scores in (probabilities, np.round(probabilities, 2)):
        expected = np.mean([sklearn.metrics.roc_auc_score(labels == label, scores[:, label]) for label in range(3)])
        assert METRICS["auroc"].compute(labels, scores, predictions) == pytest.approx(expected, abs=1e-12)


def test_scores_that_are_no_numbers_have_no_area():
    labels, probabilities, predictions = draw(4, 50, 3)
    probabilities[7, 1] = math.nan
    assert math.isnan(METRICS["auroc"].compute(labels, probabilities, predictions))
