"""The tasks that a pipeline can name, one definition each: columns, code, metrics and words. Nothing heavy is loaded.

A new task is a module here and an entry in ``TASKS``; no other code asks which task it is. Not here: the code itself,
which a definition names (``definition.Parts``).
"""

from __future__ import annotations

from collections.abc import Mapping

from retrainer.errors import IntegrityError, PipelineError
from retrainer.tasks import (
    generation,
    multi_label_classification,
    text_classification,
    text_pair_classification,
)
from retrainer.tasks.definition import Parts, TaskDefinition, Writes

__all__ = ["TASKS", "Parts", "TaskDefinition", "Writes", "known_task", "that_writes", "trainable_task"]

TASKS: Mapping[str, TaskDefinition] = {
    task.name: task
    for task in (
        text_classification.TASK,
        text_pair_classification.TASK,
        multi_label_classification.TASK,
        generation.TEXT_TO_TEXT,
        generation.CONTINUATION,
    )
}


def trainable_task(name: str, *, where: str) -> TaskDefinition:
    """The task of a pipeline, if this version can train it.

    :param name: one of ``TASKS``.
    :param where: the pipeline's name.
    :raises PipelineError: it cannot; names the tasks that it can.
    """
    if TASKS[name].parts is None:
        able = [task.name for task in TASKS.values() if task.parts is not None]
        raise PipelineError(
            f"task '{name}' cannot be trained by this version", where=where, hint=f"use {' or '.join(able)}"
        )
    return TASKS[name]


def that_writes(answer: Writes) -> str:
    """The name of the first task whose models answer so."""
    return next(name for name, task in TASKS.items() if task.writes == answer)


def known_task(name: str, *, where: str) -> TaskDefinition:
    """The task that a bundle or a receipt is about, if this version can serve it.

    :raises IntegrityError: it cannot: another version made it.
    """
    task = TASKS.get(name)
    if task is None or task.parts is None:
        raise IntegrityError(
            f"its task is '{name}', which this version does not know", where=where, hint="update airflow-retrainer"
        )
    return task
