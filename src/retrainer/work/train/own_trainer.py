"""``training.trainer``: somebody's own trainer in the place of the train step's, with its checkpoints and its record.

Not here: what a trainer is (``work/trainers.py``).
"""

from __future__ import annotations

import importlib
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerState

from retrainer.artifacts.snapshot import SnapshotStatistics, SplitName, split_file
from retrainer.artifacts.training import TrainingRecord, learning_curve, scores_at
from retrainer.chain import StepRequest, Trained
from retrainer.errors import ModelError, PipelineError, first_line
from retrainer.spec.model import Pipeline
from retrainer.spec.problems import listed, suggestion
from retrainer.tasks import TASKS
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import read_split
from retrainer.work.train.checkpoints import checkpoints_of, only_tensors
from retrainer.work.train.loading import base_folder
from retrainer.work.train.trainer import ProgressCallback, all_finite, device_name, diverged
from retrainer.work.trainers import BaseTrainer, TrainingRun
from retrainer.work.training_arguments import argument_values, refusals, training_arguments

# What datasets in memory call the columns of a snapshot, for tasks that write text.
_COLUMNS = {"text": "model_input", "target": "model_output"}


class Watching(ProgressCallback):
    """Keeps what the record of a training needs, and marks each checkpoint as complete."""

    def __init__(self, run: TrainingRun, names: tuple[str, ...]) -> None:
        super().__init__(run.reporter, names, run)
        self._run = run
        self._limit: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Rotate checkpoints here, for the Trainer would delete old ones before a new one is marked as complete."""
        self._limit, args.save_total_limit = args.save_total_limit, None
        self._run.state = state
        super().on_train_begin(args, state, control, **more)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Count the rows of full batches: those of the last one of an epoch are not known here."""
        self._run.rows_seen += args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        super().on_step_end(args, state, control, **more)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """A checkpoint is written, once each process has written its own state of chance."""
        args.distributed_state.wait_for_everyone()
        checkpoints = self._run.checkpoints
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if checkpoints is not None and args.should_save and checkpoint.parent == checkpoints.folder:
            checkpoints.complete(checkpoint, step=state.global_step)
            checkpoints.rotate(self._limit, state.best_model_checkpoint)


