"""What a run survives in a real Airflow: SIGKILL of its worker, of the scheduler, of the triggerer. And what only time
brings about: deadlines, and an approval that nobody gives.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.airflow_server import AirflowServer
from retrainer.store import Store
from tests.airflow.harness import REPOSITORY, Project, small_project, write_rows
from tests.airflow.running import Device, Running, approve, checkpoints, group, parent_of, step_process

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

DAG_FILE = """
import os
from retrainer.airflow import build_dags
globals().update(build_dags(os.environ["RETRAINER_PIPELINES"], default_args={"retries": 8, "retry_delay": 0.1}))
"""
# Nothing of what was killed may go on after that time.
GONE_SECONDS = 10.0
# Long enough that four kills come in the middle of the training, each after some checkpoint.
STEPS = 4000
QUIET_SECONDS = 2
# How soon Airflow notices what is gone. These are the settings that docs/airflow.md names; by default it takes minutes.
SOON = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "8",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "5",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, device: Device) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("kills")
    (root / "pipelines").mkdir()
    dags = root / "dags"
    dags.mkdir()
    (dags / "retrain_test.py").write_text(DAG_FILE)
    environment = {
        **SOON,
        **device.environment,
        "RETRAINER_PIPELINES": str(root / "pipelines"),
        "RETRAINER_ARTIFACT_ROOT": str(root / "artifacts"),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
    }
    server = AirflowServer(root / "home", dags, environment=environment, triggerer=True)
    with server:
        yield Running(server, server.client())
    assert server.processes() == []


def unpaused(running: Running, project: Project) -> str:
    client = running.client
    running.until(lambda: client.has_dag(project.dag_id), project.dag_id, 90)
    assert client.import_errors() == []
    client.unpause(project.dag_id)
    return project.dag_id


def test_a_run_outlives_the_worker_the_scheduler_and_the_triggerer(
    running: Running, device: Device, tiny_bert: Path
) -> None:
    server, client = running.server, running.client
    root = server.home.parent
    project = small_project(root, tiny_bert, "kills")
    incoming = root / "incoming"
    incoming.mkdir()
    project.write(
        dataset__train=str(incoming),
        schedule={"on_new_data": True, "quiet_seconds": QUIET_SECONDS},
        resources={"gpus": 1, "pool": "devices"},
        publish__approval="required",
        training={
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "save_strategy": "steps",
            "save_steps": 50,
            "eval_strategy": "steps",
            "eval_steps": 50,
            "save_total_limit": 2,
        },
    )
    client.ensure_pool("devices", 1)
    dag_id = unpaused(running, project)
    write_rows(incoming / "first.csv", 120)
    (run_id,) = running.until(lambda: client.runs(dag_id), "the run", 120)
    seen: list[int] = []

    def in_mid_train() -> int:
        """The step's process of a try that was not seen yet, when it has come further than the tries before it."""

        def another() -> int | None:
            assert client.run_state(dag_id, run_id) == "running"
            step = step_process(server, "train")
            return step if step not in seen else None

        before = max(checkpoints(project), default=0)
        step = running.until(another, "a training to start", 240)
        seen.append(step)
        running.until(lambda: max(checkpoints(project), default=0) > before, "a checkpoint more", 120)
        assert device.is_leased()
        return int(step)

    def gone(step: int) -> None:
        running.until(lambda: not group(step), "the step's processes to end", GONE_SECONDS)

    # Its worker: the process of Airflow that watches over the task's own. Only the missing heartbeat tells.
    step = in_mid_train()
    worker = parent_of(parent_of(step))
    assert b"LocalExecutor" in Path(f"/proc/{worker}/cmdline").read_bytes()
    os.kill(worker, signal.SIGKILL)
    gone(step)
    assert not device.is_leased()

    # The scheduler, and with it all of its machine.
    step = in_mid_train()
    server.kill_and_restart("scheduler")
    gone(step)
    assert not device.is_leased()

    # The scheduler alone: its workers go on, until the next scheduler finds a task that is not its own.
    step = in_mid_train()
    server.kill_and_restart("scheduler", alone=True)
    assert group(step), "a training ends with its worker, not with the scheduler"

    # The triggerer, while nothing waits for it but the data that did not come yet.
    in_mid_train()
    server.kill_and_restart("triggerer")

    running.until(lambda: running.state(dag_id, run_id, "approval") == "awaiting_input", "the question", 900)
    assert not device.is_leased()
    server.kill_and_restart("triggerer")
    approve(running, dag_id, run_id, reason="it went through a lot")

    # The worker of the task that publishes.
    publishing = running.until(lambda: step_process(server, "publish"), "the publication", 120)
    os.kill(parent_of(parent_of(publishing)), signal.SIGKILL)
    gone(publishing)
    states = running.until_ended(dag_id, run_id, 300)

    assert set(states.values()) == {"success"}, states
    trained = client.xcom(dag_id, run_id, "train")["output"]
    assert trained["steps"] == STEPS
    assert str(trained["resumed_from"]).startswith("checkpoint-")
    history = Store.open(str(project.store)).model("kills").history("production")
    assert [(move.cause, move.actor) for move in history] == [("approval", "admin")]
    # What was trained on is known: nothing is told again.
    time.sleep(10 * QUIET_SECONDS)
    assert client.runs(dag_id) == {run_id: "success"}
    assert step_process(server, "train") is None
    assert not device.is_leased()


