"""What people give to a trainer from Python, made sure of: datasets in memory, and hyperparameters by name.

Not here: files (``work/ingest``), and pipeline files (``spec/``), whose names and checks of arguments these are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import torch

from retrainer.errors import DataError, PipelineError
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.spec.problems import found, listed
from retrainer.spec.renamed_arguments import OWNED
from retrainer.spec.training import Training
from retrainer.spec.training_arguments import check_training_arguments, known_arguments
from retrainer.tasks import TaskDefinition
from retrainer.work.ingest.rows import missing_column

_WHERE = "hyperparameter_choices"
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


@dataclass(frozen=True, slots=True)
class Choices:
    """Hyperparameters, each of a name that ``transformers.TrainingArguments`` has.

    :param arguments: those that a pipeline may give as well, of the type that transformers expects.
    :param more: the others, such as ``output_dir``, as they were given.
    """

    arguments: dict[str, Any]
    more: dict[str, Any]


def checked(choices: Mapping[str, Any]) -> Choices:
    """Look at names, and at values as far as a pipeline file's are looked at.

    :raises PipelineError: names each mistake, and the argument that was meant.
    """
    if not isinstance(choices, Mapping):
        raise PipelineError(
            f"expected a dict of names and values, found {found(choices)}",
            where=_WHERE,
            hint="such as {'num_train_epochs': 3}; {} for the defaults",
        )
    known = known_arguments()
    of_python = {name for name in choices if name in known and (name in OWNED or not known[name]["kinds"])}
    of_python |= {name for name, value in choices.items() if name in known and not isinstance(value, _PLAIN)}
    more = {name: choices[name] for name in of_python}
    arguments, problems = check_training_arguments({name: choices[name] for name in choices if name not in more})
    if problems:
        said = "; ".join(f"{problem.place[0]}: {problem.message}" for problem in problems)
        raise PipelineError(said, where=_WHERE, hint="they are the arguments of transformers.TrainingArguments")
    return Choices(arguments, more)


def pipeline_of(
    run: Pipeline | None, task: TaskDefinition, pretrained: str, choices: Choices, has_validation: bool
) -> Pipeline:
    """The pipeline that asks for such a training.

    :param run: that of the train step, where it is one that trains.
    :raises PipelineError: the hyperparameters do not work together, or without validation rows.
    """
    arguments = dict(choices.arguments)
    if run is not None:
        training = Training(arguments=arguments, early_stopping_patience=run.training.early_stopping_patience)
        model = run.model.model_copy(update={"base": pretrained, "revision": None})
        return run.model_copy(update={"training": training, "model": model})
    if "output_dir" not in choices.more and not has_validation:
        arguments.setdefault("save_strategy", "no")  # nobody would find the checkpoints, and none is to be chosen
    content = {
        "name": "trainer",
        "task": task.name,
        "dataset": {"train": "rows.parquet", "split": {"validation": 0.1 if has_validation else 0.0}},
        "model": {"base": pretrained},
        "training": arguments,
        "publish": {"store": "nowhere"},
        "resources": {"gpus": torch.cuda.device_count(), "processes": int(os.environ.get("WORLD_SIZE", "1"))},
    }
    return parse_pipeline(content, where=_WHERE, base_folder=Path.cwd())


def rows_of(
    given: Sequence[datasets.Dataset] | None, columns: Mapping[str, str], where: str
) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows of all datasets, with the columns that a snapshot has.

    :param given: ``None`` where there need not be any.
    :param columns: of a snapshot to that of the datasets; ``text_pair`` is taken where all have it.
    :param where: the parameter, for errors.
    :return: the rows; the names of the labels, where the datasets bring them.
    :raises DataError: there is none, or one is not what it has to be; names dataset, row and column.
    """
    if given is None:
        return pa.table({name: pa.array([], pa.string()) for name in columns}), ()
    _require(given, columns.values(), where)
    if "label" in columns and all("text_pair" in dataset.column_names for dataset in given):
        columns = {**columns, "text_pair": "text_pair"}
    values: dict[str, list[Any]] = {name: [] for name in columns}
    for number, dataset in enumerate(given):
        for name, column in columns.items():
            values[name] += _column(dataset, column, f"{where}[{number}]", is_text=name != "label")
    named = {tuple(getattr(dataset.features[columns["label"]], "names", ())) for dataset in given if "label" in columns}
    if len(named) > 1:
        raise DataError(f"the datasets name their labels differently: {listed(map(str, named))}", where=where)
    if not any(named):
        values = {name: list(map(str, some)) if name == "label" else some for name, some in values.items()}
    return pa.table(values), next(iter(named), ())


def _require(given: Any, columns: Collection[str], where: str) -> None:
    if isinstance(given, datasets.Dataset | datasets.DatasetDict) or not isinstance(given, Sequence):
        raise DataError(
            f"expected a list of datasets, found a {type(given).__name__}", where=where, hint="put it into a list"
        )
    if not given:
        raise DataError("the list of datasets is empty", where=where, hint="give at least one datasets.Dataset")
    for number, dataset in enumerate(given):
        place = f"{where}[{number}]"
        if not isinstance(dataset, datasets.Dataset):
            hint = "choose one of its splits" if isinstance(dataset, Mapping) else None
            raise DataError(f"expected a datasets.Dataset, found a {type(dataset).__name__}", where=place, hint=hint)
        for column in columns:
            if column not in dataset.column_names:
                raise missing_column(column, dataset.column_names, place)
        if not len(dataset):
            raise DataError("the dataset has no rows", where=place)


def _column(dataset: datasets.Dataset, column: str, where: str, *, is_text: bool) -> list[Any]:
    values = list(dataset[column])
    for row, value in enumerate(values):
        if value is None or (is_text and (not isinstance(value, str) or not value.strip())):
            held = "an empty text" if isinstance(value, str) else found(value)
            raise DataError(f"column '{column}' holds {held} where text is expected", where=f"{where}, row {row}")
    return values
