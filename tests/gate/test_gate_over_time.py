"""A decision among many: at the level that is left, against the anchor, and what it says when too little is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.gate_over_time import Counts, verdicts
from retrainer.artifacts.evaluation import ANCHOR, ChampionEvidence, EvaluationRecord
from retrainer.artifacts.standing import Standing
from retrainer.errors import GateError
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence
from retrainer.gate.receipt import ReasonCode, Receipt
from retrainer.gate.tables import Table
from retrainer.gate.verify import receipt_bytes, verify
from retrainer.spec.gate import AgainstChampion, Anchor, Gate, OverTime, Slices

CHAMPION_VERSION, ANCHOR_VERSION = "0123456789abcdef", "a" * 16
SUPERIORITY = Gate(against_champion=AgainstChampion(mode="superiority"))
FIRST = Standing(anchor=CHAMPION_VERSION)
LATE = Standing(decisions=100, wear=100, row_looks=100, row_decisions=100, anchor=CHAMPION_VERSION)


def codes(receipt: Receipt) -> list[str]:
    return [reason.code.value for reason in receipt.reasons]


def with_anchor(
    evidence: Evidence, better: int, worse: int, standing: Standing | None = None, **changes: Any
) -> Evidence:
    """An anchor on whose rows the challenger wins ``better`` and loses ``worse``, besides what both get wrong."""
    challenger = evidence.tables["fp32"]
    right = np.flatnonzero(challenger.predictions == challenger.labels)
    wrong = np.flatnonzero(challenger.predictions != challenger.labels)
    assert wrong.size >= worse
    predictions = challenger.predictions.copy()
    predictions[right[:better]] = (challenger.labels[right[:better]] + 1) % challenger.scores.shape[1]
    predictions[wrong[:worse]] = challenger.labels[wrong[:worse]]
    scores = np.full(challenger.scores.shape, 0.05)
    scores[np.arange(predictions.size), predictions] = 0.9
    champion = evidence.record.champion
    assert champion is not None
    content = {
        **champion.model_dump(),
        "version": ANCHOR_VERSION,
        "metrics": {"accuracy": float((predictions == challenger.labels).mean())},
        **changes,
    }
    table = Table(challenger.row_ids, challenger.labels, predictions, scores, sha256=f"{ANCHOR:0>64}")
    record = evidence.record.model_copy(update={"anchor": ChampionEvidence(**content)})
    return replace(
        evidence,
        record=EvaluationRecord.model_validate(record.model_dump()),
        tables={**evidence.tables, ANCHOR: table},
        standing=standing or Standing(anchor=ANCHOR_VERSION),
    )


# --- the level ---------------------------------------------------------------------------------------------


def test_without_a_count_of_earlier_decisions_it_is_judged_as_the_only_one_and_says_so(make):
    receipt = decide(Gate(), make.pair(2000, better=20, worse=10))
    assert receipt.promoted
    assert (receipt.spending, receipt.single, receipt.anchor, receipt.anchor_moves) == (None, None, None, False)
    assert any("earlier decisions were not counted" in note for note in receipt.notes)


def test_what_is_enough_at_first_is_not_after_a_hundred_decisions_and_then_the_test_set_is_worn(make):
    evidence = make.pair(2000, better=55, worse=25)
    first = decide(SUPERIORITY, replace(evidence, standing=FIRST))
    late = decide(SUPERIORITY, replace(evidence, standing=LATE))
    assert first.promoted
    assert codes(late) == ["worn_test_set"]
    (reason,) = late.reasons
    assert "this is decision 101 of 365 of the channel, and 100 looks were taken at these rows before" in reason.detail
    assert late.rows_needed is not None
    assert f"About {late.rows_needed:,} rows would be needed to tell" in reason.detail


def test_what_would_not_have_been_enough_at_first_is_too_few_rows(make):
    assert codes(decide(SUPERIORITY, replace(make.pair(2000, better=40, worse=33), standing=LATE))) == [
        "insufficient_rows"
    ]


def test_rows_that_are_used_up_show_nothing_and_still_tell_what_is_worse(make):
    used = LATE.model_copy(update={"wear": 365.0})
    good = decide(Gate(), replace(make.pair(2000, better=300), standing=used))
    bad = decide(Gate(), replace(make.pair(2000, worse=300), standing=used))
    assert codes(good) == ["worn_test_set"]
    assert "nothing is left for one more" in good.reasons[0].detail
    assert good.rows_needed is not None
    assert codes(bad) == ["worse_than_champion"]


def test_the_rows_that_are_needed_would_do(make):
    """New rows are also looked at by nobody: with as many as are said, at the level they would have, it is shown."""
    worn = decide(SUPERIORITY, replace(make.pair(2000, better=55, worse=25), standing=LATE))
    assert worn.rows_needed is not None
    times = worn.rows_needed / 2000
    eased = LATE.model_copy(update={"wear": LATE.wear / times})
    more = make.pair(worn.rows_needed, better=round(55 * times), worse=round(25 * times))
    assert decide(SUPERIORITY, replace(more, standing=eased)).promoted


def test_when_the_rows_that_are_needed_arrive(make):
    arriving = LATE.model_copy(update={"rows_per_day": 20.0})
    receipt = decide(SUPERIORITY, replace(make.pair(2000, better=55, worse=25), standing=arriving))
    assert receipt.rows_needed is not None
    days = -(-(receipt.rows_needed - 2000) // 20)
    assert f"at 20 new ones a day they are there in about {days:,} days" in receipt.reasons[0].detail


def test_the_receipt_shows_the_interval_of_the_decision_and_that_of_a_single_one(make):
    receipt = decide(Gate(), replace(make.pair(2000, better=55, worse=25), standing=LATE))
    assert receipt.comparison is not None
    assert receipt.single is not None
    assert receipt.spending is not None
    assert receipt.comparison.confidence == pytest.approx(1 - 2 * receipt.spending.level)
    assert receipt.single.confidence == 0.9
    assert receipt.comparison.low < receipt.single.low
    assert (
        receipt.metrics["fp32"]["accuracy"]
        == decide(Gate(), make.pair(2000, better=55, worse=25)).metrics["fp32"]["accuracy"]
    )


def test_the_best_of_several_looks_has_to_be_surer(make):
    evidence = make.pair(2000, better=60, worse=32)
    assert decide(SUPERIORITY, replace(evidence, standing=FIRST)).promoted
    best_of_five = FIRST.model_copy(update={"looks": 5, "wear": 4.0})
    assert codes(decide(SUPERIORITY, replace(evidence, standing=best_of_five))) == ["worn_test_set"]


def test_control_none_is_as_without_a_count(make):
    policy = SUPERIORITY.model_copy(update={"over_time": OverTime(control="none")})
    evidence = make.pair(2000, better=50, worse=32)
    plain = decide(policy, evidence)
    assert plain.promoted
    assert decide(policy, replace(evidence, standing=LATE)).comparison == plain.comparison


@pytest.mark.parametrize("alpha", [0.5, float("nan")])
def test_an_alpha_that_cannot_be_applied_is_an_error(make, alpha):
    policy = Gate().model_copy(update={"over_time": OverTime.model_construct(alpha=alpha)})
    with pytest.raises(GateError, match=r"alpha|number"):
        decide(policy, make.pair(100))


# --- the anchor --------------------------------------------------------------------------------------------


def test_as_good_as_the_champion_is_refused_where_the_anchor_was_better(make):
    """Small losses add up: not worse than what is live, which is itself worse than the anchor."""
    receipt = decide(Gate(), with_anchor(make.pair(10_000, better=20, worse=20, both_wrong=800), 20, 200))
    assert codes(receipt) == ["worse_than_anchor"]
    assert receipt.anchor is not None
    assert (receipt.anchor.held, receipt.anchor.waived, receipt.anchor_moves) == (False, False, False)
    assert receipt.metrics["anchor"]["accuracy"].value is not None


def test_within_the_loss_allowed_it_is_promoted_and_the_anchor_stays(make):
    receipt = decide(Gate(), with_anchor(make.pair(10_000, better=20, worse=20, both_wrong=800), 30, 40))
    assert receipt.promoted
    assert receipt.anchor is not None
    assert (receipt.anchor.held, receipt.anchor.better, receipt.anchor_moves) == (True, False, False)


def test_the_anchor_moves_to_what_is_shown_to_be_better(make):
    receipt = decide(Gate(), with_anchor(make.pair(10_000, better=20, worse=20, both_wrong=800), 200, 40))
    assert receipt.promoted
    assert receipt.anchor_moves


def test_it_does_not_move_to_what_is_refused(make):
    policy = Gate(floors={"accuracy": 0.99})
    receipt = decide(policy, with_anchor(make.pair(10_000, better=20, worse=20, both_wrong=800), 200, 40))
    assert receipt.anchor is not None
    assert (receipt.promoted, receipt.anchor.better, receipt.anchor_moves) == (False, True, False)


@pytest.mark.parametrize("mode", ["superiority", "non_inferiority"])
def test_what_is_better_than_the_champion_is_never_blocked_by_the_anchor(make, mode):
    policy = Gate(against_champion=AgainstChampion(mode=mode))
    receipt = decide(policy, with_anchor(make.pair(2000, better=150, worse=20, both_wrong=400), 20, 200))
    assert receipt.promoted
    assert receipt.anchor is not None
    assert (receipt.anchor.held, receipt.anchor.waived) == (False, True)
    assert any("does not block" in note for note in receipt.notes)


def test_where_the_champion_is_the_anchor_there_is_one_comparison_at_the_whole_level(make):
    receipt = decide(Gate(), replace(make.pair(2000, better=150, worse=20), standing=FIRST))
    assert receipt.anchor is not None
    assert receipt.spending is not None
    assert receipt.anchor.is_champion
    assert receipt.anchor.comparison == receipt.comparison
    assert receipt.anchor.level == receipt.spending.level
    assert receipt.anchor_moves


def test_where_the_champion_is_the_anchor_a_reason_is_given_once(make):
    receipt = decide(Gate(), replace(make.pair(2000, better=10, worse=100), standing=FIRST))
    assert codes(receipt) == ["worse_than_champion"]


def test_a_smaller_loss_may_be_allowed_against_the_anchor_than_against_the_champion(make):
    policy = Gate(against_champion=AgainstChampion(margin=0.05), anchor=Anchor(max_loss=0.001))
    receipt = decide(policy, replace(make.pair(2000, better=20, worse=22), standing=FIRST))
    assert codes(receipt) == ["insufficient_rows"]
    assert "from that of the anchor" in receipt.reasons[0].detail


OTHER = Standing(anchor=ANCHOR_VERSION)


@pytest.mark.parametrize(
    ("standing", "changes", "words"),
    [
        (OTHER.model_copy(update={"anchor_error": "its bundle was deleted"}), {}, "its bundle was deleted"),
        (OTHER.model_copy(update={"anchor": "b" * 16}), {}, "evaluate again"),
        (OTHER, {"labels": ("label 0", "label 1", "other")}, "knows other labels"),
    ],
)
def test_an_anchor_that_cannot_be_asked_refuses_what_is_only_not_worse(make, standing, changes, words):
    not_worse = with_anchor(make.pair(10_000, better=20, worse=20), 0, 0, standing, **changes)
    receipt = decide(Gate(), not_worse)
    assert codes(receipt) == ["anchor_unavailable"]
    assert words in receipt.reasons[0].detail
    better = with_anchor(make.pair(2000, better=150, worse=20), 0, 0, standing, **changes)
    assert decide(Gate(), better).promoted


def test_for_superiority_the_anchor_adds_no_reason(make):
    evidence = with_anchor(make.pair(2000, better=20, worse=20, both_wrong=400), 20, 200)
    assert codes(decide(SUPERIORITY, evidence)) == ["not_better"]
    assert codes(decide(SUPERIORITY, replace(evidence, standing=OTHER.model_copy(update={"anchor": "b" * 16})))) == [
        "not_better"
    ]


def test_an_anchor_that_was_not_scored_refuses(make):
    receipt = decide(Gate(), replace(make.pair(10_000, better=20, worse=20), standing=OTHER))
    assert codes(receipt) == ["anchor_unavailable"]


def test_without_an_anchor_in_the_policy_or_the_channel_nothing_is_compared_with_one(make):
    evidence = make.pair(10_000, better=20, worse=20)
    assert decide(Gate(anchor=None), replace(evidence, standing=OTHER)).promoted
    none_yet = decide(Gate(), replace(evidence, standing=Standing()))
    assert none_yet.promoted
    assert any("no anchor" in note or "an anchor" in note for note in none_yet.notes)


# --- flips -------------------------------------------------------------------------------------------------


def test_flips_are_counted_and_named_the_surest_first(make):
    evidence = make.pair(1000, better=7, worse=5)
    flips = decide(Gate(), evidence).flips
    assert flips is not None
    assert (flips.harmful, flips.helpful, flips.n, flips.met) == (5, 7, 1000, True)
    table, champion = evidence.tables["fp32"], evidence.tables["champion"]
    flipped = (champion.predictions == champion.labels) & (table.predictions != table.labels)
    assert set(flips.rows) == set(table.row_ids[flipped].tolist())
    scores = table.scores.copy()
    last = np.flatnonzero(flipped)[-1]
    scores[last, table.predictions[last]] = 0.9008
    surer = replace(evidence, tables={**evidence.tables, "fp32": replace(table, scores=scores)})
    found = decide(Gate(), surer).flips
    assert found is not None
    assert found.rows[0] == table.row_ids[last]


def test_too_many_harmful_flips_refuse_what_is_as_good(make):
    evidence = make.pair(2000, better=30, worse=25)
    assert codes(decide(Gate(max_harmful_flips=0.0125), evidence)) == []
    assert codes(decide(Gate(max_harmful_flips=0.012), evidence)) == ["harmful_flips"]


def test_with_confident_the_upper_bound_counts(make):
    evidence = make.pair(2000, better=30, worse=25)
    receipt = decide(Gate(max_harmful_flips=0.015, confident=True), evidence)
    assert codes(receipt) == ["harmful_flips"]
    assert receipt.flips is not None
    assert receipt.flips.judged == receipt.flips.high
    assert decide(Gate(max_harmful_flips=0.02, confident=True), evidence).promoted


def test_a_slice_refuses_when_it_is_shown_to_have_too_many(make):
    evidence = make.pair(2000, better=60, worse=40)
    table = evidence.tables["fp32"]
    flipped = (evidence.tables["champion"].predictions == table.labels) & (table.predictions != table.labels)
    group = np.where(flipped | (np.arange(2000) < 100), "few", "many")
    tables = {name: replace(one, slices={"group": group}) for name, one in evidence.tables.items()}
    policy = Gate(max_harmful_flips=0.03, slices=Slices(by=("group",), max_drop=0.9))
    receipt = decide(policy, replace(evidence, tables=tables))
    assert codes(receipt) == ["harmful_flips"]
    assert "group = few" in receipt.reasons[0].detail
    assert receipt.flips is not None
    assert [one.above for one in receipt.flips.slices] == [True, False]


def test_the_first_model_has_nothing_to_flip(make):
    labels = np.arange(100) % 3
    receipt = decide(Gate(max_harmful_flips=0.01, floors={"accuracy": 0.5}), make(labels, {"fp32": labels}))
    assert receipt.promoted
    assert receipt.flips is None
    assert any("max_harmful_flips skipped" in note for note in receipt.notes)


# --- receipts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["familywise", "fdr", "none"])
@pytest.mark.parametrize("anchored", [True, False])
def test_the_same_evidence_gives_the_same_bytes_also_with_the_count_that_the_receipt_holds(make, control, anchored):
    policy = Gate(over_time=OverTime(control=control), max_harmful_flips=0.05)
    evidence = replace(make.pair(2000, better=60, worse=20, both_wrong=300), standing=LATE)
    if anchored:
        evidence = with_anchor(evidence, 30, 20, LATE.model_copy(update={"anchor": ANCHOR_VERSION}))
    data = receipt_bytes(decide(policy, evidence))
    assert verify(data, evidence).identical
    assert verify(data, replace(evidence, standing=None)).identical


def test_another_count_than_the_one_in_the_receipt_is_named(make):
    evidence = replace(make.pair(2000, better=60, worse=20), standing=LATE)
    data = receipt_bytes(decide(Gate(), evidence))
    again = verify(data, replace(evidence, standing=FIRST))
    assert {"standing.decisions", "spending.level"} <= {at.path for at in again.differences}


# --- what the benchmark runs is what decides ---------------------------------------------------------------


@pytest.mark.parametrize("mode", ["superiority", "non_inferiority"])
@pytest.mark.parametrize("control", ["familywise", "fdr", "none"])
def test_the_decisions_of_the_simulations_are_those_of_the_gate(make, mode, control):
    random = np.random.default_rng(3)
    policy = Gate(against_champion=AgainstChampion(mode=mode, margin=0.03), over_time=OverTime(control=control))
    promoted = []
    for _ in range(25):
        better, worse = random.integers(0, 80, 2).tolist()
        over, under = random.integers(0, 80, 2).tolist()
        counts = {"decisions": int(random.integers(0, 400)), "promotions": int(random.integers(0, 5))}
        one = bool(random.integers(0, 2))
        standing = Standing(**counts, wear=counts["decisions"], anchor=CHAMPION_VERSION if one else ANCHOR_VERSION)
        evidence = replace(make.pair(2000, better=better, worse=worse, both_wrong=300), standing=standing)
        if not one:
            evidence = with_anchor(evidence, over, under, standing)
        receipt = decide(policy, evidence)
        said, moved = verdicts(
            policy,
            standing,
            np.array([standing.promotions]),
            np.array([one]),
            Counts(np.array([better]), np.array([worse])),
            Counts(np.array([over]), np.array([under])),
            2000,
        )
        assert (receipt.promoted, receipt.anchor_moves) == (said[0], moved[0])
        promoted.append(receipt.promoted)
    assert len(set(promoted)) == 2


def test_every_new_reason_is_known():
    assert {"worn_test_set", "worse_than_anchor", "anchor_unavailable", "harmful_flips"} <= set(map(str, ReasonCode))
