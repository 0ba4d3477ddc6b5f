"""Drift of the training rows (being written)."""

from __future__ import annotations

from collections.abc import Sequence

from retrainer.gate.records import DriftMeasure, DriftResult, Reason
from retrainer.spec.model import Drift


def judge_drift(
    policy: Drift, measures: Sequence[DriftMeasure], alpha: float
) -> tuple[tuple[DriftResult, ...], list[Reason]]:
    """Verdict of each measure, and reasons to refuse."""
    raise NotImplementedError
