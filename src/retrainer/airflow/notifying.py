"""Telling people: the notifiers that a pipeline file names, made and called when there is something to say.

No notifier is imported when a DAG is parsed, for their packages may be heavy; ``ingest`` tries them before anything is
trained. One that fails to send is an error in the log, and nothing else: what happened has happened.
Not here: what there is to say (the operators), the section of the file (``spec/notify.py``).
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk.bases.notifier import BaseNotifier
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline
from retrainer.spec.durations import written
from retrainer.spec.notify import Notifier

HAPPENED = "retrainer"
"""In the context that notifiers render their arguments with: what happened, and as ``text`` in a sentence or a few."""


def made(notifier: Notifier) -> BaseNotifier:
    """The notifier itself.

    :raises PipelineError: there is no such class here, it is not a notifier, or does not take these arguments.
    """
    module, _, name = notifier.notifier.rpartition(".")
    hint = "it has to be installed wherever Airflow runs tasks, parses DAGs or triggers"
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PipelineError(f"cannot be imported: {error}", where=f"notifier {notifier.notifier}", hint=hint) from None
    if not (isinstance(kind, type) and issubclass(kind, BaseNotifier)):
        raise PipelineError("is not a subclass of airflow.sdk.BaseNotifier", where=f"notifier {notifier.notifier}")
    try:
        return kind(**notifier.arguments)
    except TypeError as error:
        raise PipelineError(f"does not take these arguments: {error}", where=f"notifier {notifier.notifier}") from None


def all_of(pipeline: Pipeline) -> tuple[Notifier, ...]:
    """Every notifier that a pipeline names."""
    deadline = pipeline.dag.deadline
    return (*pipeline.notify.all, *pipeline.publish.approval.notify, *(deadline.notify if deadline else ()))


def tell_people(
    notifiers: Sequence[Notifier], context: Mapping[str, Any], happened: Mapping[str, Any], log: logging.Logger
) -> None:
    """Call each notifier.

    :param context: of the task.
    :param happened: what their arguments may render, ``text`` among it.
    """
    for notifier in notifiers:
        try:
            made(notifier)({**context, HAPPENED: dict(happened)})
        except Exception:  # of whatever package: nothing that it raises may undo what it was to tell of
            log.exception("%s could not tell anybody", notifier.notifier)
        else:
            log.info("told by %s", notifier.notifier)


class PipelineNotifier(BaseNotifier):  # type: ignore[misc]
    """Calls the notifiers of a pipeline file, where Airflow wants one of its own kind.

    :param notifiers: of the file.
    :param text: what happened. (templated)
    :param happened: more about it.
    """

    template_fields: Sequence[str] = ("text",)

    def __init__(self, notifiers: Sequence[Notifier], text: str, **happened: Any) -> None:
        super().__init__()
        self.notifiers = tuple(notifiers)
        self.text = text
        self.happened = happened

    def notify(self, context: Any) -> None:
        """Tell."""
        tell_people(self.notifiers, context, {**self.happened, "text": self.text}, logging.getLogger(__name__))


def failure_callbacks(pipeline: Pipeline, what: str = "retrain") -> list[BaseNotifier]:
    """What a DAG calls when a run of it fails.

    :param what: it does.
    """
    if not pipeline.notify.on_failed:
        return []
    text = f"{what} {pipeline.name} failed in run {{{{ run_id or dag_run.run_id }}}}"
    return [PipelineNotifier(pipeline.notify.on_failed, text, event="failed", model=pipeline.name)]


def deadlines_of(pipeline: Pipeline) -> list[DeadlineAlert]:
    """The deadlines of a pipeline's runs, which Airflow watches; a callback in the triggerer tells of a missed one."""
    deadline = pipeline.dag.deadline
    if deadline is None:
        return []
    references = (
        ("after", DeadlineReference.DAGRUN_QUEUED_AT, deadline.after, "longer than {} since it was queued"),
        (
            "over average",
            DeadlineReference.AVERAGE_RUNTIME(max_runs=deadline.runs, min_runs=deadline.least_runs),
            deadline.over_average,
            "{} longer than runs before it took on average",
        ),
    )
    return [
        DeadlineAlert(
            reference=reference,
            interval=span,
            callback=AsyncCallback(
                deadline_missed,
                kwargs={
                    "notifiers": [notifier.model_dump(mode="json") for notifier in deadline.notify],
                    "model": pipeline.name,
                    "text": f"retrain {pipeline.name} takes {words.format(written(span))}",
                },
            ),
            name=f"retrain {pipeline.name}: {name}",
        )
        for name, reference, span, words in references
        if span is not None
    ]


async def deadline_missed(
    notifiers: Sequence[Mapping[str, Any]], model: str, text: str, context: Mapping[str, Any] | None = None
) -> None:
    """Tell people of a run that takes too long. Airflow calls it in the triggerer."""
    log = logging.getLogger(__name__)
    log.warning("%s", text)
    happened = {"event": "late", "model": model, "text": text}
    named = [Notifier.from_content(one, where="deadline") for one in notifiers]
    # Most notifiers only know how to wait.
    await asyncio.to_thread(tell_people, named, context or {}, happened, log)
