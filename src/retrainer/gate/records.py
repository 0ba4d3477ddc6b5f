"""The records of a decision: what was measured, why a challenger was refused, and the receipt.

Light: pydantic only. Per-row predictions are not here (``evidence.py``), nor the judging (``decide.py``).
A number that could not be measured, or came out as NaN or infinite, is ``None``, for
which JSON has a word.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from retrainer.records import Record
from retrainer.spec.model import DriftKind, Gate

Verdict = Literal["promote", "refuse"]
ChampionState = Literal["none", "present", "unreadable"]


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
    POLICY_EMPTY = (
        "policy_empty",
        "The gate has no floor and no champion comparison: it checks nothing.",
    )
    METRIC_UNKNOWN = "metric_unknown", "The gate names a metric that does not exist."
    # The evidence
    EVIDENCE_INCONSISTENT = "evidence_inconsistent", "Parts of the evaluation contradict each other."
    PREDICTIONS_MISSING = "predictions_missing", "A file of per-row predictions is not there."
    PREDICTIONS_CHANGED = "predictions_changed", "A file of predictions is not the one that was evaluated."
    PREDICTIONS_UNREADABLE = (
        "predictions_unreadable",
        "A file of predictions cannot be read, or lacks columns.",
    )
    NO_ROWS = "no_rows", "There is no test row to judge by."
    ROWS_DUPLICATED = "rows_duplicated", "A test row stands more than once."
    ROWS_MISALIGNED = "rows_misaligned", "The models were not scored on the same rows with the same labels."
    SINGLE_LABEL = "single_label", "All test rows have the same label, so nothing can be told from them."
    LABELS_INVALID = "labels_invalid", "A label or prediction is not one of the model's labels."
    SCORES_INVALID = "scores_invalid", "A score is NaN, infinite, or not a probability."
    PREDICTIONS_INCONSISTENT = (
        "predictions_inconsistent",
        "A predicted label does not have the highest score.",
    )
    METRIC_MISSING = "metric_missing", "A metric that the gate needs was not measured."
    METRIC_UNDEFINED = "metric_undefined", "A metric has no value on these rows (NaN or infinite)."
    METRIC_MISMATCH = "metric_mismatch", "A reported metric is not what the predictions give."
    # The model
    CHALLENGER_WITHDRAWN = "challenger_withdrawn", "This very model was live before and was rolled back."
    FLOOR_MISSED = "floor_missed", "A metric is below its floor (or above it, where lower is better)."
    FLOOR_NOT_CONFIDENT = (
        "floor_not_confident",
        "A metric meets its floor, its confidence bound does not.",
    )
    PARITY_MISSING = "parity_missing", "The exported graph was not compared with the checkpoint."
    PARITY_EXCEEDED = "parity_exceeded", "The exported graph does not compute what the checkpoint computes."
    BUDGET_EXCEEDED = "budget_exceeded", "Serving the model would cost more than its budget."
    BUDGET_NOT_MEASURED = "budget_not_measured", "A budget is set, but what it limits was not measured."
    BASELINE_MISSING = "baseline_missing", "The simple baseline must be beaten, but could not be fitted or scored."
    BASELINE_NOT_BEATEN = (
        "baseline_not_beaten",
        "The challenger is no better than TF-IDF with logistic regression.",
    )
    # The data
    DRIFT_NOT_MEASURED = "drift_not_measured", "Drift can block, but it was not measured against the champion's data."
    DRIFT_BLOCKED = "drift_blocked", "The training rows moved further from the champion's than the gate allows."
    # Against the champion
    CHAMPION_UNREADABLE = "champion_unreadable", "There is a champion, but it could not be read or scored."
    WORSE_THAN_CHAMPION = "worse_than_champion", "The challenger is worse than the champion, beyond chance."
    NOT_BETTER = (
        "not_better",
        "Superiority was asked for, and the challenger shows no gain.",
    )
    INSUFFICIENT_ROWS = (
        "insufficient_rows",
        "There are too few test rows to tell the two models apart.",
    )
    SLICE_MISSING = "slice_missing", "A slice is named that the test rows do not have."
    SLICE_EMPTY = "slice_empty", "A slice has no row."
    SLICE_UNUSABLE = "slice_unusable", "A column has too many different values to be a slice."
    SLICE_WORSE = (
        "slice_worse",
        "On some slice the challenger is worse, beyond chance and tolerance.",
    )


class Reason(Record):
    """One cause of a refusal.

    :param detail: one sentence with the numbers.
    """

    code: ReasonCode
    detail: str


# --- what evaluate wrote ---------------------------------------------------------------------------------


class Latency(Record):
    """Time per request of one text, milliseconds, in a fresh process with fixed threads.

    Without the time that its threads waited for a processor: that says what else ran, not what the model costs.
    """

    p50: float | None
    p95: float | None


class Interval(Record):
    """A difference with its interval. Positive means that the first model is better.

    :param low: one-sided ``1 - alpha`` bound; so is ``high``.
    :param confidence: of both bounds together, ``1 - 2 alpha``.
    :param n: rows compared.
    :param disagreements: rows on which the two models predict different labels.
    """

    metric: str
    estimate: float
    low: float
    high: float
    confidence: float
    method: str
    n: int
    disagreements: int


class Score(Record):
    """A metric of one model with its interval; ``None`` where undefined or not computed.

    :param low: one-sided ``1 - alpha`` bound; so is ``high``.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None


