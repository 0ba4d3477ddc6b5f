"""The record of a selection among several base models, ``selection.json``.

Not here: the rule by which one is chosen (``gate/selection.py``), scoring and timing (``work/select``).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from retrainer.artifacts.measures import Interval, Latency, Score
from retrainer.records import FileRecord, Record


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


class Selection(FileRecord):
    """Which of several base models became the challenger, and why. It was chosen on validation rows.

    :param agreement: share of rows on which two candidates predict the same label, base to base.
    :param chosen: base of the candidate.
    :param why: one sentence.
    """

    file: ClassVar[str] = "selection.json"
    format_version: Literal[1] = 1
    metric: str
    rows: int
    candidates: tuple[Candidate, ...]
    agreement: dict[str, dict[str, float]]
    chosen: str
    why: str
