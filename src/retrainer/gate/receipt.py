"""The records of a decision: why a challenger was refused, what was checked, and the receipt.

Light: pydantic only. Not here: what was measured (``artifacts/evaluation.py``), the judging (``decide.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from retrainer.artifacts.evaluation import ChampionState, DriftMeasure, Leakage, ParityEvidence
from retrainer.artifacts.measures import Interval, Overturn, Score
from retrainer.artifacts.selection import Selection
from retrainer.artifacts.standing import Standing
from retrainer.gate.spending import Spending
from retrainer.records import Record, unset
from retrainer.spec.changes import Changes
from retrainer.spec.gate import Gate

Verdict = Literal["promote", "refuse"]


class ReasonCode(StrEnum):
    """Why a challenger was refused. ``help`` is one line for people."""

    help: str

    def __new__(cls, value: str, help_line: str = "") -> ReasonCode:
        """A code with its line of help."""
        code = str.__new__(cls, value)
        code._value_ = value
        code.help = help_line
        return code

    # The policy
    POLICY_EMPTY = "policy_empty", "The gate has no floor and no champion comparison: it checks nothing."
    METRIC_UNKNOWN = "metric_unknown", "The gate names a metric that does not exist."
    # The evidence
    EVIDENCE_INCONSISTENT = "evidence_inconsistent", "Parts of the evaluation contradict each other."
    PREDICTIONS_MISSING = "predictions_missing", "A file of per-row predictions is not there."
    PREDICTIONS_CHANGED = "predictions_changed", "A file of predictions is not the one that was evaluated."
    PREDICTIONS_UNREADABLE = "predictions_unreadable", "A file of predictions cannot be read, or lacks columns."
    NO_ROWS = "no_rows", "There is no test row to judge by."
    ROWS_DUPLICATED = "rows_duplicated", "A test row occurs more than once."
    ROWS_MISALIGNED = "rows_misaligned", "The models were not scored on the same rows with the same labels."
    SINGLE_LABEL = "single_label", "All test rows have the same label, so nothing can be told from them."
    LABELS_INVALID = "labels_invalid", "A label or prediction is not one of the model's labels."
    SCORES_INVALID = "scores_invalid", "A score is NaN, infinite, or not a probability."
    PREDICTIONS_INCONSISTENT = "predictions_inconsistent", "A prediction is not the one that its scores give."
    METRIC_MISSING = "metric_missing", "A metric that the gate needs was not measured."
    METRIC_UNDEFINED = "metric_undefined", "A metric has no value on these rows (NaN or infinite)."
    METRIC_MISMATCH = "metric_mismatch", "A reported metric is not what the predictions give."
    # The model
    CHALLENGER_WITHDRAWN = "challenger_withdrawn", "This very model was live before and was rolled back."
    FLOOR_MISSED = "floor_missed", "A metric is below its floor (or above it, where lower is better)."
    FLOOR_NOT_CONFIDENT = "floor_not_confident", "A metric meets its floor, its confidence bound does not."
    PARITY_MISSING = "parity_missing", "The exported graph was not compared with the checkpoint."
    PARITY_EXCEEDED = "parity_exceeded", "The exported graph does not compute what the checkpoint computes."
    BUDGET_EXCEEDED = "budget_exceeded", "Serving the model would cost more than its budget."
    BUDGET_NOT_MEASURED = "budget_not_measured", "A budget is set, but what it limits was not measured."
    BASELINE_MISSING = "baseline_missing", "The simple baseline must be beaten, but could not be fitted or scored."
    WORSE_THAN_BASELINE = (
        "worse_than_baseline",
        "The challenger is worse than TF-IDF with logistic regression, beyond chance.",
    )
    BASELINE_NOT_BEATEN = "baseline_not_beaten", "The challenger is no better than TF-IDF with logistic regression."
    # The data
    DRIFT_NOT_MEASURED = "drift_not_measured", "Drift can block, but it was not measured against the champion's data."
    DRIFT_BLOCKED = "drift_blocked", "The training rows moved further from the champion's than the gate allows."
    # Against the champion
    CHAMPION_UNREADABLE = "champion_unreadable", "There is a champion, but it could not be read or scored."
    WORSE_THAN_CHAMPION = "worse_than_champion", "The challenger is worse than the champion, beyond chance."
    NOT_BETTER = "not_better", "Superiority was asked for, and the challenger shows no gain."
    INSUFFICIENT_ROWS = "insufficient_rows", "There are too few test rows to tell the two models apart."
    WORN_TEST_SET = "worn_test_set", "So many decisions were taken before that too little is left to tell anything."
    WORSE_THAN_ANCHOR = "worse_than_anchor", "The challenger is worse than the channel's anchor, beyond chance."
    ANCHOR_UNAVAILABLE = "anchor_unavailable", "The channel has an anchor, but it could not be asked."
    HARMFUL_FLIPS = "harmful_flips", "Too many rows that the champion has right are wrong with the challenger."
    SLICE_MISSING = "slice_missing", "A slice is named that the test rows do not have."
    SLICE_EMPTY = "slice_empty", "A slice has no row."
    SLICE_UNUSABLE = "slice_unusable", "A column has too many different values to be a slice."
    SLICE_WORSE = "slice_worse", "On some slice the challenger is worse, beyond chance and tolerance."


class Reason(Record):
    """One cause of a refusal.

    :param detail: one sentence with the numbers.
    """

    code: ReasonCode
    detail: str


@dataclass(slots=True)
class Findings:
    """What a decision found on its way: reasons to refuse, and notes on what was skipped; in the order found."""

    reasons: list[Reason] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, code: ReasonCode, detail: str) -> None:
        """Add a reason."""
        self.reasons.append(Reason(code=code, detail=detail))

    def extend(self, reasons: Iterable[Reason]) -> None:
        """Add reasons."""
        self.reasons += reasons

    def note(self, text: str) -> None:
        """Add a note."""
        self.notes.append(text)


class FloorResult(Record):
    """A floor that was checked.

    :param judged: what was compared: the value, or its confidence bound on the bad side.
    :param bound: the policy's floor; a ceiling for a metric of which less is better.
    """

    metric: str
    value: float | None
    judged: float | None
    bound: float
    met: bool


class SliceResult(Record):
    """Challenger and champion on one group of rows.

    Of a task with one label a row they are compared by accuracy, in the fields of that name; of others by ``metric``,
    in ``challenger_score`` and ``champion_score``. The others are not written.

    :param status: ``insufficient`` below the policy's minimum, ``worse`` when it refuses.
    :param p_value: one-sided, of "not worse", before correction.
    :param holm: the same, corrected for all slices tested.
    """

    by: str
    value: str
    rows: int
    status: Literal["ok", "worse", "insufficient"]
    challenger_accuracy: float | None = None
    champion_accuracy: float | None = None
    difference: float | None = None
    p_value: float | None = None
    holm: float | None = None
    metric: str | None = None
    challenger_score: float | None = None
    champion_score: float | None = None

    @model_serializer(mode="wrap")
    def _by_one_metric(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Receipts of tasks with labels keep their bytes."""
        written: dict[str, Any] = handler(self)
        fields = ("challenger_accuracy", "champion_accuracy"), ("metric", "challenger_score", "champion_score")
        left_out = fields[1] if self.metric is None else fields[0]
        return {name: value for name, value in written.items() if name not in left_out}


