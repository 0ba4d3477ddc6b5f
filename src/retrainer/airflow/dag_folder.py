"""A folder of pipeline files as DAGs: one for each file, and one more where the file wants its champion checked.

Airflow drops all DAGs of a Python file that raises. So one wrong pipeline file must not raise: in its place stands
a DAG of the same name, tagged ``broken``, whose only task fails with what is wrong and where. It keeps the file's
schedule, by time and by new data, so that a pipeline which should have run is red, not silent; where that cannot be
read it runs every day.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, get_parsing_context
from airflow.sdk.exceptions import AirflowFailException
from pydantic import TypeAdapter, ValidationError

from retrainer.airflow.dag_builder import START_DATE, dag_id_of, dag_of, schedule_of
from retrainer.airflow.decay_builder import decay_dag_of, decay_id_of
from retrainer.airflow.new_data import new_data_asset
from retrainer.airflow.settings import as_mapping
from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, pipeline_files, try_pipeline
from retrainer.spec.dataset import Paths
from retrainer.spec.delimited import Csv
from retrainer.spec.model import Schedule
from retrainer.spec.yaml_reader import read_yaml

logger = logging.getLogger(__name__)

_TASK = "read_pipeline"
_DAILY = "@daily"
# Arguments of DAGs that say when and what is trained, and nothing of how a champion is checked.
_OF_RETRAINING = frozenset({"schedule", "params", "doc_md"})


def build_dags(folder: str | Path, **dag_kwargs: Any) -> dict[str, DAG]:
    """The DAGs of a folder, by id: ``globals().update(build_dags(folder))``.

    When Airflow reads the file to run one task, only that task's DAG is built.

    :param dag_kwargs: arguments for each ``retrain_dag``.
    :raises PipelineError: no such folder.
    """
    wanted: str | None = get_parsing_context().dag_id
    dags: dict[str, DAG] = {}
    taken: dict[str, Path] = {}
    for file, content in read_folder(folder, wanted):
        dags |= {dag.dag_id: dag for dag in _build(file, content, wanted, taken, dag_kwargs)}
        if wanted in dags:
            break
    return dags


def read_folder(folder: str | Path, wanted: str | None = None) -> Iterable[tuple[Path, Pipeline | PipelineError]]:
    """The pipeline files of a folder with what they say, or what is wrong with them.

    Of several with one name the first counts: the file that is called as its pipeline, else the first by name. So it is
    the same one for the scheduler, which reads them all, and for a task, which reads only up to its own.

    :param wanted: the DAG that is looked for; files are then read one by one.
    """
    files = pipeline_files(folder)
    if wanted is not None:
        first = sorted(files, key=lambda file: wanted not in {dag_id_of(file.stem), decay_id_of(file.stem)})
        return ((file, try_pipeline(file)) for file in first)
    return sorted(
        ((file, try_pipeline(file)) for file in files), key=lambda entry: not is_called_as_its_pipeline(*entry)
    )


def is_called_as_its_pipeline(file: Path, content: Pipeline | PipelineError) -> bool:
    """Whether a file has the name of the DAG that it makes: of several of one name it counts."""
    return isinstance(content, Pipeline) and dag_id_of(content.name) == dag_id_of(file.stem)


def _build(
    file: Path,
    content: Pipeline | PipelineError,
    wanted: str | None,
    taken: dict[str, Path],
    dag_kwargs: dict[str, Any],
) -> list[DAG]:
    """The DAGs of a file, but for those that are not wanted."""
    try:
        if isinstance(content, PipelineError):
            raise content
        dag_id = dag_id_of(content.name)
        _must_be_new(content, dag_id, file, taken)
        taken[dag_id] = file
        return _made(content, file, wanted, dag_kwargs)
    except PipelineError as error:
        content_as_written = _written(file)
        dag_id = _salvaged_id(file, content_as_written, taken)
        taken[dag_id] = file
        if wanted not in (None, dag_id):
            return []
        logger.warning("%s", error)
        settings = as_mapping(dag_kwargs.get("settings"))
        return [_broken_dag(dag_id, file, str(error), _salvaged_schedule(file, content_as_written, dag_id, settings))]


def _made(pipeline: Pipeline, file: Path, wanted: str | None, dag_kwargs: dict[str, Any]) -> list[DAG]:
    dags = []
    if wanted in (None, dag_id_of(pipeline.name)):
        dags.append(dag_of(pipeline, str(file), **dag_kwargs))
    if pipeline.decay is not None and wanted in (None, decay_id_of(pipeline.name)):
        of_both = {name: value for name, value in dag_kwargs.items() if name not in _OF_RETRAINING}
        dags.append(decay_dag_of(pipeline, str(file), **of_both))
    return dags


def _must_be_new(pipeline: Pipeline, dag_id: str, file: Path, taken: dict[str, Path]) -> None:
    if dag_id in taken:
        raise PipelineError(
            f"name '{pipeline.name}' makes the DAG {dag_id}, which {taken[dag_id].name} makes already",
            where=str(file),
            hint="give the pipeline another name",
        )


def _written(file: Path) -> dict[str, Any] | None:
    """What a wrong file says, where it can be read at all."""
    with suppress(PipelineError, OSError, UnicodeDecodeError):  # what is wrong is in the error already
        content = read_yaml(file.read_text(), where=str(file)).value
        return content if isinstance(content, dict) else None
    return None


def _salvaged_id(file: Path, content: Mapping[str, Any] | None, taken: Mapping[str, Path]) -> str:
    name = (content or {}).get("name")
    dag_id = dag_id_of(name if isinstance(name, str) and name.replace("-", "a").isidentifier() else file.stem)
    while dag_id in taken:
        dag_id += "__broken"
    return dag_id


def _salvaged_schedule(file: Path, content: Mapping[str, Any] | None, dag_id: str, settings: Mapping[str, Any]) -> Any:
    """When a wrong file should have run, as far as that can be read; else every day."""
    if content is None:
        return _DAILY
    try:
        schedule = Schedule.model_validate(content.get("schedule") or {})
        if not schedule.on_new_data:
            return schedule_of(schedule, [])
        dataset = content["dataset"]
        paths = TypeAdapter(Paths).validate_python(dataset["train"], context=file.parent)
        csv = None if dataset.get("csv") is None else Csv.model_validate(dataset["csv"])
    except (ValidationError, KeyError, TypeError, AttributeError):
        return _DAILY
    data = new_data_asset(
        dag_id, paths, csv, schedule, dag_id=dag_id, task_id=_TASK, aws_conn_id=settings.get("aws_conn_id")
    )
    return schedule_of(schedule, [data])


class BrokenPipelineOperator(BaseOperator):  # type: ignore[misc]
    """Fails with what is wrong with a pipeline file.

    :param error: what is wrong.
    """

    ui_color = "#f5cccc"

    def __init__(self, *, error: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def execute(self, context: Any) -> None:
        """Fail."""
        self.log.error("%s", self.error)
        raise AirflowFailException(self.error)


def _broken_dag(dag_id: str, file: Path, error: str, schedule: Any) -> DAG:
    with DAG(
        dag_id=dag_id,
        dag_display_name=f"{dag_id} (broken: {file.name})",
        schedule=schedule,
        start_date=START_DATE,
        catchup=False,
        max_active_runs=1,
        doc_md=f"The pipeline file is wrong, so there is nothing to run:\n\n```\n{error}\n```\n",
        tags=["retrainer", "broken"],
    ) as dag:
        BrokenPipelineOperator(task_id=_TASK, error=error)
    return dag
