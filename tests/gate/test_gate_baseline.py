"""The sanity baseline in the receipt: shown always, not to be worse than unless the gate says otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from retrainer.gate.decide import decide
from retrainer.gate.receipt import ReasonCode
from retrainer.spec.gate import AgainstChampion, Gate


def test_the_baseline_stands_in_the_receipt_but_not_among_the_models(make):
    receipt = decide(Gate(), make.pair(2000, better=30, worse=10, baseline_wrong=400))
    assert receipt.promoted
    assert receipt.baseline is not None
    assert receipt.baseline_comparison is not None
    assert receipt.baseline["accuracy"].value == 0.8
    assert receipt.baseline_comparison.estimate > 0
    assert set(receipt.metrics) == {"fp32", "champion"}
    assert receipt.predictions["baseline"].endswith("baseline")


def test_a_challenger_that_does_not_beat_it_is_noted(make):
    receipt = decide(Gate(baseline="report"), make.pair(2000, better=30, worse=10, both_wrong=50, baseline_wrong=0))
    assert receipt.promoted
    assert any("no better than a baseline" in note for note in receipt.notes)


@pytest.mark.parametrize(("rows", "wrong", "promoted"), [(2000, 400, True), (2000, 55, True), (2000, 0, False)])
def test_by_default_it_must_not_be_shown_to_be_worse(make, rows, wrong, promoted):
    """A difference that chance explains is a note; one that it does not explain refuses, with the interval."""
    receipt = decide(Gate(), make.pair(rows, better=30, worse=10, both_wrong=50, baseline_wrong=wrong))
    assert receipt.promoted is promoted
    if promoted:
        assert any("no better than a baseline" in note for note in receipt.notes) is (wrong < 60)
    else:
        (reason,) = receipt.reasons
        assert reason.code is ReasonCode.WORSE_THAN_BASELINE
        assert receipt.baseline_comparison is not None
        assert receipt.baseline_comparison.range in reason.detail


@pytest.mark.parametrize("baseline", ["not_worse", "report"])
def test_what_could_not_be_compared_is_noted(make, baseline, monkeypatch):
    def undefined(*_):
        raise ValueError("undefined on every resample")

    monkeypatch.setattr("retrainer.gate.baseline.compare", undefined)
    receipt = decide(Gate(baseline=baseline), make.pair(2000, better=30, worse=10, baseline_wrong=400))
    assert receipt.promoted
    assert "not compared with the baseline: undefined on every resample" in receipt.notes


def test_the_first_model_of_a_channel_is_held_against_it_too(make):
    evidence = make.pair(2000, both_wrong=200, baseline_wrong=50)
    first = make(
        evidence.tables["fp32"].labels,
        {name: evidence.tables[name].predictions for name in ("fp32", "baseline")},
    )
    assert first.record.champion_state == "none"
    assert [reason.code for reason in decide(Gate(), first).reasons] == [ReasonCode.WORSE_THAN_BASELINE]


def test_chance_refuses_an_equal_challenger_no_more_often_than_alpha_says(make):
    refused = 0
    for seed in range(200):
        chance = np.random.default_rng(seed)
        labels = chance.integers(0, 2, 400)
        said = {name: np.where(chance.random(400) < 0.8, labels, 1 - labels) for name in ("fp32", "baseline")}
        refused += not decide(Gate(), make(labels, said)).promoted
    assert refused <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize(("wrong", "promoted"), [(400, True), (60, False), (0, False)])
def test_as_a_floor_it_must_be_beaten(make, wrong, promoted):
    policy = Gate(baseline="floor")
    receipt = decide(policy, make.pair(2000, better=30, worse=10, both_wrong=50, baseline_wrong=wrong))
    assert receipt.promoted is promoted
    assert promoted or [reason.code for reason in receipt.reasons] == [ReasonCode.BASELINE_NOT_BEATEN]


def test_a_confident_floor_wants_more_than_luck(make):
    evidence = make.pair(2000, better=30, worse=10, both_wrong=50, baseline_wrong=64)
    assert decide(Gate(baseline="floor"), evidence).promoted
    refused = decide(Gate(baseline="floor", confident=True), evidence)
    assert [reason.code for reason in refused.reasons] == [ReasonCode.BASELINE_NOT_BEATEN]


def test_it_is_compared_by_the_metric_of_the_gate(make):
    policy = Gate(against_champion=AgainstChampion(metric="f1"))
    receipt = decide(policy, make.pair(2000, better=30, worse=10, baseline_wrong=400))
    assert receipt.baseline_comparison is not None
    assert receipt.baseline_comparison.metric == "f1"


def test_why_there_is_none_is_noted(make):
    receipt = decide(Gate(), make.pair(2000, better=30, worse=10, baseline_error="the texts hold no words"))
    assert receipt.promoted
    assert receipt.baseline is None
    assert any("the texts hold no words" in note for note in receipt.notes)
