"""Whole runs in a real Airflow with its scheduler, triggered and watched over its REST API."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.airflow_server import USER, AirflowServer
from demo.rest_client import RestClient
from retrainer.store import Store
from retrainer.store.entry import Answer
from tests.airflow.harness import REPOSITORY, Project, small_project, write_rows
from tests.airflow.running import Running, approve, checkpoints, group, parent_of, step_process
from tests.console.browser import CHROMIUM, browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAG_FILE = """
import os
from retrainer.airflow import build_dags, operate_dag
folder = os.environ["RETRAINER_PIPELINES"]
globals().update(build_dags(folder, default_args={"retries": 2, "retry_delay": 0.1}))
operate = operate_dag(folder)
"""
# Nothing of a killed task may be left after that time.
GONE_SECONDS = 10.0
# Of the training that is killed after the first 50: enough that it cannot have ended meanwhile.
STEPS = 800


class Pipelines(Running):
    """A server with two pipelines: ``asks``, which wants an approval, and ``long``, which trains for a while."""

    def __init__(self, server: AirflowServer, client: RestClient, asks: Project, long: Project) -> None:
        super().__init__(server, client)
        self.asks = asks
        self.long = long

    def happened(self, dag_id: str, run_id: str) -> Any:
        """What the console says of a run."""
        return self.client.get(f"{self.client.url}/retrainer/run", dag_id=dag_id, run_id=run_id)["told"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, small_artifacts: Path) -> Iterator[Pipelines]:
    root = tmp_path_factory.mktemp("scheduler")
    asks = small_project(root, tiny_bert, "asks")
    shutil.copytree(small_artifacts, asks.artifacts)
    asks.write(publish__approval="required", resources={"pool": "trainings"})
    long = small_project(root, tiny_bert, "long")
    long.write(
        training={
            "max_steps": STEPS,
            "per_device_train_batch_size": 4,
            "save_strategy": "steps",
            "save_steps": 50,
            "eval_strategy": "steps",
            "eval_steps": 50,
            "save_total_limit": 2,
        }
    )
    dags = root / "dags"
    dags.mkdir()
    (dags / "retrain_test.py").write_text(DAG_FILE)
    environment = {**asks.environment, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
    server = AirflowServer(root / "home", dags, plugins=REPOSITORY / "plugins", environment=environment)
    with server:
        client = server.client()
        client.ensure_pool("trainings", 1)
        for dag_id in (asks.dag_id, long.dag_id, "operate_models"):
            server.wait_for(lambda dag_id=dag_id: client.has_dag(dag_id), dag_id, seconds=60)  # type: ignore[misc]
            client.unpause(dag_id)
        assert client.import_errors() == []
        yield Pipelines(server, client, asks, long)
    assert server.processes() == []


def test_from_trigger_over_approval_to_rollback(running: Pipelines) -> None:
    client, project = running.client, running.asks
    rejected = client.trigger(project.dag_id)
    approve(running, project.dag_id, rejected, "Reject", "too eager")
    assert running.until_ended(project.dag_id, rejected)["publish"] == "skipped"
    # Nothing has changed, so nobody is asked again, until a person wants it; and no slot is waited for.
    client.ensure_pool("trainings", 0)
    unchanged = client.trigger(project.dag_id)
    assert running.until_ended(project.dag_id, unchanged)["approval"] == "skipped"
    said = running.log(project.dag_id, unchanged, "gate")
    assert f"{USER} rejected this very decision" in said
    assert "(too eager)" in said

    run_id = client.trigger(project.dag_id, {"ask_again": True})
    shown = approve(running, project.dag_id, run_id, reason="seen by two people")
    states = running.until_ended(project.dag_id, run_id)

    assert {task for task, state in states.items() if state != "success"} == {"train"}, states
    assert states["train"] == "skipped"
    assert "The gate promotes the challenger" in shown
    assert "| accuracy |" in shown
    model = Store.open(str(project.store)).model("asks")
    first = model.newest_move("production")
    assert first is not None
    published = model.history("production")[0]
    assert (published.actor, published.cause) == (USER, "approval")
    assert published.reason.endswith("; approved because: seen by two people")
    answers = [entry.event for entry in model.ledger.entries() if isinstance(entry.event, Answer)]
    assert [(said.answer, said.reason) for said in answers] == [
        ("reject", "too eager"),
        ("approve", "seen by two people"),
    ]

    # On folders nothing is to be followed but the console, and no heading is shown.
    links = [client.links(project.dag_id, run_id, task) for task in ("train", "gate", "publish")]
    assert [[*shown] for shown in links] == [[], ["Decision receipt"], ["Published version"]]
    assert all(str(link).startswith("/plugin/models/") for shown in links for link in shown.values())

    client.ensure_pool("trainings", 1)
    write_rows(project.folder / "data" / "train.csv", 160)
    second_run = client.trigger(project.dag_id)
    approve(running, project.dag_id, second_run)
    assert running.until_ended(project.dag_id, second_run)["publish"] == "success"
    second = model.newest_move("production")
    assert second is not None
    assert second.to_version != first.to_version

    # What the page of each run says, to those who open no log.
    happened = [running.happened(project.dag_id, one) for one in (rejected, unchanged, run_id, second_run)]
    assert [one["headline"] for one in happened] == [
        "The gate promoted the challenger, and nothing was published",
        "The gate promoted the challenger, and nothing was published",
        f"Published: production serves version {first.to_version}",
        f"Published: production serves version {second.to_version}",
    ]
    assert happened[0]["sentences"][0].startswith(f"{USER} rejected it: “too eager”")
    assert happened[1]["sentences"][0].startswith("Somebody rejected this very decision in a run before")
    assert happened[2]["sentences"][0].endswith(f"{USER} approved it: “seen by two people”.")

    form = {"action": "rollback", "version": first.to_version, "cause": "regression", "reason": "too eager"}
    move = client.post(f"{client.url}/retrainer/move?name=asks", form)["run_id"]
    moved = running.until_ended("operate_models", move)
    assert moved == {"move_channel": "success"}, running.log("operate_models", move, "move_channel")
    back = model.newest_move("production")
    assert back is not None
    assert back.to_version == first.to_version
    newest = model.history("production")[0]
    assert (newest.action, newest.actor, newest.cause, newest.reason) == ("rollback", USER, "regression", "too eager")
    served = running.happened("operate_models", move)
    assert served["headline"] == f"production of asks now serves version {first.to_version}"

    failing = client.trigger(
        "operate_models", {"pipeline": "asks", "action": "promote", "cause": "other", "reason": "x"}
    )
    assert running.until_ended("operate_models", failing) == {"move_channel": "failed"}
    assert "give either 'version' or 'from_channel'" in running.happened("operate_models", failing)["sentences"][0]


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
def test_a_person_rolls_back_in_the_browser(running: Pipelines, tmp_path: Path) -> None:
    """In Airflow's own UI, within its frame, with its cookie, and by the keyboard alone."""
    model = Store.open(str(running.asks.store)).model("asks")
    for rows in (200, 240):
        if len({move.to_version for move in model.history("production")}) < 2:
            write_rows(running.asks.folder / "data" / "train.csv", rows)
            run_id = running.client.trigger(running.asks.dag_id)
            approve(running, running.asks.dag_id, run_id)
            running.until_ended(running.asks.dag_id, run_id)
    before = model.newest_move("production")
    assert before is not None
    with browser(tmp_path) as page:
        page.size(1400)
        page.call("Network.setCookie", name="_token", value=running.client.token, url=running.server.url)
        page.go(f"{running.server.url}/plugin/models/retrainer/model?name=asks")
        page.wait_for("document.querySelector('iframe')?.contentDocument?.querySelector('form.move')")
        page.run(
            "const inside = document.querySelector('iframe').contentDocument;"
            "inside.querySelector('form.move select[name=version]').focus(); 0"
        )
        page.press("Tab")
        page.press("ArrowDown")
        page.press("ArrowDown")
        page.press("Tab")
        page.type("a drill in the browser")
        page.press("Tab")
        page.press("Enter")
        page.wait_for("document.querySelector('iframe').contentWindow.location.pathname == '/retrainer/run'")
        # It looks again by itself until the run has ended.
        said = "document.querySelector('iframe').contentDocument?.querySelector('#what')?.textContent"
        running.until(lambda: "now serves version" in (page.run(said) or ""), "the page to say what is served", 120)
    after = model.newest_move("production")
    assert after is not None
    assert (after.from_version, after.actor) == (before.to_version, USER)
    assert after.reason == "a drill in the browser"


