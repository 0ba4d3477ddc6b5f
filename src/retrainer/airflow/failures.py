"""Which errors of a step are worth another try, and after how long, in Airflow's terms.

A wrong pipeline file stays wrong, and so do a key that does not fit, credentials that a bucket refuses and a decision
that was overtaken: such a task fails at once. What may be better in a while fails in the way that Airflow retries. How
long it waits depends on the kind of error, by Airflow's retry policy: ``KINDS`` is the table, and ``docs/airflow.md``
says the same to people. Credentials that have expired are renewed by another try, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from logging import Logger

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from retrainer.errors import (
    ChampionChanged,
    DamagedTransfer,
    EngineUnavailable,
    ExportError,
    GateError,
    IntegrityError,
    NotFoundError,
    OutOfGpuMemory,
    ResourceError,
    RetrainerError,
    StepKilled,
    StorageError,
    StoragePermissionError,
    Throttled,
    UserError,
)

# Trying again gives the same answer,
PERMANENT = (UserError, ExportError, GateError, ChampionChanged, IntegrityError)
# unless what lies outside changes by itself: a disk, a server, a network, an engine.
PASSING = (ResourceError, StorageError, DamagedTransfer, EngineUnavailable)


class KilledStep(AirflowException):  # type: ignore[misc]
    """The process of a step was ended from outside."""


class ThrottledStore(AirflowException):  # type: ignore[misc]
    """A store asks for fewer requests."""


class FullGpu(AirflowException):  # type: ignore[misc]
    """The memory of a GPU was too small, or others had taken it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Errors that are worth another try after a time of their own.

    :param error: of ours.
    :param raised: from the task instead, by which Airflow's policy knows it.
    :param delay: before the next try.
    :param reason: shown with the try.
    """

    error: type[RetrainerError]
    raised: type[AirflowException]
    delay: timedelta
    reason: str


KINDS = (
    Kind(StepKilled, KilledStep, timedelta(0), "it goes on from what the killed process has completed"),
    Kind(Throttled, ThrottledStore, timedelta(minutes=5), "the store asks for fewer requests"),
    Kind(OutOfGpuMemory, FullGpu, timedelta(minutes=10), "others may leave more of the GPU's memory by then"),
)

RETRY_POLICY = ExceptionRetryPolicy(
    [RetryRule(kind.raised, action=RetryAction.RETRY, retry_delay=kind.delay, reason=kind.reason) for kind in KINDS]
)
"""What tasks wait for by kind of error, as often as their ``retries`` say. Other errors wait for ``retry_delay``."""


def reported(error: RetrainerError, log: Logger) -> AirflowException:
    """The exception to raise from a task instead, whose message is in the log before it is raised.

    Airflow writes the frames of its own code above the message of an exception, which nobody should have to search.
    """
    failure = as_airflow(error)
    log.error("%s", failure)
    return failure


def as_airflow(error: RetrainerError) -> AirflowException:
    """The exception to raise from a task instead: without a retry where none can help."""
    text = str(error)
    if isinstance(error, ChampionChanged):
        text += ". Clear the task that evaluates, with all downstream, to compare with the new champion"
    if is_permanent(error):
        return AirflowFailException(text)
    kind = next((kind.raised for kind in KINDS if isinstance(error, kind.error)), AirflowException)
    return kind(text)


def is_permanent(error: RetrainerError) -> bool:
    """Whether trying again would give the same answer."""
    if isinstance(error, NotFoundError | StoragePermissionError):
        return True
    return isinstance(error, PERMANENT) and not isinstance(error, PASSING)
