"""The console on Airflow's own API server: who gets in, what stands in the navigation, where links lead."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.deployment import Deployment, small_deployment
from retrainer.airflow import links
from retrainer.airflow.plugin import RetrainerPlugin
from retrainer.store import Store
from tests.airflow.harness import HERE, airflow_environment
from tests.made_once import made_once

# Everything that is there, and what a viewer gets; those that somebody can send something to.
READ = {
    "/": 200,
    "/model": 200,
    "/decision": 200,
    "/compare": 200,
    "/data": 200,
    "/report.html": 200,
    "/receipt.json": 200,
    "/approvals": 200,
    "/run": 200,
    "/dag": 303,
    "/style.css": 200,
    "/console.js": 200,
    # Forms that are not for them, and one that nobody has switched on here.
    "/move": 403,
    "/try": 403,
}
WRITE = {"/move", "/try"}
NAMES = ("ag-news", "film-reviews", "first-steps", "paraphrases", "support-tickets", "trail-status")


@pytest.fixture(scope="session")
def answers(tmp_path_factory: pytest.TempPathFactory, airflow_home: Path) -> dict[str, Any]:
    """What the program of the same name found."""

    def make(folder: Path) -> None:
        small_deployment(folder, 6)

    made = Deployment(made_once(tmp_path_factory, "deployment", make))
    folder = tmp_path_factory.mktemp("console")
    home = folder / "home"
    shutil.copytree(airflow_home, home)
    (folder / "pipelines").mkdir()
    for file in made.pipelines.glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        content["publish"]["approval"] = "required"
        (folder / "pipelines" / file.name).write_text(yaml.safe_dump(content))
    moves = Store.open(made.store).model("trail-status").history("production")
    decision = next(move.decision for move in moves if move.decision)
    environment = airflow_environment(
        home,
        RETRAINER_PIPELINES=str(folder / "pipelines"),
        RETRAINER_ARTIFACT_ROOT=made.root,
        _AIRFLOW_PROCESS_CONTEXT="server",
        AIRFLOW_API_APPS="core",
    )
    answer = folder / "answer.json"
    program = [str(HERE / "console_program.py"), str(answer), "trail-status", decision, moves[-1].to_version]
    for command in (["-m", "airflow", "dags", "reserialize"], program):
        finished = subprocess.run(
            [sys.executable, *command],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert answer.exists(), finished.stdout + finished.stderr
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def test_every_route_is_known(answers: dict[str, Any]) -> None:
    methods: dict[str, set[str]] = {}
    for route in answers["routes"]:
        methods.setdefault(route["path"], set()).update(route["methods"])
    assert methods.keys() == READ.keys()
    assert {path for path, several in methods.items() if several - {"GET"}} == WRITE
    assert {method for several in methods.values() for method in several} == {"GET", "POST"}


def test_nobody_gets_in_without_logging_in(answers: dict[str, Any]) -> None:
    for route in answers["routes"]:
        for who in ("nobody", "forged"):
            statuses = route["statuses"][who]
            assert {statuses[method] for method in route["methods"]} <= {401, 403}, (route, who)
            assert not [code for code in statuses.values() if code < 400], (route, who)


def test_a_viewer_reads_and_cannot_write(answers: dict[str, Any]) -> None:
    for route in answers["routes"]:
        for who in ("viewer", "cookie"):
            statuses = route["statuses"][who]
            assert statuses["GET"] == READ[route["path"]] or "GET" not in route["methods"], (route, who)
            writing = {statuses[method] for method in ("POST", "PUT", "PATCH", "DELETE")}
            assert writing <= ({403, 405} if route["path"] in WRITE else {405}), (route, who)
            if "POST" in route["methods"]:
                assert statuses["POST"] == 403
    assert answers["runs after a viewer"] == 0
    assert '<form class="move"' not in answers["viewer's model"]
    assert answers["cookie"] == 200  # as within a frame of the UI


def test_a_form_of_another_site_is_refused(answers: dict[str, Any]) -> None:
    assert answers["from elsewhere"] == [403] * 5
    assert answers["runs before"] == 0


def test_a_form_that_is_incomplete_comes_back_with_what_was_written(answers: dict[str, Any]) -> None:
    for name, (status, page) in answers["incomplete"].items():
        assert status == 400, name
        assert "Nothing was started" in page
        assert ("sports go to business" in page) == (name != "reason")


def test_a_form_starts_a_run_in_the_name_of_whoever_sent_it(answers: dict[str, Any]) -> None:
    assert '<form class="move" method="post"' in answers["form"]
    status, address, runs = answers["done"]
    assert (status, runs) == (303, 1)
    assert address.startswith("run?dag_id=operate_models&run_id=manual__")
    run = answers["run"]
    assert (run["model"], run["kind"], run["state"], run["by"]) == ("trail-status", "move", "queued", "olga")
    assert run["note"] == "sports go to business"
    assert "is being rolled back" in answers["run page"]
    # Airflow's own log of who did what.
    (entry,) = (entry for entry in answers["log"] if entry[0] == "trigger_dag_run")
    assert entry[1:3] == ["olga", "operate_models"]
    asked = json.loads(entry[3])["conf"]
    assert (asked["pipeline"], asked["action"], asked["cause"]) == ("trail-status", "rollback", "regression")


def test_nothing_is_started_that_would_not_begin(answers: dict[str, Any]) -> None:
    status, page = answers["paused"]
    assert status == 400
    assert "is paused" in page


def test_what_waits_is_shown_to_those_who_may_answer(answers: dict[str, Any]) -> None:
    olga = {one["model"]: one for one in answers["waiting"]["olga"]}
    assert olga.keys() == {"trail-status", "paraphrases"}
    assert olga["trail-status"]["people"] == ["Olga"]
    assert olga["trail-status"]["address"].endswith("/tasks/approval/required_actions")
    may = {who: {one["model"]: one["for_you"] for one in several} for who, several in answers["waiting"].items()}
    assert may == {
        "vera": {"trail-status": False, "paraphrases": False},
        "olga": {"trail-status": True, "paraphrases": True},
        "ulla": {"trail-status": False, "paraphrases": True},
    }
    assert "2 wait for an approval" in answers["waiting overview"]
    assert "Publish retrain__trail_status?" in answers["waiting model"]
    assert answers["waiting run"]["told"]["headline"] == "It waits for an approval"
    assert "Publish retrain__paraphrases?" in answers["approvals"]


def test_what_waits_costs_as_much_for_many_models_as_for_one(answers: dict[str, Any]) -> None:
    one, many, none = answers["queries"]
    assert many == one
    assert none <= one <= 3


def test_nothing_is_tried_where_that_is_not_switched_on(answers: dict[str, Any]) -> None:
    assert answers["try"]["message"] == "trying texts is not switched on here"


def test_what_airflow_knows_is_shown(answers: dict[str, Any]) -> None:
    rows = {row["model"]: row for row in answers["json"]["rows"] if row["channel"] == "production"}
    assert rows.keys() == set(NAMES)
    signs = {sign["name"]: sign["text"] for sign in rows["paraphrases"]["health"]["signs"]}
    assert "paused" in signs["schedule"]  # as Airflow leaves a DAG that it sees for the first time
    assert "paraphrases" in answers["overview"]


def test_it_stands_in_the_navigation_and_beside_dags_and_runs(answers: dict[str, Any]) -> None:
    (plugin,) = (one for one in answers["views"]["plugins"] if one["name"] == "retrainer")
    views = {view["destination"]: view for view in plugin["external_views"]}
    assert views["nav"]["href"] == "/retrainer/"
    assert views["nav"]["name"] == "Models"
    assert views["dag"]["href"] == "/retrainer/dag?dag_id={DAG_ID}"
    assert views["dag_run"]["href"] == "/retrainer/run?dag_id={DAG_ID}&run_id={RUN_ID}"
    assert len({view["url_route"] for view in views.values()}) == len(views) == 4


def test_it_follows_the_path_below_which_airflow_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example.com/data/")
    nav, *_ = RetrainerPlugin().external_views
    assert nav["href"] == "/data/retrainer/"


def test_links_of_operators_lead_to_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.example.com/data")
    address = links.console_address("decision", name="ag-news", decision="0" * 64)
    assert address == f"/data/plugin/models/data/retrainer/decision?name=ag-news&decision={'0' * 64}"
