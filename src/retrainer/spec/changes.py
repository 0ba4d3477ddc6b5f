"""What a single run is asked to do otherwise than its pipeline file says: fields, bounds, and what came of it.

``FIELDS`` is the one list: Airflow's form is drawn from it, and whatever a run changed is kept as ``Changes`` in its
record, its receipt and the channel's history. Not here: the form itself (``airflow/form.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from retrainer.errors import PipelineError
from retrainer.records import Record
from retrainer.spec.load import parse_pipeline
from retrainer.spec.model import Pipeline
from retrainer.spec.schema import key_schema
from retrainer.spec.training_arguments import DEFAULTS, known_arguments

MOST_CHARACTERS = 500


class Change(Record):
    """A key of the pipeline that has another value in one run.

    :ivar key: ``training.num_train_epochs``.
    """

    key: str
    was: Any
    now: Any

    def line(self) -> str:
        """``training.num_train_epochs 5 instead of 3``."""
        return f"{self.key} {_said(self.now)} instead of {_said(self.was)}"


class Changes(Record):
    """What one run was asked to do otherwise.

    :ivar force: nothing that was done before is used: every step is taken anew.
    :ivar dry_run: everything but publishing.
    :ivar note: of whoever started it.
    """

    values: tuple[Change, ...] = ()
    force: bool = False
    dry_run: bool = False
    note: str = ""

    def __bool__(self) -> bool:
        return self != Changes()

    def lines(self) -> list[str]:
        """Each in a few words."""
        words = [change.line() for change in self.values]
        if self.force:
            words.append("nothing done before is used")
        if self.dry_run:
            words.append("a dry run, which publishes nothing")
        return words + ([f"note: {self.note}"] if self.note else [])

    def of_the_model(self) -> Self | None:
        """What of it makes another model or judges it otherwise: no note, and not that it is tried only."""
        kept = self.model_copy(update={"dry_run": False, "note": ""})
        return kept if kept else None

    @property
    def takes_new_data(self) -> bool:
        """Whether the run is as good as the one that new data would start: it may publish, and reads all rows."""
        return not self.dry_run and all(change.key != TRAIN_ROWS or change.now is None for change in self.values)

    def was(self, key: str) -> Any:
        """What the file says of a key that was changed; ``None`` for any other."""
        return next((change.was for change in self.values if change.key == key), None)

    def applied_to(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with these values.

        :raises PipelineError: they do not go together with the rest of it.
        """
        if not self.values:
            return pipeline
        content = pipeline.model_dump(mode="json")
        for change in self.values:
            *sections, last = FIELD_OF_KEY[change.key].place
            section = content
            for name in sections:
                section = section[name]
            section[last] = change.now
            if change.key == BASE:
                revision = pipeline.model.revision if change.now == pipeline.model.base else None
                section.update(candidates=[], revision=revision)
        try:
            return parse_pipeline(content, where=f"{pipeline.name}, as this run was asked to change it")
        except PipelineError as error:
            raise PipelineError(error.message, where=error.where, hint="start another run with other values") from None


@dataclass(frozen=True, slots=True)
class Field:
    """A key of the pipeline that one run may have otherwise.

    :ivar name: of the field in a form.
    :ivar place: of the key.
    :ivar current: its value in a pipeline.
    :ivar schema: JSON Schema of what may be asked, for a pipeline; ``None`` where it would change nothing.
    """

    name: str
    title: str
    help: str
    place: tuple[str, ...]
    current: Callable[[Pipeline], Any]
    schema: Callable[[Pipeline], dict[str, Any] | None]

    @property
    def key(self) -> str:
        """``training.learning_rate``."""
        return ".".join(self.place)


def _argument(name: str) -> Callable[[Pipeline], Any]:
    default = DEFAULTS.get(name, known_arguments()[name]["default"])
    return lambda pipeline: pipeline.training.arguments.get(name, default)


