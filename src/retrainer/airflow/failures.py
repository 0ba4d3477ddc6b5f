"""Which errors of a step are worth another try, in Airflow's terms.

A wrong pipeline file stays wrong, so such a task fails at once. A process that was killed, a store that did not
answer or a full disk may be better in a minute, so such a task fails in the way that Airflow retries.
"""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from retrainer.errors import (
    ChampionChanged,
    DataError,
    ExportError,
    GateError,
    IntegrityError,
    ModelError,
    NotFoundError,
    PipelineError,
    RetrainerError,
)

# Trying again gives the same answer.
PERMANENT = (
    PipelineError,
    DataError,
    ModelError,
    NotFoundError,
    ExportError,
    GateError,
    ChampionChanged,
    IntegrityError,
)


def as_airflow(error: RetrainerError) -> AirflowException:
    """The exception to raise from a task instead: without a retry where none can help."""
    text = explain(error)
    return AirflowFailException(text) if isinstance(error, PERMANENT) else AirflowException(text)


def explain(error: RetrainerError) -> str:
    """What went wrong, where, and what to do about it, in one line."""
    if isinstance(error, ChampionChanged):
        return f"{error}. Clear the task that evaluates, with all downstream, to compare with the new champion"
    return str(error)
