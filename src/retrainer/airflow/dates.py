"""The date of a run in a pipeline: where its data's paths name it, and what is said where they do not.

``dataset`` may hold Airflow's templates, such as ``s3://corp/news/{{ ds }}/*.csv``. They are rendered by each task, so
a run of some date reads the data of that date, a backfill those of each. Not here: templates in an operator's own
arguments, which Airflow renders by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline
from retrainer.spec.dataset import Dataset
from retrainer.spec.paths import TEMPLATE

# Of a run that was made for a date, and not because it is now.
_FOR_A_DATE = "backfill"


def names_date(pipeline: Pipeline) -> bool:
    """Whether the data depends on the run."""
    return TEMPLATE in pipeline.dataset.model_dump_json()


def of_date(pipeline: Pipeline, task: Any, context: Any) -> Pipeline:
    """The pipeline with the data of a run's date.

    :param task: an operator; its DAG's filters and macros hold.
    :raises PipelineError: the run has no such date, or the template is wrong.
    """
    if not names_date(pipeline):
        return pipeline
    dataset = Dataset.model_validate(_rendered(pipeline.dataset.model_dump(mode="json"), task, context, "dataset"))
    return pipeline.model_copy(update={"dataset": dataset})


def made_no_difference(pipeline: Pipeline, context: Any) -> str | None:
    """What is to be said of a run that was made for a date, of a pipeline that reads the same data for each."""
    run = context["dag_run"]
    partition = getattr(run, "partition_key", None)
    if names_date(pipeline) or (getattr(run, "run_type", None) != _FOR_A_DATE and partition is None):
        return None
    which = partition or getattr(run, "logical_date", None)
    return (
        f"this run was made for {which}, which made no difference: the pipeline reads the same data for every date. "
        "Name the date in dataset.train, as in s3://corp/news/{{ ds }}/*.csv"
    )


def _rendered(value: Any, task: Any, context: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _rendered(one, task, context, f"{where}.{key}") for key, one in value.items()}
    if isinstance(value, list):
        return [_rendered(one, task, context, where) for one in value]
    if not isinstance(value, str) or TEMPLATE not in value:
        return value
    try:
        text = str(task.render_template(value, context))
    except (TemplateError, TypeError, AttributeError) as error:
        raise _no_date(value, str(error), where) from None
    if text.count("None") > value.count("None"):
        raise _no_date(value, "part of it is None", where)
    return text


def _no_date(value: str, problem: str, where: str) -> PipelineError:
    return PipelineError(
        f"'{value}' cannot be completed for this run: {problem}",
        where=where,
        hint="start it by schedule.cron, by a backfill, or by hand with a logical date",
    )
