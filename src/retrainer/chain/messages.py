"""What a step's process tells its parent: one JSON line a message, appended to a file that the parent follows.

A file, not a pipe: every rank of a distributed training can append to it, the child never blocks on a slow
reader, and what was said last is still there after a crash.
Not here: ordinary log output, which goes to the step's log file.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter

from retrainer.errors import RetrainerError, by_name
from retrainer.records import Record


class Log(Record):
    """A line for people."""

    kind: Literal["log"] = "log"
    level: Literal["info", "warning"] = "info"
    text: str


class Progress(Record):
    """How far a stage is.

    ``figures`` holds what the stage measures: ``loss``, ``epoch``, ``rows_per_second``.
    """

    kind: Literal["progress"] = "progress"
    stage: str
    done: float
    total: float | None = None
    unit: str = ""
    seconds_left: float | None = None
    figures: dict[str, float] = Field(default_factory=dict)


class Metrics(Record):
    """Scores on the validation split after an epoch."""

    kind: Literal["metrics"] = "metrics"
    epoch: float
    values: dict[str, float]


class Saved(Record):
    """A checkpoint is complete: a training that is cut off now goes on from it."""

    kind: Literal["saved"] = "saved"
    checkpoint: str


class Done(Record):
    """The step succeeded and its artifact is committed."""

    kind: Literal["done"] = "done"


class Failed(Record):
    """The step failed with an error of ``retrainer.errors``, named so that the parent raises the same."""

    kind: Literal["failed"] = "failed"
    error: str
    message: str
    where: str | None = None
    hint: str | None = None

    @classmethod
    def of(cls, error: RetrainerError) -> Self:
        """What the process says of the error that ends it."""
        return cls(error=type(error).__name__, message=error.message, where=error.where, hint=error.hint)

    def as_error(self) -> RetrainerError:
        """The same error, of the same class."""
        return by_name(self.error)(self.message, where=self.where, hint=self.hint)


Message = Log | Progress | Metrics | Saved | Done | Failed

_ADAPTER: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def parse_message(line: bytes) -> Message:
    """The message of one line.

    :raises pydantic.ValidationError: the line is none.
    """
    return _ADAPTER.validate_json(line)


def describe(message: Message) -> str:
    """One line of text for a log."""
    match message:
        case Log():
            return message.text
        case Metrics():
            scores = "  ".join(f"{name} {value:.4f}" for name, value in message.values.items())
            return f"epoch {message.epoch:g} on validation: {scores}"
        case Progress():
            return _describe_progress(message)
        case Saved():
            return f"{message.checkpoint} is complete"
        case Done():
            return "done"
        case Failed():
            return message.message


def _describe_progress(message: Progress) -> str:
    """``training: step 12/46, 1 min 23 s left, loss 0.412, 22.3 rows/s``: what is cut off first comes last."""
    parts = [f"{message.stage}: {_amount(message)}"]
    if message.seconds_left is not None:
        parts.append(f"{duration(message.seconds_left)} left")
    for name, value in message.figures.items():
        parts.append(f"{value:.1f} rows/s" if name == "rows_per_second" else f"{name.replace('_', ' ')} {value:.4g}")
    return ", ".join(parts)


def _amount(message: Progress) -> str:
    """``step 30/120``, ``12.5/40 MB``: what is counted comes before the number, a unit of measure after it."""
    amount = f"{message.done:.6g}" + (f"/{message.total:.6g}" if message.total is not None else "")
    if not message.unit:
        return amount
    return f"{amount} {message.unit}" if message.unit.isupper() else f"{message.unit} {amount}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