@cache
def _schema_of(section: str, key: str) -> dict[str, Any]:
    """Type and bounds of a key, of the pipeline file's own schema."""
    found = key_schema(section, key)
    kept = {"type", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "pattern"}
    kinds = [part["type"] for part in found.get("anyOf", ())]
    bounds = {key: value for part in (found, *found.get("anyOf", ())) for key, value in part.items() if key in kept}
    return {**bounds, "type": kinds} if kinds else bounds


def _bases(pipeline: Pipeline) -> dict[str, Any] | None:
    listed = pipeline.model.candidates
    return {"type": ["string", "null"], "enum": [None, *listed]} if listed else None


def _epochs(pipeline: Pipeline) -> dict[str, Any] | None:
    # Then the number of steps is given, and epochs say nothing.
    counted_in_steps = pipeline.training.arguments.get("max_steps", -1) > 0
    return None if counted_in_steps else _schema_of("training", "num_train_epochs")


def _rows(pipeline: Pipeline) -> dict[str, Any]:
    return {**_schema_of("dataset", "train_rows"), "minimum": pipeline.dataset.checks.min_rows}


FIELDS = (
    Field(
        "base_model",
        "Base model",
        "Only this one of those that the pipeline lists. Empty: the best of all of them.",
        ("model", "base"),
        lambda pipeline: list(pipeline.model.candidates) or pipeline.model.base,
        _bases,
    ),
    Field(
        "epochs",
        "Epochs",
        "How often each training row is seen.",
        ("training", "num_train_epochs"),
        _argument("num_train_epochs"),
        _epochs,
    ),
    Field(
        "learning_rate",
        "Learning rate",
        "How large the first steps of the optimizer are.",
        ("training", "learning_rate"),
        _argument("learning_rate"),
        lambda pipeline: _schema_of("training", "learning_rate"),
    ),
    Field(
        "train_rows",
        "Training rows",
        "At most so many, always the same ones of the same data. Empty: all. The rows that judge stay as they are.",
        ("dataset", "train_rows"),
        lambda pipeline: pipeline.dataset.train_rows,
        _rows,
    ),
    Field(
        "channel",
        "Channel",
        "Compared with what this channel serves, and published to it.",
        ("publish", "channel"),
        lambda pipeline: pipeline.publish.channel,
        lambda pipeline: _schema_of("publish", "channel"),
    ),
)
"""Every key that a single run may have otherwise."""

BASE = "model.base"
TRAIN_ROWS = "dataset.train_rows"
CHANNEL = "publish.channel"
FIELD_OF_KEY: Mapping[str, Field] = {field.key: field for field in FIELDS}


def fields_for(pipeline: Pipeline) -> Iterator[tuple[Field, dict[str, Any]]]:
    """The fields that would change something, each with its schema."""
    for field in FIELDS:
        schema = field.schema(pipeline)
        if schema is not None:
            yield field, schema


def changes_of(pipeline: Pipeline, asked: Mapping[str, Any]) -> Changes:
    """What is asked for and is not so already.

    :param asked: name of a field, ``force``, ``dry_run`` or ``note`` to its value; ``None`` asks for nothing, but for
        ``train_rows``, where it asks for all of them.
    :raises PipelineError: a base model is asked for that the pipeline does not list.
    """
    values = []
    for field in FIELDS:
        if field.name not in asked:
            continue
        now, was = asked[field.name], field.current(pipeline)
        if now == was or (now is None and field.name != "train_rows"):
            continue
        if field.key == BASE and now not in pipeline.model.candidates:
            raise PipelineError(
                f"'{now}' is not one of the base models that the pipeline lists",
                where=f"{pipeline.name}: {field.name} of this run",
                hint=f"listed: {', '.join(pipeline.model.candidates or (pipeline.model.base,))}",
            )
        values.append(Change(key=field.key, was=was, now=now))
    return Changes(
        values=tuple(values),
        force=bool(asked.get("force")),
        dry_run=bool(asked.get("dry_run")),
        note=" ".join(str(asked.get("note") or "").split()),
    )


def _said(value: Any) -> str:
    if value is None:
        return "all"
    if isinstance(value, list):
        return f"the best of {', '.join(value)}"
    return f"{value:g}" if isinstance(value, float) else str(value)