def test_silence_is_a_no_and_a_run_that_takes_too_long_is_told_of(
    running: Running, tiny_bert: Path, small_artifacts: Path
) -> None:
    client = running.client
    root = running.server.home.parent
    shutil.copytree(small_artifacts, root / "artifacts", dirs_exist_ok=True)
    told = root / "told"
    notifier = {"notifier": "tests.airflow.file_notifier.FileNotifier", "arguments": {"file": str(told)}}
    skips, fails = small_project(root, tiny_bert, "skips"), small_project(root, tiny_bert, "fails")
    skips.write(
        publish__approval={"timeout": "45s", "on_timeout": "skip"},
        dag={"deadline": {"after": "5s", "over_average": "1s", "least_runs": 1, "notify": [notifier]}},
    )
    fails.write(publish__approval={"timeout": "10s", "on_timeout": "fail"})
    for project in (skips, fails):
        unpaused(running, project)

    # A person answers at once: the average of the next run.
    quick = client.trigger(skips.dag_id)
    approve(running, skips.dag_id, quick, "Reject")
    assert running.until_ended(skips.dag_id, quick)["publish"] == "skipped"

    slow, failing = client.trigger(skips.dag_id, {"ask_again": True}), client.trigger(fails.dag_id)
    states = running.until_ended(fails.dag_id, failing)
    assert client.run_state(fails.dag_id, failing) == "failed"
    assert (states["approval"], states["publish"]) == ("failed", "upstream_failed"), states
    assert "nobody answered within 10s" in running.log(fails.dag_id, failing, "approval")
    tries = {task.task_id: task.try_number for task in client.tasks(fails.dag_id, failing)}
    assert tries["approval"] == 1, "another try would ask, and wait, once more"

    states = running.until_ended(skips.dag_id, slow)
    assert client.run_state(skips.dag_id, slow) == "success"
    assert states["publish"] == "skipped", states
    assert "nobody answered within 45s: nothing is published" in running.log(skips.dag_id, slow, "approval")
    for project in (skips, fails):
        assert not (project.store / project.content["name"] / "channels").exists()

    since_queued = "late: retrain skips takes longer than 5s since it was queued"
    over_average = "late: retrain skips takes 1s longer than runs before it took on average"
    running.until(lambda: over_average in told.read_text(), "the deadline over the average", 60)
    assert told.read_text().splitlines() == [since_queued, since_queued, over_average]
