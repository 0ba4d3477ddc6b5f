"""The train step: fine-tune the base model on a snapshot, keep the best checkpoint, resume after a kill."""

from __future__ import annotations

import time
from pathlib import Path

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.artifacts.training import TrainingRecord, learning_curve, scores_at
from retrainer.chain import StepRequest, Trained
from retrainer.chain.messages import duration
from retrainer.spec.training_combinations import require_batches
from retrainer.tasks import trainable_task
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter
from retrainer.work.train.checkpoints import Checkpoints
from retrainer.work.train.loading import load_base
from retrainer.work.train.trainer import all_finite, build_trainer, device_name, diverged
from retrainer.work.training_arguments import refusals, training_arguments


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Trained | None:
    """Fill ``folder`` with ``checkpoint/`` and ``training.json``; the first rank alone, where there are several."""
    pipeline = request.pipeline
    task = trainable_task(pipeline.task, where=pipeline.name)
    snapshot = inputs["ingest"]
    statistics = SnapshotStatistics.load(snapshot)
    labels = statistics.labels
    positive = pipeline.positive(labels)
    artifacts = Artifacts(request.root)
    checkpoints = Checkpoints(artifacts, request.digest)
    rows: dict[str, int] = {split: part.rows for split, part in statistics.splits.items()}
    arguments = training_arguments(pipeline, checkpoints.folder, has_validation=rows["validation"] > 0)
    require_batches(pipeline, rows, devices=arguments.world_size * max(arguments.n_gpu, 1))
    resume = checkpoints.newest() if is_first_rank() else checkpoints.newest_local()
    with refusals(pipeline, request.root):
        base = load_base(pipeline, labels, reporter, fingerprint=request.identity["base"])
        encode = task.part("encode")
        train = encode(snapshot / "train.parquet", base.tokenizer, pipeline.model.max_length)
        validation = encode(snapshot / "validation.parquet", base.tokenizer, pipeline.model.max_length)
        trainer = build_trainer(pipeline, base, train, validation, arguments, checkpoints, reporter, positive=positive)
    device = device_name(arguments)
    reporter.log(
        f"fine-tuning {pipeline.model.base} on {device}: {len(train):,} rows, {len(validation):,} for validation"
    )
    if pipeline.of_one_label:
        reporter.log(f"{', '.join(pipeline.of_one_label)} is the score of label '{labels[positive]}'")
    if resume is not None:
        reporter.log(f"resuming from {resume.name}")

    started = time.monotonic()
    with refusals(pipeline, request.root):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    seconds = time.monotonic() - started
    trainer.require_finite_loss()
    if not all_finite(base.model):
        raise diverged(pipeline.name, "weights are no longer numbers")
    if not is_first_rank():
        return None

    curve = learning_curve(trainer.state.log_history)
    best_step = trainer.state.best_global_step or trainer.state.global_step
    scores = scores_at(curve, best_step)
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
        padding_fraction=trainer.padding_fraction,
        resumed_from=resume.name if resume else None,
        validation=scores,
        curve=curve,
        parameters=sum(parameter.numel() for parameter in base.model.parameters()),
    )
    trainer.save_model(str(folder / "checkpoint"))
    base.tokenizer.save_pretrained(folder / "checkpoint")
    # Written by the Trainer beside the weights; it pickles this host's paths and nothing reads it.
    (folder / "checkpoint" / "training_args.bin").unlink(missing_ok=True)
    record.save(folder)
    reporter.log(
        f"trained {record.epochs:g} epochs in {duration(seconds)}, {record.rows_per_second:.1f} rows/s; "
        f"the checkpoint of step {record.best_step} is kept"
    )
    return Trained(
        base_model=record.base_model,
        epochs=record.epochs,
        steps=record.steps,
        best_step=record.best_step,
        metrics=scores,
        rows_per_second=record.rows_per_second,
        seconds=seconds,
        device=device,
        resumed_from=record.resumed_from,
        parameters=record.parameters,
    )
