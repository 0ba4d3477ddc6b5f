"""``python dag_program.py DAG_ID ANSWER.json [PARAMS [DATE]]``: run a DAG with ``dag.test()`` and write down what it
left.

The DAG of a pipeline, or that of a file of the same name in ``dags/`` or here.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from retrainer.airflow import build_dags

HERE = Path(__file__).resolve().parent
FOLDERS = (HERE.parents[1] / "dags", HERE)


def find(dag_id: str) -> Any:
    for folder in FOLDERS:
        if (folder / f"{dag_id}.py").is_file():
            return runpy.run_path(str(folder / f"{dag_id}.py"))["dag"]
    options = {"retries": 1, "retry_delay": 0.1}
    return build_dags(os.environ["RETRAINER_PIPELINES"], default_args=options)[dag_id]


def main(dag_id: str, answer: str, params: str = "{}", date: str = "") -> None:
    dag = find(dag_id)
    run = dag.test(logical_date=datetime.fromisoformat(date) if date else None, run_conf=json.loads(params))
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        tasks = session.scalars(
            select(TaskInstance).filter_by(run_id=run.run_id, dag_id=dag_id).order_by(TaskInstance.map_index)
        ).all()
        entries = session.scalars(select(XComModel).filter_by(run_id=run.run_id, dag_id=dag_id))
        events = session.scalars(select(AssetEvent).filter_by(source_run_id=run.run_id, source_dag_id=dag_id))
        of_assets = select(AssetModel.name, AssetStateStoreModel.key, AssetStateStoreModel.value).where(
            AssetModel.id == AssetStateStoreModel.asset_id
        )
        of_tasks = select(TaskStateStoreModel.task_id, TaskStateStoreModel.key, TaskStateStoreModel.value)
        kept = of_assets.union_all(of_tasks.where(TaskStateStoreModel.run_id == run.run_id))
        xcoms: dict[str, dict[str, object]] = {}
        for entry in entries:
            name = entry.task_id if entry.map_index < 0 else f"{entry.task_id}[{entry.map_index}]"
            xcoms.setdefault(name, {})[entry.key] = _decoded(entry.value)
        result = {
            "state": str(run.state),
            "tasks": {task.task_id: {"state": str(task.state), "tries": task.try_number} for task in tasks},
            "mapped": [
                [task.task_id, task.rendered_map_index, str(task.state)] for task in tasks if task.map_index >= 0
            ],
            "xcoms": xcoms,
            "kept": {f"{of}:{key}": json.loads(value) for of, key, value in session.execute(kept)},
            "events": [{"name": e.asset.name, "uri": e.asset.uri, "extra": e.extra} for e in events],
        }
    Path(answer).write_text(json.dumps(result))


def _decoded(value: object) -> object:
    """Tasks leave JSON; Airflow itself leaves the addresses of links as they are."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


if __name__ == "__main__":
    main(*sys.argv[1:])