# Only here does Airflow's own handler of SIGTERM run the operator's ``on_kill``; that a step ends with a parent that
# SIGKILL ends is tested without Airflow, too (tests/run).
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_a_killed_training_leaves_nothing_and_resumes(running: Pipelines, number: signal.Signals) -> None:
    client, project = running.client, running.long
    project.write(training__learning_rate=0.001 * number)  # another training for each signal
    run_id = client.trigger(project.dag_id)
    step = running.until(lambda: step_process(running.server, "train"), "training to start")
    running.until(lambda: checkpoints(project), "the first checkpoint")

    os.kill(parent_of(step), number)
    killed_at = time.monotonic()
    saved = checkpoints(project)
    running.until(lambda: not group(step), "the step's processes to end", GONE_SECONDS)
    assert time.monotonic() - killed_at < GONE_SECONDS

    states = running.until_ended(project.dag_id, run_id, 600.0)
    assert states["train"] == "success", running.log(project.dag_id, run_id, "train", 2)
    tries = {task.task_id: task.try_number for task in client.tasks(project.dag_id, run_id)}
    assert tries["train"] == 2
    summary = client.xcom(project.dag_id, run_id, "train")["output"]
    resumed = re.fullmatch(r"checkpoint-(\d+)", summary["resumed_from"])
    assert resumed is not None
    assert int(resumed[1]) >= max(saved)
    assert summary["steps"] == STEPS
    log = running.log(project.dag_id, run_id, "train", 2)
    assert f"resuming from {summary['resumed_from']}" in log
    assert re.search(r"^training: step .* left, epoch .*loss .*rows/s", log, re.MULTILINE), log
    assert "on validation: accuracy" in log
