"""The Trainer as retrainer runs it: dynamic padding, complete checkpoints, progress that a person can read."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from retrainer.errors import PipelineError
from retrainer.spec.model import Pipeline
from retrainer.tasks import trainable_task
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter
from retrainer.work.train.callbacks import callbacks_named
from retrainer.work.train.checkpoints import Checkpoints
from retrainer.work.train.encoding import EncodedRows
from retrainer.work.train.frozen import STATES, FrozenLayers, keep_states
from retrainer.work.train.loading import Base
from retrainer.work.train.lora import with_lora
from retrainer.work.train.sharing import Part, SharingTrainer
from retrainer.work.unpadded import STARTS, Unpadded

# Of a label in rows that may have any number of them. One row of a label that is rarer than about one in 20 is then as
# loud as all the rest of a usual batch of 16; louder, and clipping the gradient would silence the others for it.
MOST_WEIGHT = 20.0


class FineTuner(SharingTrainer):
    """A Trainer whose checkpoints are complete or absent, and which counts what it reads.

    :param checkpoints: where they go.
    :param where: the pipeline's name, for errors.
    :param frozen: what of the model does not learn.
    :param class_weights: for each label what the loss of a row that has it is multiplied by, or where a row has any
        number of labels, the loss of that label there; ``None`` for the model's own loss.
    """

    def __init__(
        self,
        *,
        checkpoints: Checkpoints,
        where: str,
        frozen: FrozenLayers | None = None,
        class_weights: npt.NDArray[np.float64] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._checkpoints = checkpoints
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self._frozen = frozen
        # Classifiers return the mean over their batch and ignore the number of items; told that they heed it, the
        # Trainer multiplies the loss by the number of processes and leaves out accumulation steps.
        self.model_accepts_loss_kwargs = False
        # The Trainer would delete old checkpoints before the new one is marked as complete.
        self._save_total_limit, self.args.save_total_limit = self.args.save_total_limit, None
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

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Score the validation rows, and stop where their loss is not a number though that of the training is."""
        scores: dict[str, float] = super().evaluate(*arguments, **named)
        loss = scores.get("eval_loss", 0.0)
        if not math.isfinite(loss):
            raise diverged(self._where, f"the loss of the validation rows is {loss:g} at step {self.state.global_step}")
        return scores

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # The newest loss came before the newest step: gradients too large to be numbers end in the weights.
        if not all_finite(self.model):
            raise diverged(self._where, f"weights are no longer numbers at step {self.state.global_step}")
        super()._save_checkpoint(model, trial)
        # Each process writes its own state of chance, and only files that are whole can be marked.
        self.accelerator.wait_for_everyone()
        if not self.args.should_save:
            return
        checkpoint = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        self._checkpoints.complete(checkpoint, step=self.state.global_step)
        self._checkpoints.rotate(self._save_total_limit, self.state.best_model_checkpoint)

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """Count, then train on, one batch."""
        mask = inputs.get("attention_mask")
        if STARTS in inputs:
            self._tokens += inputs["input_ids"].numel()
            self._attended = self._attended + inputs["input_ids"].numel()
        elif mask is not None:
            self._tokens += mask.numel()
            self._attended = self._attended + mask.sum()
        # Looked at when something is logged, evaluated or saved: in each step it would make a GPU wait.
        self._newest_loss = super().training_step(model, inputs, *arguments, **named)
        return self._newest_loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **named: Any) -> Any:
        """The loss of a batch, from what frozen layers made of it where that was kept."""
        states = inputs.get(STATES)
        rest = {name: values for name, values in inputs.items() if name != STATES}
        part = self.part_of(model, rest["labels"])
        if self._frozen is not None:
            self._frozen.rest()
        with self._frozen.given(states) if self._frozen is not None and states is not None else nullcontext():
            loss, outputs = self._weighted_loss(model, rest, part, **named)
        if model.training:
            loss = loss * part.factor
        return (loss, outputs) if return_outputs else loss

    def _weighted_loss(self, model: Any, inputs: dict[str, Any], part: Part, **named: Any) -> tuple[Any, Any]:
        """The loss of a batch and the model's outputs, weighted while it trains; on validation rows it stays
        comparable with other trainings.

        The weighted losses are divided by the number of rows, not by the sum of their weights: so the mean over
        batches, processes and accumulation steps is that of all rows, however they are divided up.
        """
        labels = inputs["labels"]
        weights = self._class_weights if model.training else None
        of_each_label = labels.dim() == 2 and labels.is_floating_point()
        if part.rows and weights is None and not (of_each_label and part.rows < len(labels)):
            loss, outputs = super().compute_loss(model, inputs, True, **named)
            return loss, outputs
        outputs = model(**{name: values for name, values in inputs.items() if name != "labels"})
        logits, labels = outputs["logits"].float(), labels[: part.rows]
        if not part.rows:  # the other processes wait for its gradients
            return logits.sum() * 0.0, outputs
        logits = logits[: part.rows]
        if weights is not None:
            weights = weights.to(labels.device)
        if of_each_label:
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights), outputs
        assert weights is not None, "without weights the model has its own loss"
        losses = torch.nn.functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.args.label_smoothing_factor
        )
        return (losses * weights[labels]).mean(), outputs

    def padding_fraction(self) -> float:
        """Share of padding among the tokens that were trained on; all processes have to ask."""
        tokens, attended = self.summed(self._tokens, int(self._attended))
        return 1.0 - attended / tokens if tokens else 0.0


