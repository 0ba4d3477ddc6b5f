"""What an Airflow deployment sets for all pipelines: where artifacts are, how buckets are reached, which Python trains,
which folder to read.

Each is taken from the first place that says it: the argument, the environment, ``airflow.cfg``, a default.
Not here: anything about one pipeline (``retrainer.spec``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import Annotated, Any

from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowTaskTimeout
from pydantic import BeforeValidator

from retrainer.airflow.connections import s3_access
from retrainer.airflow.failures import reported
from retrainer.airflow.progress import keep_problem
from retrainer.errors import PipelineError, RetrainerError
from retrainer.records import Record
from retrainer.storage import S3Access, use_access

SECTION = "retrainer"

# As Airflow reads them.
_YES = frozenset({"t", "true", "1", "on", "yes"})
_NO = frozenset({"f", "false", "0", "off", "no"})

Text = Annotated[str | None, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


class Settings(Record):
    """How tasks reach what all pipelines share. Every operator takes it, as a record or as a mapping of the same names.

    What is not given comes from the environment (``$RETRAINER_ARTIFACT_ROOT`` and so on), then from the section
    ``[retrainer]`` of ``airflow.cfg``, under the same name. All values are templated.

    :param artifact_root: where the steps keep their outputs: a path, ``file://`` or ``s3://``; in the end
        ``$AIRFLOW_HOME/retrainer/artifacts``.
    :param trainer_python: interpreter that has ``airflow-retrainer[train]``; in the end that of the task.
    :param aws_conn_id: connection of type ``retrainer_store`` or ``aws`` through which the task and the step's process
        reach the buckets of artifacts, data and store; in the end what boto3 finds on the worker.
    :param kubernetes_conn_id: connection of type ``kubernetes`` to the cluster that trains, for pipelines with
        ``engine: kubernetes``; in the end the cluster in which the task runs, or that of its kubeconfig.
    :param ray_conn_id: connection to the dashboard of the Ray cluster that trains, for pipelines with ``engine: ray``;
        in the end what the pipeline says, or ``$RAY_API_SERVER_ADDRESS``.
    """

    artifact_root: Text = None
    trainer_python: Text = None
    aws_conn_id: Text = None
    kubernetes_conn_id: Text = None
    ray_conn_id: Text = None

    def resolved(self) -> Settings:
        """The same with what other places say of what is not given; of all but the first ``None`` means the default."""
        found = {name: _first(getattr(self, name), name) for name in Settings.model_fields}
        return Settings(**{**found, "artifact_root": found["artifact_root"] or _default_root()})


SettingsLike = Settings | Mapping[str, Any] | None
"""``Settings``, or a mapping of the same names."""


def as_mapping(settings: SettingsLike) -> dict[str, Any]:
    """The form in which an operator keeps its settings, which Airflow can template and show.

    The values are looked at when the task runs, once they are rendered.

    :raises PipelineError: a name is not one of theirs.
    """
    if isinstance(settings, Settings):
        return settings.model_dump(exclude_none=True)
    given = dict(settings or {})
    if unknown := sorted(set(given) - set(Settings.model_fields)):
        raise PipelineError(
            f"there is no {', '.join(map(repr, unknown))}",
            where="settings",
            hint=f"there are {', '.join(Settings.model_fields)}",
        )
    return given


@contextmanager
def in_task(given: Mapping[str, Any], log: Logger, context: Any) -> Iterator[tuple[Settings, S3Access | None]]:
    """The settings of a task that runs, and how it reaches buckets, which holds for the block.

    An error of ours is raised as Airflow's, in the log before (``failures.reported``), and on the run's page.
    """
    try:
        settings = Settings.from_content(given, where="settings").resolved()
        access = s3_access(settings.aws_conn_id)
        with use_access(access):
            yield settings, access
    except RetrainerError as error:
        failure = reported(error, log)
        keep_problem(context, str(failure), log)
        raise failure from None
    except AirflowTaskTimeout as error:
        keep_problem(context, f"it took longer than it may: {error}", log)
        raise


def pipelines_folder(default: str | Path | None = None) -> Path:
    """The folder of the pipeline files: ``$RETRAINER_PIPELINES``, ``[retrainer] pipelines``, else ``default``.

    :param default: where a DAG file looks; by default the folder beside ``dags/retrain.py``, if that lies at the top.
    """
    beside = Path(conf.get("core", "dags_folder")) / "pipelines" if default is None else default
    return Path(_first(None, "pipelines") or beside).expanduser()


def tries_texts() -> bool:
    """Whether the console lets texts be tried on versions: ``$RETRAINER_CONSOLE_TRY``, ``[retrainer] console_try``.

    :raises PipelineError: the setting is neither yes nor no.
    """
    said = (_first(None, "console_try") or "false").strip().casefold()
    if said not in _YES | _NO:
        raise PipelineError(f"'{said}' is neither true nor false", where="[retrainer] console_try")
    return said in _YES


def _first(given: str | None, option: str) -> str | None:
    # An empty string is how a config file and an empty template say "not set".
    return given or os.environ.get(f"RETRAINER_{option.upper()}") or conf.get(SECTION, option, fallback="") or None


def _default_root() -> str:
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    return str(home / "retrainer" / "artifacts")