class AnchorResult(Record):
    """Challenger and anchor: whether small losses add up.

    :param version: ``None`` where it is not even known which.
    :param is_champion: the champion is the anchor, so this is the comparison with it, read once more.
    :param max_loss: minus the threshold of the interval.
    :param comparison: challenger fp32 against it, at the level that this comparison has; ``None`` where it could not be
        made.
    :param held: the challenger is shown to be within ``max_loss``; ``better`` to be above the anchor.
    :param waived: it is not shown to be within it, but better than the champion, which no anchor blocks.
    :param rows_needed: about how many test rows it would take to tell; ``None`` when told, or when none would do.
    """

    version: str | None
    is_champion: bool
    max_loss: float
    level: float
    comparison: Interval | None
    held: bool
    better: bool
    waived: bool
    rows_needed: int | None = None


class SliceFlips(Record):
    """Harmful flips within one group of rows.

    :param p_value: one-sided, of "at most the limit", before correction; ``holm`` is corrected for all groups.
    :param above: shown to be above the limit, which refuses.
    """

    by: str
    value: str
    rows: int
    harmful: int
    p_value: float
    holm: float
    above: bool


class FlipsResult(Record):
    """Rows on which right became wrong, and wrong right.

    :param harmful: rows that the champion had right and the challenger has wrong; ``helpful`` the reverse.
    :param share: harmful ones among all rows; ``low`` and ``high`` are its one-sided ``1 - alpha`` bounds.
    :param judged: what was compared with ``limit``: the share, or with ``confident`` its upper bound.
    :param rows: row ids of harmful flips, those of which the challenger is surest first.
    """

    harmful: int
    helpful: int
    n: int
    share: float
    low: float
    high: float
    limit: float | None
    judged: float | None
    met: bool
    rows: tuple[str, ...]
    slices: tuple[SliceFlips, ...] = ()


