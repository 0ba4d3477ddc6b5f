"""The console inside Airflow: mounted on the API server, behind its authentication, told what Airflow knows.

Loaded by the API server only, and there on demand (``plugin.py``): it needs Airflow's own web application and its
database. Not here: any page (``retrainer.console``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_view
from airflow.configuration import conf
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import FastAPI
from sqlalchemy import func, select

from retrainer.airflow.connections import s3_access
from retrainer.airflow.console_place import base_path
from retrainer.airflow.dag_builder import dag_id_of
from retrainer.airflow.dag_folder import is_called_as_its_pipeline, read_file
from retrainer.airflow.settings import Settings, pipelines_folder
from retrainer.chain import DECIDE
from retrainer.console.app import console_app
from retrainer.console.host import Broken, Catalogue, Runs, Shown
from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, pipeline_files
from retrainer.storage import use_access

log = logging.getLogger(__name__)

_ENDED = ("success", "failed")


def airflow_console() -> FastAPI:
    """The application to mount. Every route asks for a user who may see plugins, as Airflow's own views of them do."""
    return console_app(AirflowHost(), visitor, guards=[requires_access_view(AccessView.PLUGINS)])


@dataclass(frozen=True, slots=True)
class AirflowVisitor:
    """A user of Airflow."""

    user: Any

    def readable(self, dag_ids: Collection[str]) -> set[str]:
        """As Airflow's list of DAGs shows them."""
        return set(get_auth_manager().filter_authorized_dag_ids(dag_ids=set(dag_ids), user=self.user, method="GET"))

    def may_read_texts(self, dag_id: str) -> bool:
        """Whoever may read the logs of the DAG's tasks, which quote rows, may read rows."""
        return bool(
            get_auth_manager().is_authorized_dag(
                method="GET", access_entity=DagAccessEntity.TASK_LOGS, details=DagDetails(id=dag_id), user=self.user
            )
        )


def visitor(user: GetUserDep) -> AirflowVisitor:
    """Who asks; refused where nobody is logged in."""
    return AirflowVisitor(user)


class AirflowHost:
    """What the console is told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int], Pipeline | PipelineError]] = {}

    def catalogue(self) -> Catalogue:
        """The pipelines that ``dags/retrain.py`` makes DAGs of. A file is read again once it was changed."""
        settings = Settings().resolved()
        folder = pipelines_folder(Path(conf.get("core", "dags_folder")) / "pipelines")
        try:
            files = pipeline_files(folder)
        except PipelineError as error:
            return Catalogue(root=str(settings.artifact_root), problem=str(error))
        with self._lock:
            found = [(file, self._of(file)) for file in files]
            self._read = {file: self._read[file] for file in files}
        # As for the DAGs: of several with one name that file counts which is called like it.
        found.sort(key=lambda entry: not is_called_as_its_pipeline(*entry))
        shown: dict[str, Shown] = {}
        broken = []
        for file, content in found:
            if isinstance(content, PipelineError):
                broken.append(Broken(file.name, str(content)))
            else:
                shown.setdefault(content.name, Shown(content, dag_id_of(content.name)))
        models = tuple(shown[name] for name in sorted(shown))
        return Catalogue(models, tuple(broken), str(settings.artifact_root))

    def _of(self, file: Path) -> Pipeline | PipelineError:
        status = file.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._read.get(file)
        if known is None or known[0] != stamp:
            known = self._read[file] = (stamp, read_file(file))
        return known[1]

    def runs(self, dag_ids: Sequence[str]) -> Mapping[str, Runs]:
        """Three queries, however many DAGs there are."""
        ended = func.max(DagRun.end_date)
        with create_session() as session:
            dags = session.scalars(
                select(DagModel).where(DagModel.dag_id.in_(dag_ids), DagModel.is_stale.is_(False))
            ).all()
            last = (
                select(DagRun.dag_id, ended.label("ended"))
                .where(DagRun.dag_id.in_(dag_ids), DagRun.state.in_(_ENDED))
                .group_by(DagRun.dag_id)
                .subquery()
            )
            newest = session.execute(
                select(DagRun.dag_id, DagRun.state, DagRun.run_id, DagRun.end_date).join(
                    last, (DagRun.dag_id == last.c.dag_id) & (DagRun.end_date == last.c.ended)
                )
            ).all()
            succeeded = session.execute(
                select(DagRun.dag_id, ended)
                .where(DagRun.dag_id.in_(dag_ids), DagRun.state == "success")
                .group_by(DagRun.dag_id)
            ).all()
            runs = {dag_id: (str(state), run_id, when) for dag_id, state, run_id, when in newest}
            successes = dict(tuple(row) for row in succeeded)
            made = {}
            for dag in dags:
                state, run_id, when = runs.get(dag.dag_id, (None, None, None))
                made[dag.dag_id] = Runs(
                    state=state,
                    run_id=run_id,
                    ended=when,
                    succeeded=successes.get(dag.dag_id),
                    next_at=dag.next_dagrun_create_after,
                    paused=bool(dag.is_paused),
                )
            return made

    def run_decisions(self, dag_id: str, run_id: str) -> Sequence[str]:
        """By what its gate returned."""
        with create_session() as session:
            values = session.scalars(
                select(XComModel.value)
                .join(
                    TaskInstance,
                    (TaskInstance.dag_id == XComModel.dag_id)
                    & (TaskInstance.run_id == XComModel.run_id)
                    & (TaskInstance.task_id == XComModel.task_id)
                    & (TaskInstance.map_index == XComModel.map_index),
                )
                .where(
                    XComModel.dag_id == dag_id,
                    XComModel.run_id == run_id,
                    XComModel.key == "return_value",
                )
            ).all()
        found = [XComModel.deserialize_value(_Stored(value)) for value in values]
        decisions = (one for one in found if isinstance(one, Mapping) and one.get("step") == DECIDE.name)
        return [str(one["digest"]) for one in decisions if one.get("digest")]

    @contextmanager
    def reaching_stores(self) -> Iterator[None]:
        """With the connection of the settings, as tasks do."""
        with use_access(s3_access(Settings().resolved().aws_conn_id)):
            yield

    def dag_address(self, dag_id: str, run_id: str | None = None) -> str | None:
        """In Airflow's UI."""
        run = f"/runs/{quote(run_id, safe='')}" if run_id is not None else ""
        return f"{base_path()}/dags/{quote(dag_id, safe='')}{run}"


@dataclass(frozen=True, slots=True)
class _Stored:
    """What ``XComModel.deserialize_value`` reads."""

    value: Any