class PredictionsFile(Record):
    """A parquet file of per-row predictions.

    :param file: path within the evaluate artifact.
    """

    file: str
    sha256: str


class ModelEvidence(Record):
    """What was measured of one model in one precision.

    :param metrics: name to value on all test rows; ``None`` where undefined.
    :param rows_per_second: texts a second in bulk, in the same fresh process as the latency.
    :param size_mb: size of the files a client downloads for this precision, in 10^6 bytes.
    :param peak_memory_mb: largest resident memory of that process, in 10^6 bytes.
    :param temperature: what the client divides the logits by before it makes probabilities of them.
    """

    metrics: dict[str, float | None]
    latency_ms: Latency | None = None
    rows_per_second: float | None = None
    size_mb: float | None = None
    peak_memory_mb: float | None = None
    temperature: float = 1.0
    predictions: PredictionsFile


class ChampionEvidence(ModelEvidence):
    """The same of the champion, in the precision it was scored in.

    :param labels: the champion's own labels. Its predictions are stored as indices into the challenger's; a
        predicted label that the challenger does not have is -1, and its scores are left out.
    """

    version: str
    labels: tuple[str, ...]
    precision: str = "fp32"


class ParityEvidence(Record):
    """The exported graph against the checkpoint, on real rows.

    :param max_difference: largest absolute difference of a logit.
    :param tolerance: what is accepted; ``None`` where the difference is reported but judged by the statistics
        instead (int8).
    """

    max_difference: float | None
    tolerance: float | None
    rows: int


class Leakage(Record):
    """Rows that stood in two splits, exactly or nearly, and what became of them.

    :param exact: ``train_in_test`` and the like to rows taken out of the former split.
    :param near: the same for rows that are nearly a row of the other split, with the same label.
    :param champion_exact: test rows left out because the champion was trained on them.
    :param champion_near: test rows left out because the champion was trained on nearly the same text.
    :param champion_near_unknown: why such rows could not be looked for; ``None`` where they were, or nobody asked.
    """

    exact: dict[str, int] = Field(default_factory=dict)
    near: dict[str, int] = Field(default_factory=dict)
    champion_exact: int = 0
    champion_near: int = 0
    champion_near_unknown: str | None = None


