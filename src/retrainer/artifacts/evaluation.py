"""The record of an evaluation, ``evaluation.json``: everything that was measured of the models but their answers.

Light: pydantic only. Not here: the predictions of each row (``gate/evidence.py`` reads them), the judging
(``gate/decide.py``). A number that could not be measured, or came out as NaN or infinite, is ``None``, for which JSON
has a word.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat

from retrainer.artifacts.measures import Latency
from retrainer.artifacts.selection import Candidate, Selection
from retrainer.precisions import REFERENCE
from retrainer.records import FileRecord, Record, unset
from retrainer.spec.gate import DriftKind
from retrainer.spec.known_metrics import SHARE_RIGHT, Family
from retrainer.tasks import Writes, known_task

# What the models that are not a precision of the challenger are called.
CHAMPION = "champion"
ANCHOR = "anchor"
BASELINE = "baseline"

ChampionState = Literal["none", "present", "unreadable"]


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
    :param thresholds: the probability from which on a label applies, one for each of its own labels in their order;
        ``None``, and not written, where one label is given, or text.
    """

    metrics: dict[str, float | None]
    latency_ms: Latency | None = None
    rows_per_second: float | None = None
    size_mb: float | None = None
    peak_memory_mb: float | None = None
    temperature: float = 1.0
    thresholds: tuple[Annotated[FiniteFloat, Field(gt=0.0, lt=1.0)], ...] | None = Field(None, exclude_if=unset)
    predictions: PredictionsFile


def cost_of(model: ModelEvidence | Candidate, cost: str) -> float | None:
    """What was measured of one of ``retrainer.spec.budgets.COSTS``; ``None`` where it was not."""
    value: Any = model
    for part in cost.split("."):
        value = None if value is None else getattr(value, part)
    return None if value is None else float(value)


class ChampionEvidence(ModelEvidence):
    """The same of the champion, or of the channel's anchor, in the precision it was scored in.

    :param labels: its own labels. Its predictions are stored as indices into the challenger's; a predicted label
        that the challenger does not have is -1, once in a row, and its scores are left out.
    """

    version: str
    labels: tuple[str, ...]
    precision: str = REFERENCE


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
    :param anchor_exact: the same of the channel's anchor, ``challenger_exact`` of a challenger that was blended with an
        older champion.
    :param champion_near_unknown: why such rows could not be looked for; ``None`` where they were, or nobody asked.
    """

    exact: dict[str, int] = Field(default_factory=dict)
    near: dict[str, int] = Field(default_factory=dict)
    champion_exact: int = 0
    champion_near: int = 0
    champion_near_unknown: str | None = None
    anchor_exact: int = 0
    challenger_exact: int = 0

    @property
    def rows(self) -> int:
        """Test rows that were left out because a model was trained on them."""
        return self.champion_exact + self.champion_near + self.anchor_exact + self.challenger_exact


class DriftMeasure(Record):
    """How far the training rows of the challenger are from those of the champion, in one respect.

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


# The rows whose label may be wrong, and those that a person should look at first, in the evaluate artifact. Both have
# these columns, after ``row_id`` the text or both of a pair, and last an empty one, ``label``, to be filled in.
SUSPECTS, LOOK_FIRST = "suspects.csv", "look_first.csv"
SUSPECT_COLUMNS = ("split", "row_id", "given", "suggested", "score")
# Where models agree with fewer labels it is mostly they that are wrong: on MRPC and RTE, where they are right on 73 and
# 61 % of the rows, fewer than a third of the first suspects had a wrong label; on IMDB, at 88 %, over half had
# (``python -m benchmarks.labels``).
LEAST_AGREEMENT = 0.8


class Suspects(Record):
    """How many labels may be wrong, by models that have not seen them.

    :param rows: split to rows whose label was looked at.
    :param suspects: split to those for which another label is likelier than the given one.
    :param wrong: split to about how many labels are wrong, by confident learning's estimate.
    :param agreement: share of the rows whose likeliest label is the given one: how much these models know.
    """

    rows: dict[str, int]
    suspects: dict[str, int]
    wrong: dict[str, int]
    agreement: float

    @property
    def telling(self) -> bool:
        """Whether these models know enough for their doubt to say something."""
        return self.agreement >= LEAST_AGREEMENT


class EvaluationRecord(FileRecord):
    """``evaluation.json``: everything measured but the rows.

    :param digests: step name to digest: ingest, train, export, evaluate.
    :param labels: none where the task writes text.
    :param rows: test rows scored.
    :param excluded_rows: test rows left out because the champion was trained on them, exactly or nearly.
    :param challenger: precision to what was measured.
    :param parity: precision to parity.
    :param threads: of each process in which costs were measured.
    :param patterns: the regular expressions that the rows were searched for, in the order of the columns.
    :param anchor: the model that losses are measured against over time; ``None`` where that is the champion, where the
        channel has none, or where it could not be scored: ``anchor_error`` says why.
    :param positive_label: the label that metrics of one label score; ``None`` where none was measured.
    :param baseline: TF-IDF with logistic regression on the same rows; ``baseline_error`` says why there is none.
    :param drift: ``None`` without a champion, or where its bundle holds no profile of its training rows.
    :param suspects: labels that may be wrong; ``None`` where nobody looked, and ``suspects_error`` may say why.
    :param selection: how the challenger was chosen among several base models; ``None`` when there was one.
    :param challenger_withdrawn: this very bundle was live on the channel and was rolled back from.
    """

    file: ClassVar[str] = "evaluation.json"
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
    anchor: ChampionEvidence | None = None
    anchor_error: str | None = None
    challenger_withdrawn: bool = False
    parity: dict[str, ParityEvidence]
    threads: int | None = None
    leakage: Leakage = Leakage()
    patterns: tuple[str, ...] = ()
    positive_label: str | None = None
    baseline: ModelEvidence | None = None
    baseline_error: str | None = None
    drift: tuple[DriftMeasure, ...] | None = None
    drift_error: str | None = None
    suspects: Suspects | None = None
    suspects_error: str | None = None
    selection: Selection | None = None

    @property
    def writes(self) -> Writes:
        """What its models answer with.

        :raises IntegrityError: this version does not know the task.
        """
        return known_task(self.task, where=self.file).writes

    @property
    def family(self) -> Family | None:
        """The family of metrics that judge them.

        :raises IntegrityError: this version does not know the task.
        """
        return known_task(self.task, where=self.file).metrics

    @property
    def share_right(self) -> str:
        """The metric of theirs that is the share of rows that are right.

        :raises IntegrityError: as of ``family``.
        """
        return SHARE_RIGHT[self.family or "classification"]

    @property
    def positive(self) -> int:
        """The index of the positive label; of the second where none is named."""
        return self.labels.index(self.positive_label) if self.positive_label in self.labels else 1

    @property
    def models(self) -> dict[str, ModelEvidence]:
        """What was measured of each model: precisions of the challenger, ``champion``, ``anchor``, ``baseline``."""
        others = {CHAMPION: self.champion, ANCHOR: self.anchor, BASELINE: self.baseline}
        return {**self.challenger, **{name: model for name, model in others.items() if model is not None}}
