"""The Trainer as retrainer runs it: dynamic padding, complete checkpoints, progress that a person can read."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from retrainer.errors import PipelineError
from retrainer.spec.model import Pipeline
from retrainer.tasks import trainable_task
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter
from retrainer.work.train.checkpoints import Checkpoints
from retrainer.work.train.encoding import EncodedRows
from retrainer.work.train.loading import Base


class FineTuner(Trainer):  # type: ignore[misc]
    """A Trainer whose checkpoints are complete or absent, and which counts what it reads.

    :param checkpoints: where they go.
    :param where: the pipeline's name, for errors.
    """

    def __init__(self, *, checkpoints: Checkpoints, where: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._checkpoints = checkpoints
        # Classifiers return the mean over their batch and ignore the number of items; told that they heed it, the
        # Trainer multiplies the loss by the number of processes and leaves out accumulation steps.
        self.model_accepts_loss_kwargs = False
        # The Trainer would delete old checkpoints before the new one is marked as complete.
        self._save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.rows_seen = 0
        self._tokens = 0
        # A tensor on the device: reading it in each step would make a GPU wait.
        self._attended: Any = 0
        self._newest_loss: Any = None
        self._where = where

    def _maybe_log_save_evaluate(self, *arguments: Any, **named: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.require_finite_loss()
        super()._maybe_log_save_evaluate(*arguments, **named)

    def require_finite_loss(self) -> None:
        """Stop a training that ran away, before a checkpoint of it is kept.

        :raises PipelineError: the newest loss is not a number.
        """
        if self._newest_loss is not None and not bool(torch.isfinite(self._newest_loss).all()):
            raise diverged(self._where, f"the loss is {float(self._newest_loss):g} at step {self.state.global_step}")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self.args.should_save:
            return
        checkpoint = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        self._checkpoints.complete(checkpoint, step=self.state.global_step)
        self._checkpoints.rotate(self._save_total_limit, self.state.best_model_checkpoint)

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """Count, then train on, one batch."""
        mask = inputs.get("attention_mask")
        if mask is not None:
            self._tokens += mask.numel()
            self._attended = self._attended + mask.sum()
        self.rows_seen += len(inputs["labels"]) * self.args.world_size
        # Looked at when something is logged, evaluated or saved: in each step it would make a GPU wait.
        self._newest_loss = super().training_step(model, inputs, *arguments, **named)
        return self._newest_loss

    @property
    def padding_fraction(self) -> float:
        """Share of padding among the tokens that this process trained on."""
        return 1.0 - int(self._attended) / self._tokens if self._tokens else 0.0


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Relays step, epoch, loss, rows per second and scores to the parent process."""

    def __init__(self, reporter: Reporter, names: tuple[str, ...], trainer: FineTuner) -> None:
        self._trainer = trainer
        self._reporter = reporter
        self._names = names
        self._loss: float | None = None
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say how far it is."""
        figures = {"epoch": float(state.epoch or 0.0)}
        if self._loss is not None:
            figures["loss"] = self._loss
        figures["rows_per_second"] = self._trainer.rows_seen / max(time.monotonic() - self._started, 1e-6)
        self._reporter.progress("training", done=state.global_step, total=state.max_steps, unit="step", **figures)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Remember the loss that the Trainer averaged."""
        if logs and math.isfinite(logs.get("loss", math.nan)):
            self._loss = float(logs["loss"])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """Say the scores after an epoch."""
        values = {name: metrics[f"eval_{name}"] for name in ("loss", *self._names) if f"eval_{name}" in metrics}
        # Some metrics have no value on few rows, such as those of a label that none of them has.
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._reporter.metrics(float(state.epoch or 0.0), values)


def build_trainer(
    pipeline: Pipeline,
    base: Base,
    train: EncodedRows,
    validation: EncodedRows,
    arguments: TrainingArguments,
    checkpoints: Checkpoints,
    reporter: Reporter,
    *,
    positive: int,
) -> FineTuner:
    """Put a training together.

    :param positive: index of the label that metrics of one label score.
    """
    task = trainable_task(pipeline.task, where=pipeline.name)
    half = arguments.fp16 or arguments.bf16
    callbacks: list[TrainerCallback] = []
    if pipeline.training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(pipeline.training.early_stopping_patience))
    trainer = FineTuner(
        checkpoints=checkpoints,
        where=pipeline.name,
        model=base.model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation if len(validation) else None,
        processing_class=base.tokenizer,
        data_collator=task.part("collate")(base, pad_to_multiple_of=8 if half else None),
        compute_metrics=task.part("training_scores")(pipeline.metrics, positive=positive, where=pipeline.name),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if is_first_rank():
        trainer.add_callback(ProgressCallback(reporter, pipeline.metrics, trainer))
    return trainer


def diverged(where: str, what: str) -> PipelineError:
    """The error to raise.

    :param where: the pipeline's name.
    :param what: how it showed.
    """
    return PipelineError(
        f"the training diverged: {what}",
        where=f"{where}: training",
        hint="lower learning_rate, raise warmup_steps, or check the base model's weights; nothing was published",
    )


def all_finite(model: torch.nn.Module) -> bool:
    """Whether every weight is a number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def device_name(arguments: TrainingArguments) -> str:
    """The device for people: ``cpu (2 threads)``, ``2 x NVIDIA H200``."""
    if arguments.device.type == "cuda":
        count = max(arguments.n_gpu, arguments.world_size)
        name = torch.cuda.get_device_name(arguments.device)
        return f"{count} x {name}" if count > 1 else name
    return f"{arguments.device.type} ({torch.get_num_threads()} threads)"