def train(request: StepRequest, snapshot: Path, folder: Path, reporter: Reporter) -> Trained | None:
    """Fill ``folder`` as the train step does, with the model that the pipeline's own trainer gives.

    :raises PipelineError: there is no such trainer, or it cannot be made.
    :raises ModelError: what it gives cannot be exported for the task.
    """
    pipeline = request.pipeline
    statistics = SnapshotStatistics.load(snapshot)
    validates = statistics.splits["validation"].rows > 0
    checkpoints = checkpoints_of(request, reporter)
    arguments = training_arguments(pipeline, checkpoints.folder, has_validation=validates)
    resume = checkpoints.to_resume_from(arguments)
    run = TrainingRun(
        validation=_dataset(snapshot, "validation", statistics.labels) if validates else None,
        resume_from=str(resume) if resume else None,
        pipeline=pipeline,
        checkpoints=checkpoints,
        reporter=reporter,
    )
    patience = pipeline.training.early_stopping_patience
    run.callbacks = [Watching(run, pipeline.metrics), *([EarlyStoppingCallback(patience)] if patience else [])]
    kind = trainer_class(pipeline)
    reporter.log(f"{pipeline.training.trainer} trains {pipeline.model.base} on {device_name(arguments)}")
    if resume is not None:
        reporter.log(f"resuming from {resume.name}")
    values = argument_values(pipeline, checkpoints.folder, has_validation=validates)
    started = time.monotonic()
    with ExitStack() as stack, refusals(pipeline, request.root), only_tensors(resume):
        name = base_folder(pipeline, request.identity["base"], stack, reporter)
        trainer = _made(kind, pipeline, name)
        trainer.run = run
        model, tokenizer = trainer.train_model([_dataset(snapshot, "train", statistics.labels)], values)
    seconds = time.monotonic() - started
    _require_fit(model, statistics.labels, pipeline)
    if not is_first_rank():
        return None
    state = run.state or TrainerState()
    curve = learning_curve(state.log_history)
    best_step = state.best_global_step or state.global_step
    record = TrainingRecord(
        base_model=request.identity["base_name"],
        base_fingerprint=request.identity["base"],
        device=device_name(arguments),
        processes=pipeline.resources.processes,
        epochs=float(state.epoch or 0.0),
        steps=state.global_step,
        best_step=best_step,
        seconds=seconds,
        rows_per_second=run.rows_seen / seconds,
        padding_fraction=None,
        resumed_from=resume.name if resume else None,
        validation=scores_at(curve, best_step),
        curve=curve,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    record.save(folder)
    return Trained.of(record)


def trainer_class(pipeline: Pipeline) -> type[BaseTrainer]:
    """The class that the pipeline names.

    :raises PipelineError: there is none of that name, or it is not a trainer.
    """
    name = str(pipeline.training.trainer)
    where = f"{pipeline.name}: training.trainer"
    module, _, last = name.rpartition(".")
    try:
        code = importlib.import_module(module)
    except Exception as error:  # whatever somebody's module raises
        hint = "install it where the training runs, or put its folder on PYTHONPATH; the step's log has the stack trace"
        raise PipelineError(f"'{module}' cannot be imported: {first_line(error)}", where=where, hint=hint) from error
    kind = getattr(code, last, None)
    if kind is None:
        classes = [name for name, value in vars(code).items() if isinstance(value, type)]
        raise PipelineError(f"'{module}' has no '{last}'{suggestion(last, classes)}", where=where)
    if not (isinstance(kind, type) and issubclass(kind, BaseTrainer)):
        raise PipelineError(f"'{name}' is not a subclass of retrainer.BaseTrainer", where=where)
    if kind.__abstractmethods__:
        raise PipelineError(f"'{name}' has no {' and no '.join(sorted(kind.__abstractmethods__))}", where=where)
    return kind


def _made(kind: type[BaseTrainer], pipeline: Pipeline, pretrained: str) -> BaseTrainer:
    try:
        return kind.for_pipeline(pipeline, pretrained)
    except TypeError as error:
        raise PipelineError(
            f"'{pipeline.training.trainer}' cannot be made: {first_line(error)}",
            where=f"{pipeline.name}: training.trainer",
            hint="override its class method for_pipeline(pipeline, pretrained_model_name)",
        ) from error


def _dataset(snapshot: Path, split: SplitName, labels: tuple[str, ...]) -> datasets.Dataset:
    """The rows of a split: ``model_input`` and ``model_output``, or ``text``, ``text_pair`` and ``label``, of any
    number of labels a list."""
    table = read_split(split_file(snapshot, split))
    columns = {}
    features = {}
    for name in ("text", "text_pair", "target", "label"):
        if name in table.column_names:
            called = _COLUMNS.get(name, name) if "target" in table.column_names else name
            columns[called] = table.column(name).to_pylist()
            features[called] = _labels(table, labels) if name == "label" else datasets.Value("string")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _labels(table: pa.Table, labels: tuple[str, ...]) -> Any:
    """What the column ``label`` holds."""
    one = datasets.ClassLabel(names=[*labels])
    return datasets.List(one) if pa.types.is_list(table.schema.field("label").type) else one


def _require_fit(model: Any, labels: tuple[str, ...], pipeline: Pipeline) -> None:
    """Go on only with a model that the pipeline's task can export."""
    where, task = f"{pipeline.name}: training.trainer", TASKS[pipeline.task]
    hint = "train_model returns the trained model and its tokenizer, made for the pipeline's task and labels"
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"it gave a {type(model).__name__} as model", where=where, hint=hint)
    if not all_finite(model):
        raise diverged(pipeline.name, "weights are no longer numbers")
    if task.has_encoder not in (None, bool(model.config.is_encoder_decoder)):
        raise ModelError(
            f"it gave a {model.config.model_type}, which is not a model for {task.name}", where=where, hint=hint
        )
    named = tuple(model.config.id2label[at] for at in sorted(model.config.id2label)) if labels else ()
    if named != labels:
        raise ModelError(
            f"its model has the labels {listed(named[:8])}, the data has {listed(labels[:8])}", where=where, hint=hint
        )
