"""The console on Airflow's own API server: who gets in, what stands in the navigation, where links lead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.deployment import Deployment, small_deployment
from retrainer.airflow import links
from retrainer.airflow.plugin import RetrainerPlugin
from tests.airflow.harness import HERE, airflow_environment
from tests.made_once import made_once


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory, airflow_home: Path) -> dict[str, Any]:
    """What the program of the same name found."""

    def make(folder: Path) -> None:
        small_deployment(folder, 6)

    folder = made_once(tmp_path_factory, "deployment", make)
    deployment = Deployment(folder)
    decision = next((folder / "artifacts" / "decide").iterdir()).name
    model = json.loads((folder / "artifacts" / "decide" / decision / "receipt.json").read_text())["model"]
    answer = tmp_path_factory.mktemp("console") / "answer.json"
    finished = subprocess.run(
        [sys.executable, str(HERE / "console_program.py"), str(answer), model, decision],
        env=airflow_environment(
            airflow_home,
            RETRAINER_PIPELINES=str(deployment.pipelines),
            RETRAINER_ARTIFACT_ROOT=deployment.root,
            _AIRFLOW_PROCESS_CONTEXT="server",
        ),
        cwd=airflow_home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.exists(), finished.stdout + finished.stderr
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def test_nobody_gets_in_without_logging_in(answers: dict[str, Any]) -> None:
    assert {"/", "/model", "/decision", "/report.html", "/receipt.json", "/dag", "/style.css", "/console.js"} == set(
        answers["routes"]
    )
    for route, by_visitor in answers["routes"].items():
        for who in ("nobody", "forged"):
            assert by_visitor[who]["GET"] in {401, 403}, (route, who, by_visitor[who])
            assert not [code for code in by_visitor[who].values() if code < 400], (route, who, by_visitor[who])


def test_a_viewer_reads_and_there_is_nothing_to_write(answers: dict[str, Any]) -> None:
    for route, by_visitor in answers["routes"].items():
        statuses = by_visitor["viewer"]
        assert statuses["GET"] in ({303} if route == "/dag" else {200}), route
        assert {statuses[method] for method in ("POST", "PUT", "PATCH", "DELETE")} == {405}, route
        assert answers["methods"][route] == ["GET"], route
    assert answers["cookie"] == 200  # as within a frame of the UI


def test_what_airflow_knows_is_shown(answers: dict[str, Any]) -> None:
    rows = {row["model"]: row for row in answers["json"]["rows"] if row["channel"] == "production"}
    assert rows.keys() == {
        "ag-news",
        "film-reviews",
        "first-steps",
        "paraphrases",
        "support-tickets",
        "trail-status",
    }
    signs = {sign["name"]: sign["text"] for sign in rows["paraphrases"]["health"]["signs"]}
    assert signs["schedule"] == "its DAG is not known to Airflow"  # nothing parsed it here
    assert "paraphrases" in answers["overview"]


def test_it_stands_in_the_navigation_and_beside_dags_and_runs(answers: dict[str, Any]) -> None:
    (plugin,) = (one for one in answers["views"]["plugins"] if one["name"] == "retrainer")
    views = {view["destination"]: view for view in plugin["external_views"]}
    assert views["nav"]["href"] == "/retrainer/"
    assert views["nav"]["name"] == "Models"
    assert views["dag"]["href"] == "/retrainer/dag?dag_id={DAG_ID}"
    assert views["dag_run"]["href"] == "/retrainer/dag?dag_id={DAG_ID}&run_id={RUN_ID}"
    assert len({view["url_route"] for view in views.values()}) == len(views) == 4


def test_it_follows_the_path_below_which_airflow_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example.com/data/")
    nav, *_ = RetrainerPlugin().external_views
    assert nav["href"] == "/data/retrainer/"


def test_links_of_operators_lead_to_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example.com/data")
    address = links.console_address("decision", name="ag-news", decision="0" * 64)
    assert address == f"/data/plugin/models/data/retrainer/decision?name=ag-news&decision={'0' * 64}"
