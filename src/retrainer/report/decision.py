"""A decision, presented: every sentence and table that people see of a receipt, made once. Pure and light.

The command line, task logs, Airflow, the model card and the HTML page render these parts and say nothing of their own
about a decision. Not here: what is decided (``gate/``), how a part becomes text or Markdown (``presentation.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from retrainer.artifacts.evaluation import Leakage, ModelEvidence, cost_of
from retrainer.artifacts.measures import Score
from retrainer.gate.receipt import BudgetResult, DriftResult, FloorResult, Reason, Receipt, SliceResult
from retrainer.precisions import REFERENCE
from retrainer.report.against_others import (
    anchor_part,
    baseline_part,
    comparison_part,
    confidence,
    flips_part,
    over_time_part,
    writes_of,
)
from retrainer.report.figures import number
from retrainer.report.presentation import (
    Cell,
    Part,
    Row,
    part,
    probability,
    scored,
    signed,
)
from retrainer.report.selection_table import selection_part
from retrainer.spec.budgets import BUDGETS, COSTS
from retrainer.spec.known_metrics import lower_is_better

if TYPE_CHECKING:
    from retrainer.gate.confusion import Confusion
    from retrainer.gate.label_sets import LabelScores

FP32 = REFERENCE
# What is said where there is room for a few lines only: a terminal, a log, a page on which somebody approves.
IN_BRIEF = (
    "changes",
    "comparison",
    "anchor",
    "over_time",
    "flips",
    "baseline",
    "scores",
    "floors",
    "selection",
    "leakage",
)
# Of the slices, where not all are shown.
MOST_MOVED = 8


def headline(receipt: Receipt) -> str:
    """The verdict in one sentence."""
    if receipt.promoted:
        return f"PROMOTE {receipt.model}: {', '.join(receipt.publishable)} may go live"
    count = len(receipt.reasons)
    return f"REFUSE {receipt.model}: {count} reason{'s' if count != 1 else ''}, production does not change"


def in_a_sentence(receipt: Receipt) -> str:
    """The verdict and why, in one line."""
    return "; ".join([headline(receipt), *map(reason_line, receipt.reasons)])


def reason_line(reason: Reason) -> str:
    """``accuracy 0.1385 is below the floor of 0.8 (floor_missed)``."""
    return f"{reason.detail} ({reason.code.value})"


def explain(receipt: Receipt) -> list[str]:
    """A decision in a few lines: the verdict, each reason, what was compared and scored, what was skipped."""
    lines = [headline(receipt)]
    lines += [f"  - {reason_line(reason)}" for reason in receipt.reasons]
    for one in _brief(receipt):
        lines += [f"  {one.title}", *(f"    {line}" for line in one.lines())]
    return lines + [f"  note: {note}" for note in receipt.notes]


def decision_markdown(receipt: Receipt) -> str:
    """The same as a short page."""
    verdict = "The gate promotes the challenger." if receipt.promoted else "The gate refuses the challenger."
    blocks = [f"**{receipt.model}**: {verdict}", verdict_part(receipt).markdown()]
    blocks += [f"### {one.title}\n\n{one.markdown()}" for one in _brief(receipt)]
    return "\n\n".join(block for block in blocks if block)


def parts(receipt: Receipt, measured: Mapping[str, ModelEvidence] | None = None) -> dict[str, Part]:
    """Every part of a decision under its name, also those that only say that there is nothing.

    :param measured: model to what was measured of it, which the receipt does not hold.
    """
    made = (
        comparison_part(receipt),
        anchor_part(receipt),
        over_time_part(receipt),
        flips_part(receipt),
        baseline_part(receipt),
        _scores(receipt),
        _floors(receipt),
        _slices(receipt),
        _costs(measured or {}),
        _budgets(receipt),
        _precisions(receipt),
        _calibration(receipt),
        selection_part(receipt.selection) if receipt.selection else part("selection", "Base model"),
        _leakage(receipt.leakage),
        _drift(receipt),
        part("changes", "Asked of this run", *(receipt.changes.lines() if receipt.changes else [])),
    )
    return {one.name: one for one in made}


def confusions_part(confusions: Sequence[Confusion]) -> Part:
    """The labels that the challenger mixes up most."""
    return part(
        "confusions",
        "Most confused labels",
        head=("true label", "predicted as", "rows", "of"),
        rows=((one.true, one.predicted, f"{one.rows:,}", f"{one.of:,}") for one in confusions),
    )


def by_label_part(labels: Sequence[LabelScores]) -> Part:
    """How well each label is given, where a row has any number of them."""

    def row(one: LabelScores) -> Row:
        return one.label, f"{one.rows:,}", f"{one.given:,}", *map(number, one[3:])

    return part(
        "by_label",
        "Each label",
        *(
            ["A label applies from its threshold on, fitted on the validation rows; 0.5 where few of these have it."]
            if labels
            else []
        ),
        caption="Test rows that have each label, and rows that are given it",
        head=("label", "rows", "given", "threshold", "precision", "recall", "F1"),
        rows=map(row, labels),
    )


def _brief(receipt: Receipt) -> list[Part]:
    made = parts(receipt)
    # Without a selection, leakage or floors there is nothing to say, and no need to say so.
    return [made[name] for name in IN_BRIEF if made[name].said]


def verdict_part(receipt: Receipt) -> Part:
    """The reasons, and what else is worth knowing."""
    return part("verdict", "Verdict", *map(reason_line, receipt.reasons), *receipt.notes)


def models_of(receipt: Receipt) -> dict[str, Mapping[str, Score]]:
    """Every model with scores: precisions, champion, anchor, baseline."""
    models = {**receipt.metrics, **({"baseline": receipt.baseline} if receipt.baseline is not None else {})}
    last = {"champion": 1, "anchor": 2, "baseline": 3}
    return {name: models[name] for name in sorted(models, key=lambda name: (last.get(name, 0), name))}


# --- scores ----------------------------------------------------------------------------------------------


def _scores(receipt: Receipt) -> Part:
    models = models_of(receipt)
    metrics = dict.fromkeys(metric for scores in models.values() for metric in scores)
    if not metrics:
        return part("scores", "Scores", "The predictions could not be judged, so there are no scores.")

    def row(metric: str) -> Row:
        name = f"{metric} (less is better)" if lower_is_better(metric) else metric
        return (name, *(scored(scores.get(metric)) for scores in models.values()))

    level = confidence(receipt.policy)
    sentence = f"On {receipt.rows:,} test rows, each with its {level} interval."
    return part("scores", "Scores", sentence, head=("metric", *models), rows=map(row, metrics))


def _floors(receipt: Receipt) -> Part:
    def row(floor: FloorResult) -> Row:
        bound = f"{'≤' if lower_is_better(floor.metric) else '≥'} {number(floor.bound)}"
        return floor.metric, number(floor.value), number(floor.judged), bound, _met(floor.met)

    return part(
        "floors",
        "Floors",
        caption=f"What the scores must reach{' with their confidence bound' if receipt.policy.confident else ''}",
        head=("metric", "value", "judged", "floor", "result"),
        rows=map(row, receipt.floors),
    )


def _met(met: bool) -> Cell:
    return Cell("met", mark="good") if met else Cell("missed", mark="bad")


_SLICE_STATUS = {
    "ok": Cell("ok", mark="good"),
    "worse": Cell("worse", mark="bad"),
    "insufficient": Cell("too few rows", mark="plain"),
}


def moved_slices(receipt: Receipt) -> Part:
    """The groups of rows on which challenger and champion differ most, for whoever has little time."""
    differ = [one for one in receipt.slices if one.status != "insufficient" and one.difference]
    most = sorted(differ, key=lambda one: (one.status != "worse", -abs(one.difference or 0.0), one.by, one.value))
    return _slices(receipt.model_copy(update={"slices": tuple(most[:MOST_MOVED])}))


def _slices(receipt: Receipt) -> Part:
    def row(one: SliceResult) -> Row:
        ours, theirs = (
            (one.challenger_score, one.champion_score)
            if one.metric
            else (one.challenger_accuracy, one.champion_accuracy)
        )
        scores = number(ours), number(theirs), signed(one.difference)
        name = f"{one.by} = {one.value or '(empty)'}"
        return name, f"{one.rows:,}", *scores, probability(one.holm), _SLICE_STATUS[one.status]

    if not receipt.slices:
        return part("slices", "Slices")
    policy = receipt.policy.slices
    least = f"; below {policy.min_rows:,} rows nothing is concluded" if policy else ""
    return part(
        "slices",
        "Slices",
        "Groups of rows on which the challenger must not be worse. A group refuses only where it lost beyond what "
        f"chance explains once all groups are taken into account (Holm){least}.",
        caption=f"{receipt.slices[0].metric or 'Accuracy'} by slice",
        head=("slice", "rows", "challenger", "champion", "difference", "p, corrected", "result"),
        rows=map(row, receipt.slices),
    )


# --- what is served --------------------------------------------------------------------------------------


def _costs(measured: Mapping[str, ModelEvidence]) -> Part:
    def row(item: tuple[str, ModelEvidence]) -> Row:
        name, model = item
        return (name, *(cost.amount(cost_of(model, path)) for path, cost in COSTS.items()))

    return part(
        "costs",
        "What serving costs",
        caption="Measured in a fresh process for each model, one text at a time and in bulk",
        head=("model", *(cost.words for cost in COSTS.values())),
        rows=map(row, measured.items()),
    )


def _budgets(receipt: Receipt) -> Part:
    def row(result: BudgetResult) -> Row:
        budget = BUDGETS.get(result.budget)
        amount = budget.amount if budget else number
        name = f"{budget.words} ({result.budget})" if budget else result.budget
        measured = "not measured" if result.measured is None else amount(result.measured)
        limit = f"{'≥' if budget and budget.at_least else '≤'} {amount(result.limit)}"
        return name, result.precision, measured, limit, _met(result.met)

    if not receipt.budgets:
        return part("budgets", "Budgets", "The gate sets no budget.")
    return part(
        "budgets",
        "Budgets",
        head=("budget", "precision", "measured", "limit", "result"),
        rows=map(row, receipt.budgets),
    )


def _precisions(receipt: Receipt) -> Part:
    def row(name: str) -> Row:
        decided, parity = receipt.precisions.get(name), receipt.parity.get(name)
        live = Cell("no", mark="bad")
        if decided is not None and decided.publish:
            live = Cell("yes", mark="good") if receipt.promoted else Cell("not now", mark="plain")
        apart = ("-", "-", "-")
        if parity is not None:
            apart = _tiny(parity.max_difference), _tiny(parity.tolerance), f"{parity.rows:,}"
        return name, live, decided.why if decided else "-", *apart

    return part(
        "precisions",
        "Precisions",
        "fp32 is what the verdict is about. Another precision goes live only where it is shown to be as good as fp32 "
        "on the same rows.",
        caption="Each exported graph: whether it may go live, and how far its logits are from the checkpoint's",
        head=("precision", "goes live", "why", "largest difference", "tolerance", "rows"),
        rows=map(row, dict.fromkeys([*receipt.precisions, *receipt.parity])),
    )


def _tiny(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _calibrated(receipt: Receipt) -> str:
    if writes_of(receipt) == "labels":
        return "Whether of 100 labels with a probability of 80 % 80 apply."
    return "Whether a confidence of 80 % is right in 80 of 100 cases."


def _calibration(receipt: Receipt) -> Part:
    if writes_of(receipt) == "text":
        return part("calibration", "Calibration", "Text comes without probabilities that could be calibrated.")
    errors = {name: scores["ece"] for name, scores in models_of(receipt).items() if "ece" in scores}

    def row(name: str) -> Row:
        temperature = f"{receipt.temperatures[name]:.3f}" if name in receipt.temperatures else "-"
        return name, temperature, scored(errors[name]) if name in errors else "not measured"

    return part(
        "calibration",
        "Calibration",
        f"{_calibrated(receipt)} A temperature other than 1 was fitted on the "
        "validation rows; the client divides the logits by it.",
        caption="Temperature and expected calibration error (ECE), of which less is better",
        head=("model", "temperature", "ECE"),
        rows=map(row, dict.fromkeys([*receipt.temperatures, *errors])),
    )


# --- the data --------------------------------------------------------------------------------------------


def _leakage(leakage: Leakage) -> Part:
    champion = "test in the champion's training rows"
    exact = {**leakage.exact, champion: leakage.champion_exact}
    near = {**leakage.near, champion: leakage.champion_near}
    unknown = leakage.champion_near_unknown

    def row(name: str) -> Row:
        nearly = "not known" if unknown and name == champion else f"{near.get(name, 0):,}"
        return name.replace("_", " "), f"{exact.get(name, 0):,}", nearly

    found = [name for name in {**exact, **near} if exact.get(name) or near.get(name) or (unknown and name == champion)]
    why = [f"Rows that are nearly ones of the champion's could not be looked for: {unknown}."] if unknown else []
    return part(
        "leakage",
        "Rows in two places",
        *why,
        caption="Rows that were in another split too, or in what the champion was trained on, and were taken out",
        head=("rows", "exactly", "nearly"),
        rows=map(row, found),
    )


_DRIFT_VERDICT = {
    "none": Cell("none", mark="good"),
    "note": Cell("note", mark="plain"),
    "warn": Cell("warning", mark="warn"),
    "block": Cell("blocks", mark="bad"),
}


def _drift(receipt: Receipt) -> Part:
    def row(one: DriftResult) -> Row:
        distance = "-" if one.distance is None else f"{one.distance:.3f}"
        return one.measure, _DRIFT_VERDICT[one.verdict], distance, probability(one.p_value), one.detail or one.method

    title = "How far the data moved"
    if not receipt.drift:
        none = receipt.champion_state == "none"
        why = "There is no champion yet, so there is nothing to have moved from." if none else "It was not measured."
        return part("drift", title, why)
    return part(
        "drift",
        title,
        "The training rows against those that the champion was trained on. A distance of 0 is the same, of 1 nothing "
        "in common; what chance explains is not drift.",
        head=("what", "verdict", "distance", "p", "in detail"),
        rows=map(row, receipt.drift),
    )
