"""A run in which nothing changed, in a real Airflow, against the run that made the model.

Airflow's own time, from a run's start to its end. ``python -m benchmarks.unchanged [--rounds N]``
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console

from benchmarks.table import show
from demo.airflow_server import AirflowServer
from demo.rest_client import RestClient
from demo.story import DAG_ID, set_up
from demo.workspace import Workspace

POLL_SECONDS = 0.5


def run(client: RestClient) -> tuple[float, dict[str, float]]:
    """Trigger a run and wait for it.

    :return: seconds from its start to its end, and those of each task.
    """
    run_id = client.trigger(DAG_ID)
    while (state := client.run_state(DAG_ID, run_id)) in {"queued", "running"}:
        time.sleep(POLL_SECONDS)
    if state != "success":
        raise RuntimeError(f"the run ended as {state}")
    entry = client.get(f"/dags/{DAG_ID}/dagRuns/{run_id}")
    start, end = (datetime.fromisoformat(entry[key]) for key in ("start_date", "end_date"))
    return (end - start).total_seconds(), {task.task_id: task.seconds for task in client.tasks(DAG_ID, run_id)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = dataclasses.replace(
            Workspace(), folder=Path(scratch) / "demo", airflow_home=Path(scratch) / "airflow"
        )
        workspace.fill()
        server = AirflowServer(
            workspace.airflow_home, workspace.dags, plugins=workspace.plugins, environment=workspace.environment
        )
        with server:
            client = set_up(server, Console())
            first, first_tasks = run(client)
            again = [run(client) for _ in range(options.rounds)]
    median = statistics.median(seconds for seconds, _ in again)
    tasks = again[-1][1]
    show(
        f"A run in which nothing changed, Airflow's time, median of {options.rounds}",
        ["", "first run, s", "nothing changed, s"],
        [
            *([name, f"{first_tasks[name]:.1f}", f"{tasks[name]:.1f}"] for name in first_tasks),
            ["whole run", f"{first:.1f}", f"{median:.1f}"],
        ],
        f"nothing changed takes {median / first:.3f} of the first run",
    )


if __name__ == "__main__":
    main()
