"""The form with which Airflow's UI starts a retrain: its fields drawn from the pipeline, and what a run says in them.

A DAG of one's own gets the same form with ``DAG(params=run_params(pipeline))``. A field is known by a mark in its
schema, not by its name, so that a param of somebody's own that is called ``channel`` is none of ours.
Not here: what the fields mean (``spec/changes.py``), who applies them (``step_operator.py``).
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from retrainer.spec import Pipeline
from retrainer.spec.changes import MOST_CHARACTERS, fields_for

MARK = "retrainer"
"""In the schema of a param: the name of the field that it is."""


def run_params(pipeline: Pipeline) -> dict[str, Param]:
    """What a single run may do otherwise, with the pipeline's own values as defaults."""
    params = {
        field.name: _param(field.name, _default(field.current(pipeline)), field.title, field.help, **schema)
        for field, schema in fields_for(pipeline)
    }
    return {
        **params,
        "force": _param(
            "force",
            False,
            "Do everything again",
            "Also where the same was done before: nothing that earlier runs left is used.",
            type="boolean",
        ),
        "dry_run": _param(
            "dry_run",
            False,
            "Dry run",
            "Everything but publishing. What the decision spends of its error is spent all the same.",
            type="boolean",
        ),
        "note": _param(
            "note",
            None,
            "Note",
            "Stays in the record of the run and, where it publishes, in the channel's history.",
            type=["string", "null"],
            maxLength=MOST_CHARACTERS,
            format="multiline",
        ),
    }


def _default(current: Any) -> Any:
    return None if isinstance(current, list) else current


def _param(field: str, default: Any, title: str, description: str, **schema: Any) -> Param:
    return Param(default, description=description, title=title, **schema, **{MARK: field})


def asked_in(context: Any) -> dict[str, Any]:
    """What the run was started with: field to value.

    :param context: that Airflow gives a task. Nobody asks for anything in a run that was not started with a ``conf``.
    """
    given = context["dag_run"].conf or {}
    params = context["dag"].params
    marks = {name: params.get_param(name).schema.get(MARK) for name in params if name in given}
    return {field: context["params"][name] for name, field in marks.items() if field is not None}
