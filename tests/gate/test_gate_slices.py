"""Slices: groups that got worse refuse and are named; chance, small groups and small losses do not."""

from __future__ import annotations

import numpy as np
import pytest

from retrainer.gate.answers import Answers
from retrainer.gate.decide import decide
from retrainer.gate.receipt import ReasonCode
from retrainer.gate.slices import judge_slices
from retrainer.gate.validity import Rows
from retrainer.spec.gate import AgainstChampion, Gate, Slices


def simulated(random: np.random.Generator, *, groups: int, rows: int, loss_in_first: float = 0.0, gain: float = 0.0):
    """``groups`` slices of so many rows; 8 % of them discordant, equally often either way but for the shifts."""
    n = groups * rows
    labels = np.arange(n) % 2
    slices = np.repeat([f"group {index:02d}" for index in range(groups)], rows)
    draw = random.random(n)
    better, worse = np.full(n, 0.04 + gain), np.full(n, 0.04)
    worse[:rows] += loss_in_first
    wrong = 1 - labels
    champion = np.where(draw < better, wrong, labels)
    challenger = np.where((draw >= better) & (draw < better + worse), wrong, labels)
    return labels, slices, challenger, champion


def results(labels, slices, challenger, champion, policy: Slices):
    rows = Rows(labels, {"fp32": Answers(challenger, np.empty((0, 2)))}, None, {"group": slices})
    return judge_slices(policy, rows, ("no", "yes"), Answers(champion, np.empty((0, 2))), 0.05)


def test_twenty_equal_slices_seldom_refuse():
    random = np.random.default_rng(1)
    policy = Slices(by=("group",), max_drop=0.0)
    refused = 0
    for _ in range(400):
        labels, slices, challenger, champion = simulated(random, groups=20, rows=300)
        refused += bool(results(labels, slices, challenger, champion, policy)[1])
    assert refused / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_one_slice_that_lost_ten_points_is_found_and_named_while_the_whole_gained():
    random = np.random.default_rng(2)
    found = 0
    for _ in range(50):
        labels, slices, challenger, champion = simulated(random, groups=20, rows=300, loss_in_first=0.115, gain=0.015)
        assert (challenger == labels).mean() > (champion == labels).mean()
        _, reasons = results(labels, slices, challenger, champion, Slices(by=("group",), max_drop=0.03))
        found += any(reason.detail.startswith("group = group 00:") for reason in reasons)
    assert found >= 40  # Holm over 20 slices leaves a power of about 90 %


def test_a_slice_that_got_worse_refuses_the_whole(make):
    n = 2000
    labels = np.arange(n) % 2
    region = np.where(np.arange(n) < 300, "north", "south")
    challenger, champion = labels.copy(), labels.copy()
    challenger[:60] = 1 - labels[:60]
    champion[400:600] = 1 - labels[400:600]
    evidence = make(labels, {"fp32": challenger, "champion": champion}, slices={"region": region})
    policy = Gate(against_champion=AgainstChampion(mode="superiority"), slices=Slices(by=("region", "label")))
    receipt = decide(policy, evidence)
    assert [reason.code for reason in receipt.reasons] == [ReasonCode.SLICE_WORSE]
    assert receipt.reasons[0].detail.startswith(
        "region = north: accuracy 0.8000 is 0.2000 below the champion's 1.0000 on 300 rows"
    )
    by_value = {(result.by, result.value): result for result in receipt.slices}
    assert len(by_value) == 4
    assert by_value["region", "north"].status == "worse"
    assert by_value["region", "north"].difference == -0.2
    assert by_value["region", "south"].status == "ok"


def test_a_certain_loss_within_the_tolerance_does_not_refuse():
    n = 4000
    labels = np.arange(n) % 2
    challenger = labels.copy()
    challenger[:100] = 1 - labels[:100]
    slices = np.full(n, "all")
    kept, reasons = results(labels, slices, challenger, labels, Slices(by=("group",), max_drop=0.03))
    assert reasons == []
    assert kept[0].holm is not None
    assert kept[0].holm < 1e-6
    assert results(labels, slices, challenger, labels, Slices(by=("group",), max_drop=0.02))[1]