class BudgetResult(Record):
    """A budget that was checked. Units are in the name."""

    budget: str
    precision: str
    measured: float | None
    limit: float
    met: bool


class DriftResult(DriftMeasure):
    """The same with a verdict: ``none`` where chance explains it, else by the policy's distances."""

    verdict: Literal["none", "note", "warn", "block"]


class PrecisionDecision(Record):
    """Whether the graph of one precision goes live together with the model, and why.

    :param publish: on its own merits; nothing of a refused challenger goes live.
    :param comparison: it against fp32 on the same rows; ``None`` for fp32 itself, or where that was not possible.
    """

    publish: bool
    why: str
    comparison: Interval | None = None


class Receipt(Record):
    """The whole decision: whoever has the predictions and this can take it again.

    Holds no time and no host: same evidence, same policy, same bytes.

    :param champion_version: the champion it was judged against; ``None`` when the channel had none.
        Publishing must find the channel still there.
    :param predictions: name of the predictions (precision, ``champion``, ``anchor``) to the file's sha256.
    :param metrics: the same names to metric to score.
    :param notes: what was skipped, and why.
    :param comparison: challenger fp32 against champion at the level of this decision; ``None`` when skipped.
        ``single`` is the same at the policy's alpha, where that is another.
    :param threshold: the end of the interval that had to be above it.
    :param rows_needed: about how many test rows it would take to tell; ``None`` when told, or when none would do.
    :param baseline: scores of TF-IDF with logistic regression on the same rows; ``None`` when none was fitted.
    :param baseline_comparison: challenger fp32 against it.
    :param temperatures: precision, or ``champion``, to what its logits are divided by.
    :param standing: what was counted of earlier decisions; ``None`` where nothing was.
    :param spending: the level that follows from it; ``None`` where nothing was compared.
    :param anchor_moves: this version becomes the channel's anchor when it is published: it was shown to be better.
    :param flips: ``None`` without a champion.
    :param overturn: how many wrong test labels would turn the comparison; ``None`` when it was skipped.
    :param changes: what its run was asked to do otherwise than the pipeline file says; left out where that is nothing.
    """

    format_version: Literal[1] = 1
    model: str
    task: str
    verdict: Verdict
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    policy: Gate
    digests: dict[str, str]
    predictions: dict[str, str]
    labels: tuple[str, ...]
    rows: int
    excluded_rows: int
    label_counts: dict[str, int]
    champion_state: ChampionState
    champion_version: str | None
    metrics: dict[str, dict[str, Score]]
    comparison: Interval | None
    threshold: float | None
    rows_needed: int | None
    floors: tuple[FloorResult, ...]
    slices: tuple[SliceResult, ...]
    budgets: tuple[BudgetResult, ...]
    parity: dict[str, ParityEvidence]
    precisions: dict[str, PrecisionDecision]
    baseline: dict[str, Score] | None = None
    baseline_comparison: Interval | None = None
    temperatures: dict[str, float] = Field(default_factory=dict)
    leakage: Leakage = Leakage()
    drift: tuple[DriftResult, ...] | None = None
    selection: Selection | None = None
    standing: Standing | None = None
    spending: Spending | None = None
    single: Interval | None = None
    anchor: AnchorResult | None = None
    anchor_moves: bool = False
    flips: FlipsResult | None = None
    overturn: Overturn | None = None
    changes: Changes | None = Field(None, exclude_if=unset)

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the reasons, each once, as the ledger keeps them."""
        return tuple(dict.fromkeys(reason.code.value for reason in self.reasons))

    @property
    def promoted(self) -> bool:
        """Whether the challenger may replace the champion."""
        return self.verdict == "promote"

    @property
    def publishable(self) -> tuple[str, ...]:
        """The precisions that go live; none of a refused challenger."""
        return tuple(name for name, decision in self.precisions.items() if decision.publish and self.promoted)
