"""``python retry_program.py ANSWER.json``: a run in which each task fails once, with an error of one kind, and what
Airflow noted of the wait before its next try.

Waits are 600 times as short as those that people see, so that a run of ``dag.test()`` ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from retrainer import errors
from retrainer.airflow import IngestDatasetOperator
from retrainer.airflow.dag_builder import START_DATE
from retrainer.airflow.failures import RETRY_POLICY
from retrainer.airflow.settings import Settings
from retrainer.chain import StepRef
from retrainer.spec import parse_pipeline

SHORTER = 600
PIPELINE = {
    "name": "fails",
    "dataset": {"train": "/nowhere.csv"},
    "model": {"base": "none"},
    "publish": {"store": "/nowhere"},
}
KINDS: dict[str, type[errors.RetrainerError]] = {
    "killed": errors.StepKilled,
    "throttled": errors.Throttled,
    "gpu_full": errors.OutOfGpuMemory,
    "unreachable": errors.StorageError,
    "lost_race": errors.ChampionChanged,
    "bad_input": errors.DataError,
}
OWN_DELAY = "own_delay"


class FailsOnce(IngestDatasetOperator):
    """Fails in its first try."""

    def __init__(self, *, error: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.error = error

    def planned(self, context: Any, settings: Settings) -> tuple[StepRef, Mapping[str, str]]:
        if context["ti"].try_number == 1:
            raise KINDS[self.error]("so it goes", where="test")
        self._pipeline = parse_pipeline(PIPELINE)
        return StepRef(step="ingest", digest="0" * 64, root="/nowhere", reused=True, output={}), {}

    def conclude(self, ref: StepRef, context: Any) -> None: ...


def failing_dag() -> DAG:
    """A task for each kind of error."""
    with DAG("fails", start_date=START_DATE, schedule=None, default_args={"retries": 1}) as dag:
        for name in KINDS:
            # Of Airflow itself it is five minutes, where no kind says otherwise.
            more = {"retry_policy": RETRY_POLICY, "retry_delay": timedelta(seconds=0.2)}
            FailsOnce(task_id=name, error=name, pipeline=PIPELINE, **(more if name == "unreachable" else {}))
        FailsOnce(task_id=OWN_DELAY, error="throttled", pipeline=PIPELINE, retry_delay=timedelta(seconds=0.1))
    return dag


def main(answer: str) -> None:
    for rule in RETRY_POLICY.rules:
        assert rule.retry_delay is not None
        rule.retry_delay /= SHORTER
    dag = failing_dag()
    run = dag.test()
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancehistory import TaskInstanceHistory
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        tasks = session.scalars(select(TaskInstance).filter_by(run_id=run.run_id, dag_id="fails"))
        found: dict[str, Any] = {
            one.task_id: {"state": str(one.state), "tries": one.try_number, "waited": None, "why": None}
            for one in tasks
        }
        for one in session.scalars(select(TaskInstanceHistory).filter_by(run_id=run.run_id, dag_id="fails")):
            delay = one.retry_delay_override
            found[one.task_id] |= {"waited": None if delay is None else delay * SHORTER, "why": one.retry_reason}
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