def test_a_large_loss_that_may_be_chance_does_not_refuse():
    labels = np.arange(60) % 2
    challenger = labels.copy()
    challenger[:4] = 1 - labels[:4]
    kept, reasons = results(
        labels, np.repeat(["a", "b", "c"], 20), challenger, labels, Slices(by=("group",), min_rows=20)
    )
    assert reasons == []
    assert kept[0].difference == -0.2


def test_small_groups_are_insufficient_and_not_corrected_for(make):
    n = 1000
    labels = np.arange(n) % 3
    region = np.where(np.arange(n) < 49, "tiny", "rest")
    evidence = make(labels, {"fp32": labels, "champion": labels}, slices={"region": region})
    receipt = decide(Gate(slices=Slices(by=("region",))), evidence)
    tiny = next(result for result in receipt.slices if result.value == "tiny")
    assert (tiny.status, tiny.rows, tiny.p_value) == ("insufficient", 49, None)
    assert "1 slice has fewer than 50 rows: insufficient" in receipt.notes


def test_a_label_without_rows_is_an_empty_slice(make):
    labels = np.arange(1000) % 2
    evidence = make(labels, {"fp32": labels, "champion": labels}, names=("a", "b", "c"))
    receipt = decide(Gate(slices=Slices(by=("label",))), evidence)
    assert [reason.code for reason in receipt.reasons] == [ReasonCode.SLICE_EMPTY]
    assert "label = c" in receipt.reasons[0].detail


@pytest.mark.parametrize(
    ("characters", "expected"),
    [
        (np.arange(1000), ["0-249", "250-499", "500-749", "750-999"]),
        (np.full(1000, 7), ["7-7"]),
        (np.where(np.arange(1000) < 900, 5, 80), ["5-5", "6-80"]),
    ],
)
def test_lengths_are_cut_into_quarters(make, characters, expected):
    labels = np.arange(1000) % 2
    evidence = make(labels, {"fp32": labels, "champion": labels}, characters=characters)
    receipt = decide(Gate(slices=Slices(by=("length",))), evidence)
    assert [result.value.removesuffix(" characters") for result in receipt.slices] == expected
    assert sum(result.rows for result in receipt.slices) == 1000


def test_missing_values_are_a_group_of_their_own(make):
    labels = np.arange(1000) % 2
    region = np.where(np.arange(1000) < 100, "", "north")
    evidence = make(labels, {"fp32": labels, "champion": labels}, slices={"region": region})
    receipt = decide(Gate(slices=Slices(by=("region",))), evidence)
    assert [(result.value, result.rows) for result in receipt.slices] == [("(missing)", 100), ("north", 900)]


def test_slices_are_skipped_for_the_first_model(make):
    labels = np.arange(300) % 2
    receipt = decide(Gate(slices=Slices(by=("label",))), make(labels, {"fp32": labels}))
    assert receipt.promoted
    assert receipt.slices == ()
    assert any(note.startswith("slices skipped") for note in receipt.notes)


def test_rows_in_which_a_pattern_is_found_are_a_slice(make):
    n = 2000
    labels = np.arange(n) % 2
    mentioned = np.arange(n) < 300
    challenger, champion = labels.copy(), labels.copy()
    challenger[:40] = 1 - labels[:40]  # all of the loss lies where the pattern is found
    champion[300:360] = 1 - labels[300:360]
    policy = Gate(slices=Slices(patterns=("(?i)refund", "rare"), max_drop=0.05))
    evidence = make(
        labels,
        {"fp32": challenger, "champion": champion},
        patterns={"(?i)refund": mentioned, "rare": np.arange(n) < 3},
    )
    receipt = decide(policy, evidence)
    assert [reason.code for reason in receipt.reasons] == [ReasonCode.SLICE_WORSE]
    assert receipt.reasons[0].detail.startswith("pattern = (?i)refund: ")
    assert [(one.by, one.value, one.rows, one.status) for one in receipt.slices] == [
        ("pattern", "(?i)refund", 300, "worse"),
        ("pattern", "rare", 3, "insufficient"),
    ]
