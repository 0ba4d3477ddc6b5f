"""Trainers with which people train from Python, and which a pipeline can name in place of its own training.

``BaseTrainer`` says what a trainer is. The two others are the train step's own training behind that interface, so that
a subclass of theirs can change one thing and keep the rest. Not here: the training itself (``train/trainer.py``), what
datasets and hyperparameters may be (``train/choices.py``), the step that runs somebody's trainer
(``train/own_trainer.py``).
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback, TrainerState

from retrainer.errors import DataError, PipelineError
from retrainer.label_names import ordered
from retrainer.spec.model import Pipeline
from retrainer.tasks import TaskDefinition, generation, text_classification
from retrainer.work.reporter import Reporter
from retrainer.work.train.checkpoints import Checkpoints, PlainCheckpoints
from retrainer.work.train.choices import Choices, checked, pipeline_of, rows_of
from retrainer.work.train.encoding import say_what_was_cut
from retrainer.work.train.loading import Base, load_base
from retrainer.work.train.trainer import FineTuner, ProgressCallback, build_trainer
from retrainer.work.training_arguments import refusals, training_arguments

Trained = tuple[PreTrainedModel, PreTrainedTokenizerFast]
Datasets = Sequence[datasets.Dataset]

# A record of a model takes no more tokens, and no fewer.
_MOST_TOKENS = 32768
# Where neither the model nor its tokenizer says how many it takes; tokenizers say it by an absurd number.
_UNSAID_TOKENS = 512
_ABSURD_TOKENS = 100_000
_FEWEST_TOKENS = 8


@dataclass(slots=True, eq=False)
class TrainingRun:
    """What a pipeline's train step gives to the trainer that it runs. By itself each trainer has an empty one.

    :param validation: the rows that choose the best checkpoint.
    :param resume_from: the checkpoint to go on from, after a training that was killed.
    :param callbacks: for ``transformers.Trainer``: they relay progress and scores, mark checkpoints as complete, keep
        the learning curve, and stop early where the pipeline says so. Trainers of this package do these things by
        themselves, and take from here only what they do not have.
    :param pipeline: that asks for the training; ``checkpoints`` and ``reporter`` are its, too.
    :param state: what became of the training; the callbacks keep it.
    :param rows_seen: likewise.
    """

    validation: datasets.Dataset | None = None
    resume_from: str | None = None
    callbacks: list[TrainerCallback] = field(default_factory=list)
    pipeline: Pipeline | None = None
    checkpoints: Checkpoints | None = None
    reporter: Reporter = field(default_factory=Reporter)
    state: TrainerState | None = None
    rows_seen: int = 0


class BaseTrainer(ABC):
    """Trains a model with given hyperparameters. Subclass it, and name the subclass in ``training.trainer``.

    :param pretrained_model_name: a folder, or an id on the hub.
    :param model_max_length: tokens after which texts are cut.
    """

    def __init__(self, pretrained_model_name: str, model_max_length: int | None = None) -> None:
        self.pretrained_model_name = pretrained_model_name
        self.model_max_length = model_max_length

    @cached_property
    def run(self) -> TrainingRun:
        """What a pipeline's train step gives to this trainer. Made when it is asked for, since a subclass may have an
        ``__init__`` that calls no other.
        """
        return TrainingRun()

    @classmethod
    def for_pipeline(cls, pipeline: Pipeline, pretrained_model_name: str) -> Self:
        """The trainer of a pipeline; override it if yours is made of something else.

        :param pretrained_model_name: the folder of its base model.
        """
        return cls(pretrained_model_name, model_max_length=pipeline.model.max_length)

    @abstractmethod
    def train_model(self, training_datasets: Datasets, hyperparameter_choices: Mapping[str, Any]) -> Trained:
        """Train on all these datasets.

        :param hyperparameter_choices: arguments of ``transformers.TrainingArguments`` under their own names.
        :return: the trained model and its tokenizer.
        """


class ClassificationTrainer(BaseTrainer):
    """Trains a classifier on the columns ``text`` (and ``text_pair``) and ``label``, a ``ClassLabel`` or plain values.

    :param pretrained_model_name: a folder, or an id on the hub.
    :param model_max_length: tokens after which texts are cut, 128 by default.
    """

    def train_model(
        self,
        training_datasets: Datasets,
        hyperparameter_choices: Mapping[str, Any],
        validation_datasets: Datasets | None = None,
    ) -> Trained:
        """Train on all these datasets together; see :class:`BaseTrainer`.

        :param validation_datasets: what evaluations are made on, and the best checkpoint is chosen by.
        :raises DataError: there is no dataset, or one does not have the columns.
        :raises PipelineError: a hyperparameter does not exist, or cannot be used.
        :raises ModelError: the pretrained model cannot be read or used.
        """
        task = text_classification.TASK
        choices = checked(hyperparameter_choices)
        columns = {"text": "text", "label": "label"}
        train, names = rows_of(training_datasets, columns, "training_datasets")
        validation, _ = rows_of(validation_datasets or _one(self.run.validation), columns, "validation_datasets")
        labels = names or ordered(train.column("label").to_pylist())
        splits = {"train": _indexed(train, labels, names), "validation": _indexed(validation, labels, names)}
        pipeline = pipeline_of(self.run.pipeline, task, self.pretrained_model_name, choices, _has_rows(validation))
        if self.model_max_length is not None:
            pipeline = _with_limits(pipeline, max_length=self.model_max_length)
        base = load_base(pipeline, labels, self.run.reporter)
        asked = self.run.pipeline
        positive = min(1, len(labels) - 1) if asked is None else asked.positive(labels)
        return _train(self.run, task, pipeline, base, splits, choices, positive=positive)


class GenerationModelTrainer(BaseTrainer):
    """Trains a model that writes ``model_output`` when it reads ``model_input``.

    :param pretrained_model_name: a folder, or an id on the hub.
    :param has_encoder: true for models with an encoder and a decoder, such as T5; false for those that continue what
        they read, such as GPT-2.
    :param model_max_length: tokens after which inputs and outputs are cut, without an encoder both together. Rows that
        are longer are counted and warned of. By default what the model takes, else what its tokenizer says, else 512.
    """

    def __init__(self, pretrained_model_name: str, has_encoder: bool, model_max_length: int | None = None) -> None:
        super().__init__(pretrained_model_name, model_max_length)
        self.has_encoder = has_encoder

    @classmethod
    def for_pipeline(cls, pipeline: Pipeline, pretrained_model_name: str) -> Self:
        """The trainer of a pipeline, whose ``model`` says after how many tokens inputs and outputs are cut."""
        return cls(pretrained_model_name, has_encoder=_task(True).name == pipeline.task)

    def train_model(
        self,
        training_datasets: Datasets,
        hyperparameter_choices: Mapping[str, Any],
        validation_datasets: Datasets | None = None,
    ) -> Trained:
        """Train on all these datasets together; see :class:`BaseTrainer`.

        :param validation_datasets: what evaluations are made on, and the best checkpoint is chosen by.
        :raises DataError: there is no dataset, or one does not have the columns.
        :raises PipelineError: a hyperparameter does not exist, or cannot be used.
        :raises ModelError: the pretrained model cannot be read, or ``has_encoder`` is not what its configuration says.
        """
        task = _task(self.has_encoder)
        choices = checked(hyperparameter_choices)
        columns = {"text": "model_input", "target": "model_output"}
        train, _ = rows_of(training_datasets, columns, "training_datasets")
        validation, _ = rows_of(validation_datasets or _one(self.run.validation), columns, "validation_datasets")
        pipeline = pipeline_of(self.run.pipeline, task, self.pretrained_model_name, choices, _has_rows(validation))
        if self.run.pipeline is None:
            pipeline = _with_limits(pipeline, max_length=_FEWEST_TOKENS, max_new_tokens=1)
        base = load_base(pipeline, (), self.run.reporter)
        if self.run.pipeline is None:
            pipeline = _with_limits(pipeline, **self._limits(base, [train, validation]))
            base.model.generation_config.max_new_tokens = pipeline.model.max_new_tokens
        return _train(self.run, task, pipeline, base, {"train": train, "validation": validation}, choices)

    def _limits(self, base: Base, tables: Sequence[pa.Table]) -> dict[str, int]:
        """Tokens of an input, and of an output."""
        positions = getattr(base.model.config, "max_position_embeddings", None)
        able = min(positions or _MOST_TOKENS, _MOST_TOKENS)
        said = base.tokenizer.model_max_length
        usual = positions or (said if said < _ABSURD_TOKENS else _UNSAID_TOKENS)
        limit = min(usual, able) if self.model_max_length is None else self.model_max_length
        if not 2 * _FEWEST_TOKENS <= limit <= able:
            raise PipelineError(
                f"{limit:,} tokens, and this model can be trained with {2 * _FEWEST_TOKENS} to {able:,}",
                where="model_max_length",
            )
        texts = [text for table in tables for text in table.column("target").to_pylist()]
        outputs = base.tokenizer(text_target=texts, verbose=False)["input_ids"]
        longest = max(map(len, outputs)) + 1
        if self.has_encoder:
            return {"max_length": limit, "max_new_tokens": min(longest, limit)}
        # One row holds both: an output has the room that the longest needs, and no more than half.
        longest = min(longest, limit // 2)
        return {"max_length": limit - longest, "max_new_tokens": longest}


def _task(has_encoder: bool) -> TaskDefinition:
    return generation.TEXT_TO_TEXT if has_encoder else generation.CONTINUATION


def _has_rows(rows: pa.Table) -> bool:
    """Whether there are rows."""
    return bool(rows.num_rows)


def _one(dataset: datasets.Dataset | None) -> Datasets | None:
    return None if dataset is None else [dataset]


def _indexed(rows: pa.Table, labels: tuple[str, ...], names: tuple[str, ...]) -> pa.Table:
    """The rows with the index of each label."""
    at = rows.schema.get_field_index("label")
    values = rows.column("label").to_pylist()
    known = {label: index for index, label in enumerate(labels)}
    indices = values if names else [known.get(value, -1) for value in values]
    if -1 in indices:
        label = values[indices.index(-1)]
        raise DataError(f"label '{label}' is not in the training datasets", where="validation_datasets")
    return rows.set_column(at, "label", pa.array(indices, pa.int64()))


def _with_limits(pipeline: Pipeline, **limits: int) -> Pipeline:
    return pipeline.model_copy(update={"model": pipeline.model.model_copy(update=limits)})


def _train(
    run: TrainingRun,
    task: TaskDefinition,
    pipeline: Pipeline,
    base: Base,
    splits: Mapping[str, pa.Table],
    choices: Choices,
    *,
    positive: int = 0,
) -> Trained:
    """The train step's own training, on rows that are in memory.

    :param positive: index of the label that metrics of one label score.
    """
    with tempfile.TemporaryDirectory(prefix="retrainer-training-") as folder:
        encoded = {}
        for name, table in splits.items():
            pq.write_table(table, Path(folder) / f"{name}.parquet")
            encoded[name] = task.part("encode")(Path(folder) / f"{name}.parquet", base.tokenizer, pipeline.model)
        say_what_was_cut(encoded, pipeline.model, run.reporter)
        checkpoints = run.checkpoints or PlainCheckpoints(Path(choices.more.get("output_dir") or folder))
        validated = _has_rows(splits["validation"])
        arguments = training_arguments(pipeline, checkpoints.folder, has_validation=validated, more=choices.more)
        with refusals(pipeline, folder):
            trainer = build_trainer(
                pipeline,
                base,
                encoded["train"],
                encoded["validation"],
                arguments,
                checkpoints,
                run.reporter,
                positive=positive,
            )
            _add_callbacks(trainer, run.callbacks)
            trainer.train(resume_from_checkpoint=run.resume_from or arguments.resume_from_checkpoint)
        trainer.require_finite_loss()
        run.state, run.rows_seen = trainer.state, trainer.rows_seen
    return base.model.eval(), base.tokenizer


def _add_callbacks(trainer: FineTuner, callbacks: Sequence[TrainerCallback]) -> None:
    """Those that do what the trainer does not do already."""
    there = {type(callback) for callback in trainer.callback_handler.callbacks}
    for callback in callbacks:
        if not isinstance(callback, ProgressCallback) and type(callback) not in there:
            trainer.add_callback(callback)
