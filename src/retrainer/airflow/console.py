"""The console inside Airflow: mounted on the API server, behind its authentication, told what Airflow knows.

Loaded by the API server only, and there on demand (``plugin.py``): it needs Airflow's own web application and its
database. Not here: any page (``retrainer.console``).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_view
from airflow.models.dag import DagModel
from fastapi import FastAPI

from retrainer.airflow import console_moves, console_runs
from retrainer.airflow.connections import s3_access
from retrainer.airflow.console_place import base_path
from retrainer.airflow.dag_builder import dag_id_of
from retrainer.airflow.dag_folder import is_called_as_its_pipeline
from retrainer.airflow.settings import Settings, pipelines_folder, tries_texts
from retrainer.chain.trial import Trial, Tried
from retrainer.console.app import console_app
from retrainer.console.host import Broken, Catalogue, Credentials, Mover, Question, Runs, RunSeen, Shown, Trials
from retrainer.errors import PipelineError
from retrainer.run.trial import ask_version
from retrainer.spec import Pipeline, pipeline_files, try_pipeline
from retrainer.storage import use_access


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
        return self._may("GET", DagAccessEntity.TASK_LOGS, dag_id)

    def may_start(self, dag_id: str) -> bool:
        """As Airflow's API decides it, which is asked again when something is started."""
        return self._may("POST", DagAccessEntity.RUN, dag_id)

    def may_answer(self, questions: Sequence[Question]) -> list[bool]:
        """Likewise; in one query, for teams."""
        dag_ids = sorted({one.dag_id for one in questions})
        teams = DagModel.get_dag_id_to_team_name_mapping(dag_ids)
        allowed = {dag_id: _may(self.user, "PUT", DagAccessEntity.HITL_DETAIL, dag_id, teams) for dag_id in dag_ids}
        return [allowed[one.dag_id] and self._is_asked(one) for one in questions]

    def _is_asked(self, question: Question) -> bool:
        return not question.ids or bool(
            get_auth_manager().is_authorized_hitl_task(assigned_users=set(question.ids), user=self.user)
        )

    def _may(self, method: ResourceMethod, entity: DagAccessEntity, dag_id: str) -> bool:
        return _may(self.user, method, entity, dag_id, {dag_id: DagModel.get_team_name(dag_id)})


def _may(
    user: Any, method: ResourceMethod, entity: DagAccessEntity, dag_id: str, teams: Mapping[str, str | None]
) -> bool:
    details = DagDetails(id=dag_id, team_name=teams.get(dag_id))
    return bool(get_auth_manager().is_authorized_dag(method=method, access_entity=entity, details=details, user=user))


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
        folder = pipelines_folder()
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
            known = self._read[file] = (stamp, try_pipeline(file))
        return known[1]

    def runs(self, dag_ids: Sequence[str]) -> Mapping[str, Runs]:
        """Three queries, however many DAGs there are."""
        return console_runs.runs(dag_ids)

    def questions(self, dag_ids: Collection[str]) -> Sequence[Question]:
        """Two queries, likewise."""
        return console_runs.questions(dag_ids)

    def run(self, dag_id: str, run_id: str) -> RunSeen | None:
        """Five queries."""
        return console_runs.run(dag_id, run_id)

    def mover(self) -> Mover:
        """The DAG ``operate_models``."""
        return console_runs.mover()

    async def start(self, credentials: Credentials, dag_id: str, conf: Mapping[str, Any], note: str) -> str:
        """Through Airflow's API."""
        return await console_moves.start(credentials, dag_id, conf, note)

    def origins(self) -> Collection[str]:
        """That of ``[api] base_url``."""
        return console_moves.origin()

    def trials(self) -> Trials | None:
        """In the interpreter that trains, where the setting ``console_try`` is on."""
        return AirflowTrials(Settings().resolved().trainer_python) if tries_texts() else None

    @contextmanager
    def reaching_stores(self) -> Iterator[None]:
        """With the connection of the settings, as tasks do."""
        with use_access(s3_access(Settings().resolved().aws_conn_id)):
            yield

    def dag_address(self, dag_id: str, run_id: str | None = None, task_id: str | None = None) -> str | None:
        """In Airflow's UI."""
        run = f"/runs/{quote(run_id, safe='')}" if run_id is not None else ""
        task = f"/tasks/{quote(task_id, safe='')}" if task_id is not None else ""
        return f"{base_path()}/dags/{quote(dag_id, safe='')}{run}{task}"

    def question_address(self, question: Question) -> str | None:
        """Airflow's own page, which takes the answer."""
        task = self.dag_address(question.dag_id, question.run_id, question.task_id)
        mapped = f"/mapped/{question.map_index}" if question.map_index >= 0 else ""
        return f"{task}{mapped}/required_actions"


@dataclass(frozen=True, slots=True)
class AirflowTrials:
    """Versions are asked in a process of this host."""

    python: str | None

    def ask(self, trial: Trial) -> Tried:
        """The answer."""
        return ask_version(trial, python=self.python)
