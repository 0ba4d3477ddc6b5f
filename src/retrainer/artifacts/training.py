"""The record of a training, ``training.json``: how a checkpoint came to be. Not here: how to train (``work/train``)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrainer.records import FileRecord, Record


class CurvePoint(Record):
    """One entry of the learning curve: a training loss, or scores on validation."""

    step: int
    epoch: float
    loss: float | None = None
    validation: dict[str, float] = Field(default_factory=dict)


class TrainingRecord(FileRecord):
    """How a checkpoint came to be.

    :param base_model: the hub id, or the name of the folder or package without where it is.
    :param rows_per_second: training rows over the wall time of the loop, validation included.
    :param padding_fraction: share of the tokens in training batches that were padding.
    :param resumed_from: checkpoint that this try went on from; ``None`` when it started at the base model.
    """

    file: ClassVar[str] = "training.json"
    format_version: Literal[1] = 1
    base_model: str
    base_fingerprint: str
    device: str
    processes: int
    epochs: float
    steps: int
    best_step: int
    seconds: float
    rows_per_second: float
    padding_fraction: float
    resumed_from: str | None
    validation: dict[str, float]
    curve: tuple[CurvePoint, ...]
    parameters: int


def learning_curve(history: list[dict[str, Any]]) -> tuple[CurvePoint, ...]:
    """The Trainer's log history, reduced to losses and scores; what has no value is left out."""
    points = []
    for entry in history:
        scores = {
            name.removeprefix("eval_"): float(value)
            for name, value in entry.items()
            if name.startswith("eval_") and not name.endswith(("_runtime", "_per_second")) and math.isfinite(value)
        }
        if "loss" in entry or scores:
            loss = float(entry["loss"]) if math.isfinite(entry.get("loss", math.nan)) else None
            points.append(CurvePoint(step=entry["step"], epoch=entry["epoch"], loss=loss, validation=scores))
    return tuple(points)


def scores_at(curve: tuple[CurvePoint, ...], step: int) -> dict[str, float]:
    """The validation scores of one step; empty when it was not evaluated."""
    return next((point.validation for point in curve if point.step == step and point.validation), {})
