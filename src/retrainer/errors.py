"""Every error retrainer raises on purpose, in one tree.

::

    RetrainerError
    ├── UserError                    something outside the code has to change; never shown with a stack trace
    │   ├── PipelineError            the pipeline file is wrong
    │   ├── DataError                the data is not what the pipeline file says
    │   │   └── NoDataError          no file lies where the pipeline file says
    │   ├── ModelError               the base model cannot be read, or not be used for the task
    │   ├── WrongTask                a published model is of another kind than it is asked for
    │   ├── NotAllowed               it is there, and not for whoever asks
    │   ├── ResourceError            disk full, no permission, no GPU free
    │   │   ├── OutOfGpuMemory       what is computed does not fit into the GPU's memory, or into what is left of it
    │   │   └── Busy                 a server has as much to do as it can answer in time
    │   ├── EngineError              an engine that runs steps elsewhere refuses one
    │   │   └── EngineUnavailable    it does not answer
    │   └── StorageError             a folder or a bucket cannot be read or written
    │       ├── NotFoundError        nothing lies under that key, or in that version, channel, run
    │       ├── NoAnswer             it took longer than is waited for it
    │       ├── Throttled            the store asks for fewer requests
    │       ├── PreconditionFailed   a conditional write lost: somebody else wrote first
    │       └── StoragePermissionError  credentials are missing, wrong, or do not allow it
    ├── ArtifactError                an artifact is incomplete, or does not match its digest
    ├── StepError                    a step's process failed, without saying more than its exit
    │   └── StepKilled               it was ended from outside
    ├── TrainingError                torch or transformers ended the training, and it is not known why
    ├── ExportError                  the exported graph does not compute what the checkpoint computes
    ├── GateError                    the decision could not be taken (not: the challenger was refused)
    ├── ChampionChanged              the channel moved since the decision was taken; take it again
    ├── Stopped                      whoever asked for an answer wants it no longer
    └── IntegrityError               bytes read are not the bytes that were published
        ├── DamagedTransfer          they changed on their way to or from a store
        ├── SignatureError           unsigned, or signed by somebody else
        └── ReplayError              an older state of a channel was put back

What is not here: refusals. A challenger that is refused is a result, not an error.

Each message says what went wrong, where, and what to do. ``where`` and ``hint`` are kept apart so that
the command line, a task log and an HTTP answer can each lay them out in their own way.
"""

from __future__ import annotations


class RetrainerError(Exception):
    """Base of every error in this package.

    :param message: what went wrong, one sentence.
    :param where: the place: ``pipeline.yaml:12``, ``data.csv, row 7``, ``s3://bucket/key``.
    :param hint: what to do about it.
    """

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where, hint)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.where, self.hint))


def _rebuild(kind: type[RetrainerError], message: str, where: str | None, hint: str | None) -> RetrainerError:
    return kind(message, where=where, hint=hint)


class UserError(RetrainerError):
    """Something outside the code has to change: a file, a permission, a setting."""


class PipelineError(UserError):
    """The pipeline file is wrong."""


class DataError(UserError):
    """The data is not what the pipeline file says it is."""


class NoDataError(DataError):
    """Where the data should be, there is no file of it: not yet, or no longer."""


class ModelError(UserError):
    """The base model cannot be read, or cannot be used for the task."""


class WrongTask(UserError):
    """A published model is of another kind than it is asked for: it writes text, or it gives labels."""


class NotAllowed(UserError):
    """It is there, and not for whoever asks."""


class ResourceError(UserError):
    """The machine lacks something: disk space, a permission, a free GPU."""


class OutOfGpuMemory(ResourceError):
    """What is computed does not fit into the GPU's memory, or into what others leave of it."""


class Busy(ResourceError):
    """A server has as much to do as it can answer in time.

    :ivar retry_after: seconds after which it is worth another try.
    """

    retry_after: int = 1


class EngineError(UserError):
    """An engine that runs steps on other machines refuses what it was asked."""


class EngineUnavailable(EngineError):
    """An engine does not answer, or answers that it cannot for now."""


class StorageError(UserError):
    """A folder or a bucket cannot be read or written."""


class NotFoundError(StorageError):
    """Nothing lies under that key, or no such version, channel or run exists."""


class NoAnswer(StorageError):
    """The store took longer than is waited for it."""


class Throttled(StorageError):
    """The store asks for fewer requests."""


class PreconditionFailed(StorageError):
    """A conditional write lost: the object is not in the state the writer saw."""


class StoragePermissionError(StorageError):
    """Credentials are missing or wrong, or do not allow it. Trying again gives the same answer."""


class ArtifactError(RetrainerError):
    """An artifact is incomplete, or its files do not match its manifest."""


class StepError(RetrainerError):
    """A step's process failed."""


class StepKilled(StepError):
    """A step's process was ended from outside."""


class TrainingError(RetrainerError):
    """torch or transformers ended the training, and no argument of it is known to be at fault."""


class ExportError(RetrainerError):
    """The exported graph does not compute what the checkpoint computes."""


class GateError(RetrainerError):
    """The decision could not be taken. A refused challenger is a decision, and no error."""


class ChampionChanged(RetrainerError):
    """The channel moved since the decision was taken: the decision must be taken again."""


class Stopped(RetrainerError):
    """Whoever asked for an answer wants it no longer; what was begun of it is gone."""


class IntegrityError(RetrainerError):
    """Bytes that were read are not the bytes that were published."""


class DamagedTransfer(IntegrityError):
    """Bytes changed on their way to or from a store: what lies there is whole or absent, and another try may do."""


class SignatureError(IntegrityError):
    """A version or move is unsigned where a signature is required, or signed by another key."""


class ReplayError(IntegrityError):
    """A channel points where it pointed before it was moved: an older state of it was put back."""


def first_line(error: BaseException) -> str:
    """What a library's exception says first, for a message of our own; its name where it says nothing."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def by_name(name: str) -> type[RetrainerError]:
    """The class of that name in this tree; ``RetrainerError`` when there is none.

    Errors cross from a step's process to its parent as a name and three strings.
    """
    kind = globals().get(name)
    return kind if isinstance(kind, type) and issubclass(kind, RetrainerError) else RetrainerError