class Counting(Protocol):
    """Whoever counts the rows that a training has read."""

    rows_seen: int


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Relays step, epoch, loss, rows per second and scores to the parent process."""

    def __init__(self, reporter: Reporter, names: tuple[str, ...], trainer: Counting) -> None:
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
    class_weights: npt.NDArray[np.float64] | None = None,
    unpadded: Unpadded | None = None,
) -> FineTuner:
    """Put a training together.

    :param positive: index of the label that metrics of one label score.
    :param class_weights: see ``FineTuner``.
    :param unpadded: of the base's model, where it is to be trained without padding.
    """
    task = trainable_task(pipeline.task, where=pipeline.name)
    half = arguments.fp16 or arguments.bf16
    scores = task.part("training_scores")(pipeline.metrics, positive=positive, where=pipeline.name)
    callbacks = callbacks_named(pipeline)
    model: Any = base.model
    frozen = None
    if pipeline.training.freeze_layers is not None:
        frozen = FrozenLayers(model, pipeline.training.freeze_layers, new=base.new, where=pipeline.name)
    if pipeline.training.peft is not None:
        model = with_lora(model, pipeline.training.peft, new=base.new, where=pipeline.name)
    if pipeline.training.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(pipeline.training.early_stopping_patience))
    trainer = FineTuner(
        checkpoints=checkpoints,
        where=pipeline.name,
        class_weights=class_weights,
        frozen=frozen,
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation if len(validation) else None,
        processing_class=base.tokenizer,
        data_collator=task.part("collate")(base, pad_to_multiple_of=8 if half else None),
        compute_metrics=scores.compute,
        preprocess_logits_for_metrics=scores.of_batch,
        callbacks=callbacks,
    )
    trainer.unpadded = unpadded
    trainer.remove_callback(PrinterCallback)
    if frozen is not None:
        keep_states(pipeline, frozen, trainer, checkpoints.folder, reporter)
    if is_first_rank():
        trainer.add_callback(ProgressCallback(reporter, pipeline.metrics, trainer))
    return trainer


def balanced(labels: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """What makes rare labels weigh as much as common ones: rows over labels times rows of the label.

    The mean over the rows is 1, so the learning rate means what it means without. Where a row has any number of labels,
    it is rows without a label over rows with it, up to ``MOST_WEIGHT``: so that having it counts as much as not.

    :param labels: of the training rows, as ``EncodedRows`` has them.
    :param count: of labels; where a row has one label, those without a row get no weight.
    """
    if labels.ndim == 2:
        having = labels.sum(axis=0, dtype=np.float64)
        # A label that all rows have, or none, has nothing to be balanced against, but still has to be learnt.
        mixed = (having > 0) & (having < len(labels))
        ratio = np.divide(len(labels) - having, having, out=np.ones(count), where=mixed)
        capped: npt.NDArray[np.float64] = np.minimum(ratio, MOST_WEIGHT)
        return capped
    rows = np.bincount(labels, minlength=count)
    there = np.count_nonzero(rows)
    weights = np.zeros(count)
    weights[rows > 0] = len(labels) / (there * rows[rows > 0])
    return weights


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
    name = f"{arguments.device.type} ({torch.get_num_threads()} threads)"
    return f"{arguments.world_size} x {name}" if arguments.world_size > 1 else name
