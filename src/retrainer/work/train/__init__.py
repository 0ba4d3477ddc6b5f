"""The train step: fine-tune the base model on a snapshot, keep the best checkpoint, resume after a kill."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from transformers import TrainingArguments

from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.artifacts.training import Choice, Padding, TrainingRecord, Tried, learning_curve, scores_at, weights_line
from retrainer.chain import StepRequest, Trained
from retrainer.chain.messages import duration
from retrainer.spec.model import Pipeline
from retrainer.spec.training_combinations import require_batches
from retrainer.tasks import TASKS, trainable_task
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter
from retrainer.work.train.automatic import arguments_of, as_before, choices_of, padding_of
from retrainer.work.train.checkpoints import Checkpoints, Marker, checkpoints_of, only_tensors
from retrainer.work.train.encoding import say_what_was_cut
from retrainer.work.train.from_champion import use_champion
from retrainer.work.train.loading import load_base
from retrainer.work.train.lora import merged
from retrainer.work.train.memory import Batches, within_memory
from retrainer.work.train.trainer import FineTuner, all_finite, balanced, build_trainer, device_name, diverged
from retrainer.work.training_arguments import refusals, training_arguments


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Trained | None:
    """Fill ``folder`` with ``checkpoint/`` and ``training.json``; the first rank alone, where there are several.

    Where the champion is part of the weights, ``blended_with/`` is about the rows that it was trained on.
    """
    if request.pipeline.training.trainer is not None:
        from retrainer.work.train import own_trainer  # it needs datasets, which no other training does

        return own_trainer.train(request, inputs["ingest"], folder, reporter)
    return within_memory(partial(_train, request, inputs, folder, reporter), request.pipeline, reporter)


def _train(
    request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter, batches: Batches
) -> Trained | None:
    """All of it, in batches of that size, from the newest checkpoint."""
    pipeline = request.pipeline
    task = trainable_task(pipeline.task, where=pipeline.name)
    snapshot = inputs["ingest"]
    statistics = SnapshotStatistics.load(snapshot)
    labels = statistics.labels
    positive = pipeline.positive(labels)
    checkpoints = checkpoints_of(request, reporter)
    rows: dict[str, int] = {split: part.rows for split, part in statistics.splits.items()}
    arguments, choices, resume = _arguments(pipeline, checkpoints, rows, batches)
    with refusals(pipeline, request.root):
        base = load_base(pipeline, labels, reporter, fingerprint=request.identity["base"])
        encode = task.part("encode")
        train = encode(snapshot / "train.parquet", base.tokenizer, pipeline.model)
        validation = encode(snapshot / "validation.parquet", base.tokenizer, pipeline.model)
        weights = balanced(train.labels, len(labels)) if pipeline.training.class_weights == "balanced" else None
    class_weights = {} if weights is None else dict(zip(labels, weights.tolist(), strict=True))
    cut = say_what_was_cut({"train": train, "validation": validation}, pipeline.model, reporter)
    # Before the training: what is wrong with a checkpoint is then known in seconds.
    champion = use_champion(request, snapshot, base, labels, train, validation, reporter)
    # Beside the checkpoint it is kept; where transformers writes, everything is deleted in the end.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    unpadded, padding = padding_of(pipeline, base, train, arguments, _before(checkpoints).padding)
    _note_try(checkpoints, resume, choices, padding, reporter)
    with refusals(pipeline, request.root):
        trainer = build_trainer(
            pipeline,
            base,
            train,
            validation,
            arguments,
            checkpoints,
            reporter,
            positive=positive,
            class_weights=weights,
            unpadded=unpadded,
        )
    learning = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    device = device_name(arguments)
    _say_what_begins(pipeline, device, labels, rows, class_weights, resume, reporter)
    _say_what_was_chosen(pipeline, choices, padding, reporter)

    started = time.monotonic()
    with refusals(pipeline, request.root), only_tensors(resume):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.monotonic() - started
    trainer.require_finite_loss()
    if not all_finite(base.model):
        raise diverged(pipeline.name, "weights are no longer numbers")
    padding_fraction = trainer.padding_fraction()
    if not is_first_rank():
        return None

    curve = learning_curve(trainer.state.log_history)
    best_step = trainer.state.best_global_step or trainer.state.global_step
    if pipeline.training.peft is not None:
        trainer.model = merged(trainer.model)
    blended, of_blend = champion.blended(trainer, validation, pipeline.metrics[0], reporter, positive=positive)
    champion.leave_its_rows(folder, blended)
    scores = of_blend or scores_at(curve, best_step)
    record = TrainingRecord(
        base_model=request.identity["base_name"],
        base_fingerprint=request.identity["base"],
        device=device,
        processes=pipeline.resources.processes,
        epochs=float(trainer.state.epoch or 0.0),
        steps=trainer.state.global_step,
        best_step=best_step,
        seconds=seconds,
        rows_per_second=trainer.rows_seen / seconds,
        padding_fraction=padding_fraction,
        resumed_from=resume.name if resume else None,
        validation=scores,
        curve=curve,
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        class_weights=class_weights,
        blend=blended,
        cut=cut,
        trained_parameters=learning,
        warm_start=champion.start,
        batch_size=batches.rows,
        accumulated_batches=batches.accumulated,
        out_of_memory=batches != Batches.of(pipeline),
        chosen=choices,
        padding=padding,
        tries=checkpoints.tries,
    )
    _keep(trainer, folder / "checkpoint")
    record.save(folder)
    reporter.log(
        f"trained {record.epochs:g} epochs in {duration(seconds)}, {record.rows_per_second:.1f} rows/s; "
        f"the checkpoint of step {record.best_step} is kept"
    )
    return Trained.of(record)


def _arguments(
    pipeline: Pipeline, checkpoints: Checkpoints, rows: dict[str, int], batches: Batches
) -> tuple[TrainingArguments, tuple[Choice, ...], Path | None]:
    """The arguments, what of them was chosen, and the checkpoint to resume from, whose tries are noted."""
    has_validation = rows["validation"] > 0
    more = batches.arguments()
    arguments = training_arguments(pipeline, checkpoints.folder, has_validation=has_validation, more=more)
    require_batches(pipeline, rows, devices=arguments.world_size * max(arguments.n_gpu, 1))
    resume = checkpoints.to_resume_from(arguments)
    checkpoints.tries = Marker.load(resume).tries if resume else ()
    choices = choices_of(pipeline, rows["train"], batch=Batches.of(pipeline).rows)
    choices = as_before(choices, _before(checkpoints))
    if choices:
        more |= arguments_of(choices)
        arguments = training_arguments(pipeline, checkpoints.folder, has_validation=has_validation, more=more)
    return arguments, choices, resume


def _before(checkpoints: Checkpoints) -> Tried:
    """The try that wrote the checkpoint; an empty one where it chose nothing, or there is none."""
    return checkpoints.tries[-1] if checkpoints.tries else Tried(step=0)


def _note_try(
    checkpoints: Checkpoints,
    resume: Path | None,
    choices: tuple[Choice, ...],
    padding: Padding | None,
    reporter: Reporter,
) -> None:
    """Note with the checkpoints to come, and with the result, what this try was given."""
    if not choices and padding is None:
        return
    tried = Tried(step=Marker.load(resume).step if resume else 0, chosen=choices, padding=padding)
    if not checkpoints.tries:
        checkpoints.tries = (tried,)
    elif tried.differs(checkpoints.tries[-1]):
        checkpoints.tries = (*checkpoints.tries, tried)
        reporter.log(f"the choices differ from those that {resume and resume.name} was trained with", level="warning")


def _say_what_begins(
    pipeline: Pipeline,
    device: str,
    labels: tuple[str, ...],
    rows: dict[str, int],
    class_weights: dict[str, float],
    resume: Path | None,
    reporter: Reporter,
) -> None:
    reporter.log(
        f"fine-tuning {pipeline.model.base} on {device}: {rows['train']:,} rows, {rows['validation']:,} for validation"
    )
    if pipeline.of_one_label:
        reporter.log(f"{', '.join(pipeline.of_one_label)} is the score of label '{labels[pipeline.positive(labels)]}'")
    if class_weights:
        what = "a label where a row has it is multiplied by its weight"
        if TASKS[pipeline.task].writes != "labels":
            what = "a row is multiplied by the weight of its label"
        reporter.log(f"the loss of {what}: {weights_line(class_weights)}")
    if resume is not None:
        reporter.log(f"resuming from {resume.name}")


def _say_what_was_chosen(
    pipeline: Pipeline, choices: tuple[Choice, ...], padding: Padding | None, reporter: Reporter
) -> None:
    for choice in choices:
        reporter.log(f"training.auto: {choice.line()}")
    if padding is not None:
        # Who asked for it by name is warned where it cannot be.
        warns = padding.why is not None and pipeline.training.unpadded
        reporter.log(f"padding: {padding.line()}", level="warning" if warns else "info")


def _keep(trainer: FineTuner, checkpoint: Path) -> None:
    trainer.save_model(str(checkpoint))
    trainer.processing_class.save_pretrained(checkpoint)
    # Written by the Trainer beside the weights; it pickles this host's paths and nothing reads it.
    (checkpoint / "training_args.bin").unlink(missing_ok=True)
