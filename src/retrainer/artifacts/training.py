"""The record of a training, ``training.json``: how a checkpoint came to be. Not here: how to train (``work/train``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from retrainer.records import FileRecord, Record


class CurvePoint(Record):
    """One entry of the learning curve: a training loss, or scores on validation."""

    step: int
    epoch: float
    loss: float | None = None
    validation: dict[str, float] = Field(default_factory=dict)


class Choice(Record):
    """What ``training.auto`` chose.

    :param argument: of ``TrainingArguments``.
    :param why: in a few words, also where it is what would have been without.
    """

    argument: str
    value: bool | int | str
    why: str

    def line(self) -> str:
        """For people: ``bf16 true (the GPU computes it)``."""
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.argument} {value} ({self.why})"


class Padding(Record):
    """What became of ``training.unpadded``, which ``training.auto`` asks for, too.

    :param why: batches were padded all the same; ``None`` where they were not.
    :param dropout_left_out: of attention: the share that the model's configuration asks for, and that the kernel for
        rows without padding does not have.
    """

    why: str | None = None
    dropout_left_out: float = 0.0

    def line(self) -> str:
        """For people."""
        if self.why is not None:
            return f"padded: {self.why}"
        dropout = self.dropout_left_out
        return "none" + (f"; so attention has no dropout, and the model asks for {dropout:.0%}" if dropout else "")


class Tried(Record):
    """What one try of a training was given, where machines may choose otherwise.

    :param step: at which it began.
    """

    step: int
    chosen: tuple[Choice, ...] = ()
    padding: Padding | None = None

    def differs(self, other: Tried) -> bool:
        """Whether they were given something else, whatever the reasons."""
        ours, theirs = ({one.argument: one.value for one in tried.chosen} for tried in (self, other))
        padded, also = (tried.padding is not None and tried.padding.why is not None for tried in (self, other))
        return ours != theirs or padded != also


class TriedShare(Record):
    """What the model would answer with so much of the champion in its weights.

    :param score: on the validation rows that neither model was trained on; ``None`` where the metric has no value.
    :param no_worse: these rows do not show that the score is worse than that of the unblended model.
    :param harmful: of these rows, those that the champion had right and this has wrong; ``beneficial`` is the reverse.
    """

    share: float
    score: float | None
    no_worse: bool
    harmful: int
    beneficial: int


class Blend(Record):
    """What became of ``training.blend_with_champion``.

    :param champion: its version; ``None`` where the channel has none that can be read.
    :param share: of the champion in the weights that were kept; 0 is the model as it was trained.
    :param why_not: why no share could be tried; ``None`` where they were.
    :param metric: by which the shares were compared; ``rows`` of validation, without the ``left_out`` ones, which the
        champion was trained on.
    :param tried: every share, in order.
    """

    champion: str | None = None
    share: float = 0.0
    why_not: str | None = None
    metric: str = ""
    rows: int = 0
    left_out: int = 0
    tried: tuple[TriedShare, ...] = ()

    def short(self) -> str:
        """How much of what, in a few words."""
        return self.why_not or f"{self.share:.0%} of version {self.champion}"

    def line(self) -> str:
        """In a sentence."""
        if self.why_not is not None:
            return f"not blended with a champion: {self.why_not}"
        plain = self.tried[0]
        kept = next(one for one in self.tried if one.share == self.share)
        if not self.share:
            return (
                f"not blended with the champion, version {self.champion}: no share of it makes fewer harmful flips "
                f"without a worse {self.metric}"
            )
        return (
            f"blended with {self.share:.0%} of the champion, version {self.champion}: on {self.rows:,} validation rows "
            f"harmful flips go from {plain.harmful:,} to {kept.harmful:,}, beneficial ones from {plain.beneficial:,} "
            f"to {kept.beneficial:,}, {self.metric} from {plain.score:.4f} to {kept.score:.4f}"
        )


class CutRows(Record):
    """How many rows were longer than a training reads.

    :param inputs: than ``model.max_length``.
    :param outputs: than ``model.max_new_tokens``.
    """

    inputs: int
    outputs: int


class WarmStart(Record):
    """What became of ``training.warm_start``.

    :param champion: its version; ``None`` where the channel has none that can be read.
    :param why_not: why the training did not start from it; ``None`` where it did.
    :param seen_validation: so many of the validation rows the champion was trained on.
    """

    champion: str | None = None
    why_not: str | None = None
    seen_validation: int = 0

    def short(self) -> str:
        """From what, in a few words."""
        return f"the base model: {self.why_not}" if self.why_not else f"the champion, version {self.champion}"

    def line(self) -> str:
        """In a sentence."""
        seen = f"; it was trained on {self.seen_validation:,} of the validation rows" if self.seen_validation else ""
        return f"training starts from {self.short()}{seen}"


class TrainingRecord(FileRecord):
    """How a checkpoint came to be.

    :param base_model: the hub id, or the name of the folder or package without where it is.
    :param rows_per_second: training rows over the wall time of the loop, validation included.
    :param padding_fraction: share of the tokens in training batches that were padding; ``None`` where it is not known.
    :param resumed_from: checkpoint that this try went on from; ``None`` when it started at the base model.
    :param validation: scores of the weights that were kept, blended or not.
    :param class_weights: label to what the loss of its rows was multiplied by; empty where all counted alike.
    :param blend: ``None`` where the pipeline does not ask for it, as ``warm_start``.
    :param cut: split to its rows that were too long; empty where they are not counted.
    :param trained_parameters: those of the model that learnt, or of what learnt beside it; ``None`` in records of
        releases that did not count them.
    :param batch_size: rows that each device took at once; ``accumulated_batches`` of them made a step.
    :param out_of_memory: whether these are not those of the pipeline file, which did not fit into the GPU's memory.
    :param chosen: by ``training.auto``; empty without.
    :param padding: ``None`` where nobody asked to do without.
    :param tries: each that was given something else than the one before, where ``chosen`` or ``padding`` says anything;
        the last is that of ``chosen`` and ``padding``.
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
    padding_fraction: float | None
    resumed_from: str | None
    validation: dict[str, float]
    curve: tuple[CurvePoint, ...]
    parameters: int
    class_weights: dict[str, float] = Field(default_factory=dict)
    blend: Blend | None = None
    cut: dict[str, CutRows] = Field(default_factory=dict)
    trained_parameters: int | None = None
    warm_start: WarmStart | None = None
    batch_size: int | None = None
    accumulated_batches: int | None = None
    out_of_memory: bool = False
    chosen: tuple[Choice, ...] = ()
    padding: Padding | None = None
    tries: tuple[Tried, ...] = ()

    def smaller_batches(self) -> str | None:
        """What the GPU's memory took, for people; ``None`` where that was what the pipeline asks for."""
        if not self.out_of_memory:
            return None
        return f"{self.batch_size:,} rows, {self.accumulated_batches:,} a step, for the GPU's memory took no more"


def weights_line(class_weights: Mapping[str, float]) -> str:
    """Class weights for people: ``closed 0.6, open 2.5``."""
    return ", ".join(f"{label} {weight:.3g}" for label, weight in class_weights.items())


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
