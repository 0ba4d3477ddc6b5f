"""A training whose batch does not fit into the GPU's memory: taken up again in smaller batches, with the same steps.

Not transformers' ``auto_find_batch_size``: that makes the batch a tenth smaller and leaves the accumulation as it is,
so that each step of the optimizer sees fewer rows, and there are more steps, than the pipeline file says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils import release_memory
from transformers import TrainingArguments

from retrainer.errors import OutOfGpuMemory, first_line
from retrainer.spec.model import Pipeline
from retrainer.spec.training_combinations import worked_out
from retrainer.work.reporter import Reporter

Result = TypeVar("Result")

_TRAIN, _ACCUMULATION, _EVAL = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
)


@dataclass(frozen=True, slots=True)
class Batches:
    """How the rows of a step reach a device.

    :param rows: of a batch; ``accumulated`` batches make a step.
    :param evaluated: rows of a batch of an evaluation, which changes no score.
    """

    rows: int
    accumulated: int
    evaluated: int

    @classmethod
    def of(cls, pipeline: Pipeline) -> Batches:
        """Those that a pipeline asks for."""
        values = worked_out(pipeline, has_validation=True)
        rows, accumulated, evaluated = (
            int(values.get(name, getattr(TrainingArguments, name))) for name in (_TRAIN, _ACCUMULATION, _EVAL)
        )
        return cls(rows, accumulated, evaluated)

    def halved(self) -> Batches:
        """At most half the rows at once and as many in a step: an odd batch is not halved but divided."""
        rows = next(rows for rows in range(self.rows // 2, 0, -1) if self.rows % rows == 0)
        return Batches(rows, self.accumulated * (self.rows // rows), max(self.evaluated // 2, 1))

    def arguments(self) -> dict[str, Any]:
        """As arguments of a training."""
        return {_TRAIN: self.rows, _ACCUMULATION: self.accumulated, _EVAL: self.evaluated}


def within_memory(train: Callable[[Batches], Result], pipeline: Pipeline, reporter: Reporter) -> Result:
    """What ``train`` returns, called again with smaller batches each time that the GPU's memory runs out.

    It goes on from its newest checkpoint by itself, and makes everything anew: nothing of the failed try is kept.

    :raises OutOfGpuMemory: one row is too much, or the batches of this training cannot be made smaller.
    """
    batches = Batches.of(pipeline)
    while True:
        try:
            return train(batches)
        except torch.OutOfMemoryError as error:
            said = first_line(error)
        if batches.rows == 1:
            raise OutOfGpuMemory(
                f"the GPU is out of memory with one row at a time: {said}",
                where=f"{pipeline.name}: training.{_TRAIN}",
                hint="lower model.max_length, set gradient_checkpointing, bf16 or a smaller base, or take a larger GPU",
            )
        if why := _why_not(pipeline):
            raise OutOfGpuMemory(
                f"the GPU is out of memory with batches of {batches.rows:,}, which stay as they are {why}: {said}",
                where=f"{pipeline.name}: training.{_TRAIN}",
                hint=f"halve it, and double {_ACCUMULATION} to train the same",
            )
        smaller = batches.halved()
        reporter.log(
            f"the GPU is out of memory with batches of {batches.rows:,} rows, {batches.accumulated:,} a step; again "
            f"with {smaller.rows:,} rows, {smaller.accumulated:,} a step ({said})",
            level="warning",
        )
        batches = smaller
        # The frames of the error held model, optimizer and a batch; they are gone, but for circles among them.
        release_memory()


def _why_not(pipeline: Pipeline) -> str | None:
    """Why smaller batches would not give the same steps, or not in all processes; ``None`` where they would."""
    given = pipeline.training.arguments
    if pipeline.resources.processes > 1:
        # Each would have to learn that another one failed while it waits for that one's gradients.
        return "where several processes train"
    if given.get("dataloader_drop_last"):
        return "with dataloader_drop_last, which would drop other rows"
    return None
