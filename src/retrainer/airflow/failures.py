"""Which errors of a step are worth another try, in Airflow's terms.

A wrong pipeline file stays wrong, and so do a key that does not fit and credentials that a bucket refuses: such a task
fails at once. A process that was killed, a store that did not answer or a full disk may be better in a minute, so such
a task fails in the way that Airflow retries. Credentials that have expired are renewed by another try, too.
"""

from __future__ import annotations

from logging import Logger

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from retrainer.errors import (
    ChampionChanged,
    ExportError,
    GateError,
    IntegrityError,
    NotFoundError,
    ResourceError,
    RetrainerError,
    StorageError,
    StoragePermissionError,
    UserError,
)

# Trying again gives the same answer,
PERMANENT = (UserError, ExportError, GateError, ChampionChanged, IntegrityError)
# unless what lies outside changes by itself: a disk, a server, a network.
PASSING = (ResourceError, StorageError)


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
    return AirflowFailException(text) if is_permanent(error) else AirflowException(text)


def is_permanent(error: RetrainerError) -> bool:
    """Whether trying again would give the same answer."""
    if isinstance(error, NotFoundError | StoragePermissionError):
        return True
    return isinstance(error, PERMANENT) and not isinstance(error, PASSING)