class DriftMeasure(Record):
    """How far the training rows of the challenger lie from those of the champion, in one respect.

    :param measure: what was compared, in words: ``label shares``, ``characters``, ``words``.
    :param distance: between 0 (the same) and 1.
    :param method: of distance and p value.
    :param p_value: of "both come from the same source"; ``None`` where the method has none.
    :param detail: the numbers behind it, for people: ``sports 0.25 -> 0.40``.
    """

    kind: DriftKind
    measure: str
    distance: float | None
    method: str
    p_value: float | None = None
    detail: str = ""


class Candidate(Record):
    """One base model of several, fine-tuned and exported, on the validation rows.

    :param export: digest of its export artifact.
    :param metrics: on the validation rows, with intervals.
    :param difference: the best candidate minus this one, as pairs; ``None`` for the best itself.
    :param distinguishable: the best is better beyond chance.
    """

    base: str
    export: str
    parameters: int | None
    size_mb: float
    latency_ms: Latency
    rows_per_second: float
    peak_memory_mb: float | None = None
    metrics: dict[str, Score]
    difference: Interval | None
    distinguishable: bool


class Selection(Record):
    """Which of several base models became the challenger, and why. It was chosen on validation rows.

    :param agreement: share of rows on which two candidates predict the same label, base to base.
    :param chosen: base of the candidate.
    :param why: one sentence.
    """

    format_version: Literal[1] = 1
    metric: str
    rows: int
    candidates: tuple[Candidate, ...]
    agreement: dict[str, dict[str, float]]
    chosen: str
    why: str


class EvaluationRecord(Record):
    """``evaluation.json``: everything measured but the rows.

    :param digests: step name to digest: ingest, train, export, evaluate.
    :param rows: test rows scored.
    :param excluded_rows: test rows left out because the champion was trained on them, exactly or nearly.
    :param challenger: precision to what was measured.
    :param parity: precision to parity.
    :param threads: of each process in which costs were measured.
    :param patterns: the regular expressions that the rows were searched for, in the order of the columns.
    :param baseline: TF-IDF with logistic regression on the same rows; ``baseline_error`` says why there is none.
    :param drift: ``None`` without a champion, or where its bundle holds no profile of its training rows.
    :param selection: how the challenger was chosen among several base models; ``None`` when there was one.
    :param challenger_withdrawn: this very bundle was live on the channel and was rolled back from.
    """

    format_version: Literal[1] = 1
    model: str
    task: str
    labels: tuple[str, ...]
    digests: dict[str, str]
    rows: int
    excluded_rows: int = 0
    challenger: dict[str, ModelEvidence]
    champion_state: ChampionState
    champion: ChampionEvidence | None = None
    champion_error: str | None = None
    challenger_withdrawn: bool = False
    parity: dict[str, ParityEvidence]
    threads: int | None = None
    leakage: Leakage = Leakage()
    patterns: tuple[str, ...] = ()
    baseline: ModelEvidence | None = None
    baseline_error: str | None = None
    drift: tuple[DriftMeasure, ...] | None = None
    drift_error: str | None = None
    selection: Selection | None = None


# --- what the gate says ----------------------------------------------------------------------------------


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
    :param predictions: name of the predictions (precision, or ``champion``) to the file's sha256.
    :param metrics: the same names to metric to score.
    :param notes: what was skipped, and why.
    :param comparison: challenger fp32 against champion; ``None`` when skipped.
    :param threshold: the end of the interval that had to lie above it.
    :param rows_needed: about how many test rows it would take to tell; ``None`` when told, or when none would do.
    :param baseline: scores of TF-IDF with logistic regression on the same rows; ``None`` when none was fitted.
    :param baseline_comparison: challenger fp32 against it.
    :param temperatures: precision, or ``champion``, to what its logits are divided by.
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

    @property
    def promoted(self) -> bool:
        """Whether the challenger may replace the champion."""
        return self.verdict == "promote"

    @property
    def publishable(self) -> tuple[str, ...]:
        """The precisions that go live; none of a refused challenger."""
        return tuple(name for name, decision in self.precisions.items() if decision.publish and self.promoted)
