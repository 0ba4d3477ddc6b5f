"""The decision: what promotes, what refuses with which reason, and how often it errs."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import pytest

from retrainer.artifacts.evaluation import ModelEvidence, ParityEvidence, cost_of
from retrainer.artifacts.measures import Latency
from retrainer.errors import GateError
from retrainer.gate.answers import Answers
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence
from retrainer.gate.metrics import compare
from retrainer.gate.paired import tango_interval
from retrainer.gate.receipt import ReasonCode, Receipt
from retrainer.gate.tables import Table
from retrainer.report.decision import explain
from retrainer.spec.budgets import BUDGETS, COSTS, Budget, Budgets, budgets_of
from retrainer.spec.gate import AgainstChampion, Gate

NON_INFERIOR = Gate(against_champion=AgainstChampion(margin=0.02))
SUPERIOR = Gate(against_champion=AgainstChampion(mode="superiority"))


def codes(receipt: Receipt) -> list[ReasonCode]:
    return [reason.code for reason in receipt.reasons]


def with_model(evidence: Evidence, model: str, **changes) -> Evidence:
    record = evidence.record
    if model == "champion":
        assert record.champion is not None
        record = record.model_copy(update={"champion": record.champion.model_copy(update=changes)})
    else:
        models = {**record.challenger, model: record.challenger[model].model_copy(update=changes)}
        record = record.model_copy(update={"challenger": models})
    return dataclasses.replace(evidence, record=record)


# --- against the champion --------------------------------------------------------------------------------------


def test_a_better_challenger_is_promoted(make):
    receipt = decide(SUPERIOR, make.pair(2000, better=100, worse=40))
    assert receipt.promoted
    assert receipt.publishable == ("fp32",)
    assert receipt.champion_version == "0123456789abcdef"
    assert receipt.comparison is not None
    assert receipt.comparison.method == "Tango score interval"
    assert receipt.comparison.estimate == 0.03
    assert receipt.comparison.confidence == 0.9
    assert (receipt.comparison.n, receipt.comparison.disagreements) == (2000, 140)
    assert receipt.threshold == 0.0


def test_an_equal_challenger_is_not_inferior_but_not_superior(make):
    evidence = make.pair(2000, better=40, worse=40)
    assert decide(NON_INFERIOR, evidence).promoted
    assert codes(decide(SUPERIOR, evidence)) == [ReasonCode.NOT_BETTER]


def test_a_worse_challenger_is_refused_as_worse(make):
    receipt = decide(NON_INFERIOR, make.pair(2000, better=20, worse=120))
    assert codes(receipt) == [ReasonCode.WORSE_THAN_CHAMPION]
    assert receipt.publishable == ()
    assert receipt.rows_needed is None


def test_worse_beyond_chance_but_within_the_margin_is_not_inferior(make):
    receipt = decide(Gate(against_champion=AgainstChampion(margin=0.03)), make.pair(10_000, better=50, worse=150))
    assert receipt.promoted
    assert receipt.comparison is not None
    assert receipt.comparison.high < 0


@pytest.mark.parametrize("policy", [NON_INFERIOR, SUPERIOR])
def test_too_few_rows_are_said_to_be_too_few(make, policy):
    receipt = decide(policy, make.pair(200, better=9, worse=7, both_wrong=5))
    assert codes(receipt) == [ReasonCode.INSUFFICIENT_ROWS]
    assert receipt.rows_needed is not None
    assert receipt.rows_needed > 200
    assert f"{receipt.rows_needed:,} rows" in receipt.reasons[0].detail


def test_models_that_agree_on_a_handful_of_rows_are_not_proven_equal(make):
    policy = Gate(against_champion=AgainstChampion(margin=0.5))
    refused = decide(policy, make.pair(18, both_wrong=2))
    assert codes(refused) == [ReasonCode.INSUFFICIENT_ROWS]
    assert refused.rows_needed == 20
    assert decide(policy, make.pair(30, both_wrong=2)).promoted


@pytest.mark.parametrize("metric", ["f1", "mcc", "auroc", "log_loss", "precision", "recall"])
def test_other_metrics_are_compared_by_the_bootstrap(make, metric):
    policy = Gate(against_champion=AgainstChampion(metric=metric, mode="superiority"))
    better = make.pair(1500, better=150, worse=20, measured=(metric,))
    worse = make.pair(1500, better=20, worse=150, measured=(metric,))
    assert decide(policy, better).promoted
    refused = decide(policy, worse)
    assert codes(refused) == [ReasonCode.WORSE_THAN_CHAMPION]
    assert refused.comparison is not None
    assert "paired bootstrap" in refused.comparison.method


def test_the_first_model_needs_its_floors_only(make):
    labels = np.arange(600) % 3
    predictions = np.where(np.arange(600) < 60, (labels + 1) % 3, labels)
    evidence = make(labels, {"fp32": predictions}, measured=("accuracy", "log_loss"))
    receipt = decide(Gate(floors={"accuracy": 0.9, "log_loss": 1.0}), evidence)
    assert receipt.promoted
    assert receipt.champion_version is None
    assert receipt.comparison is None
    assert any("comparison skipped" in note for note in receipt.notes)
    assert codes(decide(Gate(floors={"accuracy": 0.91}), evidence)) == [ReasonCode.FLOOR_MISSED]


def test_a_first_model_without_floors_says_how_little_was_checked(make):
    labels = np.arange(300) % 3
    receipt = decide(Gate(), make(labels, {"fp32": labels}))
    assert receipt.promoted
    assert any("sets no floor" in note for note in receipt.notes)


def test_a_champion_with_another_label_set_is_compared_on_all_rows(make):
    evidence = make.pair(1500, better=0, worse=0)
    table = evidence.tables["champion"]
    foreign = table.predictions.copy()
    foreign[table.labels == 2] = -1
    scores = make.scores(foreign, 3)
    tables = {**evidence.tables, "champion": dataclasses.replace(table, predictions=foreign, scores=scores)}
    changed = with_model(
        dataclasses.replace(evidence, tables=tables),
        "champion",
        labels=("label 0", "label 1", "old"),
        metrics=make.metrics(table.labels, scores, foreign),
    )
    receipt = decide(SUPERIOR, changed)
    assert receipt.promoted
    assert any("knows other labels" in note for note in receipt.notes)


# --- floors ----------------------------------------------------------------------------------------------------


def test_all_reasons_are_collected(make):
    policy = Gate(
        floors={"accuracy": 0.99, "f1": 0.99, "ece": 0.0001},
        against_champion=AgainstChampion(),
        budgets=Budgets(p95_latency_ms=1, size_mb=1, max_latency_ratio=0.5),
    )
    receipt = decide(
        policy,
        make.pair(2000, worse=200, challenger_withdrawn=True, measured=("accuracy", "f1", "ece")),
    )
    assert codes(receipt) == [
        ReasonCode.CHALLENGER_WITHDRAWN,
        *[ReasonCode.FLOOR_MISSED] * 3,
        ReasonCode.WORSE_THAN_CHAMPION,
        *[ReasonCode.BUDGET_EXCEEDED] * 3,
    ]
    assert [floor.met for floor in receipt.floors] == [False, False, False]


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_a_confident_floor_judges_the_bound(make, metric):
    evidence = make.pair(300, both_wrong=30)  # accuracy 0.9
    floor = Gate(floors={metric: 0.89}, against_champion=None)
    assert decide(floor, evidence).promoted
    confident = decide(floor.model_copy(update={"confident": True}), evidence)
    assert codes(confident) == [ReasonCode.FLOOR_NOT_CONFIDENT]
    assert confident.floors[0].judged is not None
    assert confident.floors[0].judged < 0.89 < (confident.floors[0].value or 0)


def test_a_confident_ceiling_judges_the_upper_bound(make):
    evidence = make.pair(300, both_wrong=30, measured=("log_loss",))
    value = evidence.record.challenger["fp32"].metrics["log_loss"]
    policy = Gate(floors={"log_loss": value + 0.001}, against_champion=None, confident=True)
    receipt = decide(policy, evidence)
    assert codes(receipt) == [ReasonCode.FLOOR_NOT_CONFIDENT]
    assert receipt.floors[0].judged is not None
    assert receipt.floors[0].judged > value


# --- what it costs, the export, int8 ---------------------------------------------------------------------------


def test_budgets_that_are_met(make):
    policy = Gate(budgets=Budgets(p95_latency_ms=20, size_mb=90, max_latency_ratio=1.5))
    receipt = decide(policy, make.pair(3000, latency={"fp32": 14.0, "champion": 10.0}))
    assert receipt.promoted
    assert [(budget.budget, budget.measured) for budget in receipt.budgets] == [
        ("p95_latency_ms", 20.0),
        ("size_mb", 90.0),
        ("max_latency_ratio", 1.4),
    ]


@pytest.mark.parametrize("name", BUDGETS)
def test_every_budget_is_judged_by_its_own_cost_the_right_way_round(make, name):
    """A cost that is twice or half as large as the limit: of either, one meets the budget, by its direction."""
    budget = BUDGETS[name]
    evidence = make.pair(600)
    path = budget.cost.split(".")

    def costing(times: float) -> Evidence:
        model = evidence.record.challenger["fp32"].model_dump()
        place = model
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] *= times
        challenger = {"fp32": ModelEvidence.model_validate(model)}
        return Evidence(evidence.record.model_copy(update={"challenger": challenger}), evidence.tables)

    limit = 1.0 if budget.ratio else cost_of(evidence.record.challenger["fp32"], budget.cost) or 0.0
    policy = Gate(budgets=Budgets.model_validate({name: limit}))
    for times in (0.5, 2.0):
        receipt = decide(policy, costing(times))
        (result,) = receipt.budgets
        assert result.met == ((times > 1) == COSTS[budget.cost].more_is_better)
        assert (ReasonCode.BUDGET_EXCEEDED in codes(receipt)) != result.met
        assert result.measured == pytest.approx(times * limit)


def test_a_budget_without_an_entry_cannot_be_defined():
    class Careless(Budgets):
        min_happiness: float | None = None

    class Unmeasured(Budgets):
        max_colour: Annotated[float | None, Budget("colour")] = None

    for record in (Careless, Unmeasured):
        with pytest.raises(TypeError, match="needs one Budget"):
            budgets_of(record)


def test_a_ratio_above_its_budget(make):
    receipt = decide(
        Gate(budgets=Budgets(max_latency_ratio=1.5)), make.pair(3000, latency={"fp32": 16.0, "champion": 10.0})
    )
    assert codes(receipt) == [ReasonCode.BUDGET_EXCEEDED]


def test_int8_as_good_as_fp32_is_published(make):
    receipt = decide(Gate(), make.pair(3000, int8=True))
    assert receipt.publishable == ("fp32", "int8")
    assert receipt.precisions["int8"].comparison is not None


def test_int8_that_is_worse_is_left_out_and_the_rest_promoted(make):
    evidence = make.pair(3000, int8=True)
    table = evidence.tables["int8"]
    spoilt = table.predictions.copy()
    spoilt[:200] = (spoilt[:200] + 1) % 3
    scores = make.scores(spoilt, 3)
    evidence = dataclasses.replace(
        evidence,
        tables={**evidence.tables, "int8": dataclasses.replace(table, predictions=spoilt, scores=scores)},
    )
    evidence = with_model(evidence, "int8", metrics=make.metrics(table.labels, scores, spoilt))
    receipt = decide(Gate(), evidence)
    assert receipt.promoted
    assert receipt.publishable == ("fp32",)
    assert "it is worse" in receipt.precisions["int8"].why
    assert any(note.startswith("int8 is not published") for note in receipt.notes)


def test_int8_on_few_rows_is_left_out(make):
    receipt = decide(Gate(floors={"accuracy": 0.5}, against_champion=None), make.pair(100, int8=True))
    assert receipt.publishable == ("fp32",)
    assert "too few rows" in receipt.precisions["int8"].why


def test_int8_above_its_own_tolerance_or_budget_is_left_out(make):
    evidence = make.pair(3000, int8=True)
    slow = with_model(evidence, "int8", latency_ms=Latency(p50=30.0, p95=60.0))
    assert decide(Gate(budgets=Budgets(p95_latency_ms=25)), slow).publishable == ("fp32",)
    parity = {
        **evidence.record.parity,
        "int8": ParityEvidence(max_difference=9.0, tolerance=1.0, rows=256),
    }
    record = evidence.record.model_copy(update={"parity": parity})
    assert decide(Gate(), dataclasses.replace(evidence, record=record)).publishable == ("fp32",)


# --- error rates -----------------------------------------------------------------------------------------------


def promoted_share(gain: float, threshold: float, *, runs: int = 4000, n: int = 2000, discordant: float = 0.08):
    random = np.random.default_rng(11)
    cells = [(discordant + gain) / 2, (discordant - gain) / 2, 1 - discordant]
    drawn = random.multinomial(n, cells, size=runs)
    low, _ = tango_interval(drawn[:, 0], drawn[:, 1], n, 0.05)
    return float((low > threshold).mean())


def test_error_rates_at_2000_rows_with_8_percent_discordant():
    slack = 3 * np.sqrt(0.05 * 0.95 / 4000)
    assert promoted_share(0.0, 0.0) <= 0.05 + slack
    assert promoted_share(-0.01, -0.01) <= 0.05 + slack
    assert promoted_share(-0.02, -0.01) <= 0.05
    assert promoted_share(0.03, 0.0) >= 0.95


def test_the_whole_decision_errs_as_its_interval_does(make):
    random = np.random.default_rng(12)
    promoted = 0
    for seed in range(60):
        better, worse, _ = random.multinomial(2000, [0.04, 0.04, 0.92])
        promoted += decide(SUPERIOR, make.pair(2000, better=better, worse=worse, seed=seed)).promoted
    assert promoted <= 9  # more than that has a probability of 0.1 % at an error rate of 5 %


# --- same evidence, same bytes ---------------------------------------------------------------------------------


def shuffled(evidence: Evidence, seed: int) -> Evidence:
    random = np.random.default_rng(seed)

    def shuffle(table: Table) -> Table:
        order = random.permutation(table.row_ids.size)
        return dataclasses.replace(
            table,
            row_ids=table.row_ids[order],
            labels=table.labels[order],
            predictions=table.predictions[order],
            scores=table.scores[order],
            characters=table.characters[order] if table.characters is not None else None,
            slices={name: column[order] for name, column in table.slices.items()},
        )

    return dataclasses.replace(evidence, tables={name: shuffle(table) for name, table in evidence.tables.items()})


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auroc", "ece"])
def test_neither_a_second_time_nor_another_order_of_rows_changes_a_byte(make, metric):
    policy = Gate(floors={"accuracy": 0.5}, against_champion=AgainstChampion(metric=metric), confident=True)
    evidence = make.pair(400, better=20, worse=15, int8=True, measured=("accuracy", metric))
    receipt = decide(policy, evidence).to_json()
    assert decide(policy, evidence).to_json() == receipt
    for seed in range(3):
        assert decide(policy, shuffled(evidence, seed)).to_json() == receipt


def test_a_receipt_survives_being_written_and_read(make):
    receipt = decide(Gate(), make.pair(3000, int8=True))
    assert Receipt.from_json(receipt.to_pretty_json(), where="receipt") == receipt
    assert Receipt.from_json(receipt.to_json(), where="receipt").to_json() == receipt.to_json()


# --- saying it -------------------------------------------------------------------------------------------------


def test_the_explanation_has_the_numbers(make):
    promoted = "\n".join(explain(decide(SUPERIOR, make.pair(2000, better=100, worse=40))))
    assert promoted.startswith("PROMOTE news")
    assert "+0.0300" in promoted
    assert "90 % interval" in promoted
    refused = explain(decide(Gate(floors={"accuracy": 0.99}), make.pair(2000, worse=100)))
    assert refused[0] == "REFUSE news: 2 reasons, production does not change"
    assert refused[1] == "  - accuracy 0.9250 is below the floor of 0.99 (floor_missed)"
    assert refused[2].endswith("(worse_than_champion)")


def test_every_reason_has_a_line_of_help():
    for code in ReasonCode:
        assert code.help.endswith(".")
        assert "\n" not in code.help
        assert ReasonCode(code.value) is code
    assert len({code.help for code in ReasonCode}) == len(ReasonCode)


# The pipeline file refuses these too; the gate does not rely on that.
@pytest.mark.parametrize(
    "policy",
    [
        Gate().model_copy(update={"floors": {"accuracy": float("nan")}}),
        Gate().model_copy(update={"floors": {"accuracy": float("-inf")}}),
        Gate().model_copy(update={"against_champion": AgainstChampion().model_copy(update={"alpha": 0.5})}),
        Gate().model_copy(update={"against_champion": AgainstChampion().model_copy(update={"alpha": 0.9})}),
        Gate().model_copy(update={"against_champion": AgainstChampion().model_copy(update={"margin": float("nan")})}),
        Gate().model_copy(update={"budgets": Budgets().model_copy(update={"size_mb": float("inf")})}),
    ],
)
def test_a_policy_that_cannot_be_applied_is_an_error(make, policy):
    with pytest.raises(GateError) as raised:
        decide(policy, make.pair(2000))
    assert raised.value.where is not None
    assert raised.value.where.startswith("gate.")


def test_comparing_a_metric_that_cannot_be_told_is_an_error():
    labels = np.zeros(10, dtype=np.int64)
    same = Answers(labels, np.full((10, 2), 0.5))
    with pytest.raises(ValueError, match="auroc"):
        compare("auroc", labels, same, same, 0.05)


@pytest.mark.parametrize("positive", ["equivalent", "not_equivalent"])
def test_the_positive_label_is_scored_and_named(make, positive):
    """In the order of the alphabet the positive label of MRPC is the first: a constant model then looked worthless."""
    names = ("equivalent", "not_equivalent")
    labels = np.repeat([0, 0, 1], 400)
    constant = np.zeros_like(labels)
    policy = Gate(floors={"f1_binary": 0.1}, against_champion=AgainstChampion(metric="f1_binary"))
    said = {"fp32": labels, "champion": constant, "baseline": constant}
    receipt = decide(policy, make(labels, said, names=names, measured=("f1_binary",), positive_label=positive))
    assert receipt.promoted
    assert receipt.metrics["champion"]["f1_binary"].value == pytest.approx(0.8 if positive == "equivalent" else 0.0)
    assert f"f1_binary is the score of label '{positive}'" in receipt.notes
    assert receipt.comparison is not None
    assert receipt.comparison.estimate == pytest.approx(0.2 if positive == "equivalent" else 1.0)
