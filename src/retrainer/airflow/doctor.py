"""The DAG ``doctor``: the checks of a deployment, made by the workers that will do the work.

Each worker knows only its own disk, GPUs and network, so that there is a task for each pool in which a pipeline trains,
and for each queue that is named. Not here: the checks (``deployment_checks.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from retrainer.airflow.context import require_known_conf
from retrainer.airflow.dag_folder import read_folder
from retrainer.airflow.deployment_checks import IN_TASKS, deployment_of, pool_of
from retrainer.airflow.failures import reported
from retrainer.airflow.settings import SettingsLike, as_mapping
from retrainer.airflow.step_operator import REPORT_KEY
from retrainer.doctor.examination import Examination, examine
from retrainer.doctor.findings import Check, Finding
from retrainer.errors import RetrainerError
from retrainer.spec import Pipeline

DOC = """
Checks what runs need where they will run: the interpreter that trains, GPUs, disks, memory, the clock, buckets and
stores with their conditional writes, signing keys, Airflow's own processes. A task that found something broken is red;
its log has a line for each finding, with how to mend it, and its XCom `report` a table. Nothing that is tried stays.
A task for a pool that does not exist never starts: then make the pool.
"""
EVERYWHERE = "everywhere"
DEFAULT = "default"


class DoctorOperator(BaseOperator):  # type: ignore[misc]
    """Make the checks where this task runs.

    Returns how many findings there are of each kind. Fails, without a retry, where something is broken.

    :param pipelines: the folder of the pipeline files. (templated)
    :param settings: see ``Settings``. (templated)
    :param place: what the run's param ``where`` calls this task.
    """

    template_fields: Sequence[str] = ("pipelines", "settings")
    ui_color = "#e2f2e4"

    def __init__(self, *, pipelines: str, settings: SettingsLike = None, place: str = DEFAULT, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipelines = pipelines
        self.settings = as_mapping(settings)
        self.place = place

    def execute(self, context: Any) -> Mapping[str, int]:
        """Make them."""
        where = context["params"].get("where", EVERYWHERE)
        if where not in {EVERYWHERE, self.place}:
            raise AirflowSkipException(f"the run is asked to look at '{where}'")
        require_known_conf(context)
        try:
            deployment = deployment_of(self.settings, [Path(self.pipelines)])
        except RetrainerError as error:
            raise reported(error, self.log) from None
        found = Examination.of(examine((*IN_TASKS, Check("Pool", self._own_pool)), deployment))
        for line in found.lines():
            self.log.info("%s", line)
        context["ti"].xcom_push(REPORT_KEY, found.markdown())
        if found.broken:
            raise AirflowFailException(f"{found.summary}: see the findings above, or the XCom '{REPORT_KEY}'")
        return {str(state): count for state, count in found.counts.items()}

    def _own_pool(self, _: object) -> list[Finding]:
        text = "exists, since this task runs in it; its slots are looked at by 'retrainer doctor' beside the scheduler"
        return [Finding("ok", str(self.pool), text)]


def doctor_dag(
    folder: str | Path, *, settings: SettingsLike = None, queues: Sequence[str] = (), **dag_kwargs: Any
) -> DAG:
    """The DAG that checks the deployment of a folder of pipelines.

    :param folder: the pipeline files.
    :param settings: see ``Settings``.
    :param queues: of Airflow's workers, beside the default one; each gets a task.
    :param dag_kwargs: arguments of ``airflow.sdk.DAG`` that replace the defaults.
    """
    pipelines = [content for _, content in read_folder(folder) if isinstance(content, Pipeline)]
    pools = dict.fromkeys(found[0] for pipeline in pipelines if (found := pool_of(pipeline)))
    places: dict[str, dict[str, Any]] = {
        DEFAULT: {},
        **{f"pool {pool}": {"pool": pool} for pool in pools},
        **{f"queue {queue}": {"queue": queue} for queue in queues},
    }
    arguments: dict[str, Any] = {
        "dag_id": "doctor",
        "schedule": None,
        "catchup": False,
        "max_active_runs": 1,
        "doc_md": DOC,
        "tags": ["retrainer"],
        "params": {
            "where": Param(
                EVERYWHERE,
                type="string",
                enum=[EVERYWHERE, *places],
                title="Where to look",
                description="By which workers: those of a pool, or of a queue.",
            )
        },
        **dag_kwargs,
    }
    with DAG(**arguments) as dag:
        for place, where in places.items():
            task_id = re.sub(r"[^\w.-]", "_", place)
            DoctorOperator(task_id=task_id, pipelines=str(folder), settings=settings, place=place, retries=0, **where)
    return dag
