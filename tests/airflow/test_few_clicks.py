"""The table "What one does, and where" of ``docs/airflow.md``: each task within three clicks from Airflow's home page,
or by the command that stands there, in a real Airflow and a real browser.

With ``RETRAINER_PICTURES=docs/pictures/tasks`` the pictures of the page are taken anew.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from demo.airflow_server import USER
from retrainer.store import Store
from tests.airflow.deployed import Deployed, deploy, served
from tests.airflow.harness import REPOSITORY, write_rows
from tests.airflow.running import Running
from tests.console.browser import CHROMIUM, Page, browser
from tests.console.clicking import Visit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]

MOST_CLICKS = 3
# Of a picture in the page, which a reader loads fourteen of.
MOST_BYTES = 120_000
PICTURES = os.environ.get("RETRAINER_PICTURES")
MOVED = "trail-status"
TODAY = datetime.now(UTC).date()
LAST_TUESDAY = (TODAY - timedelta(days=(TODAY.weekday() - 1) % 7 or 7)).isoformat()  # today is not last Tuesday
DAGS = "Dags"
TRIGGER = "Trigger Dag"
SUBMIT = "[data-testid=trigger-dag-submit]"
LATEST = "[data-testid=latest-run] a, a[data-testid=latest-run]"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    :param clicks: how many the page promises; ``None`` where there are none to make.
    :param command: as it stands there.
    """

    number: int
    task: str
    clicks: int | None
    command: str | None

    @property
    def picture(self) -> str:
        """Name of its file."""
        return f"{self.number:02}-{re.sub(r'[^a-z]+', '-', self.task.lower())}.png"


def rows_of(page: str) -> list[Row]:
    section = page.split("## What one does, and where\n")[1].split("\n## ", maxsplit=1)[0]
    found = []
    for number, line in enumerate(re.findall(r"^\| (\d+ \|.*) \|$", section, re.MULTILINE), 1):
        stated, task, clicks, _, command = re.split(r" +\| *", line, maxsplit=4)
        assert int(stated) == number
        code = re.fullmatch(r"`(.+)`", command.strip())
        found.append(Row(number, task, int(clicks) if clicks.isdigit() else None, code[1] if code else None))
    return found


PAGE = (REPOSITORY / "docs" / "airflow.md").read_text()
ROWS = rows_of(PAGE)


@dataclass(frozen=True)
class Office:
    """What a new engineer sits before."""

    deployed: Deployed
    running: Running
    page: Page

    def visit(self) -> Visit:
        """From Airflow's home page."""
        return Visit(self.page, f"{self.running.server.url}/")

    def run(self, command: str, exit_codes: tuple[int, ...] = (0,), **words: str) -> str:
        """A command of the table in a shell, with these words in place of those in capitals; what it prints."""
        words = {"STORE": str(self.deployed.store), "ROOT": str(self.deployed.artifacts), "NAME": MOVED, **words}
        words["retrain__NAME"] = f"retrain__{words['NAME'].replace('-', '_')}"
        written = re.compile(rf"\b({'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})\b")
        command = written.sub(lambda found: shlex.quote(words[found[0]]), command)
        finished = subprocess.run(
            ["bash", "-c", command],
            env={**self.running.server.environment, "COLUMNS": "400"},
            cwd=self.deployed.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode in exit_codes, f"{command}\n{finished.stdout}{finished.stderr}"
        return finished.stdout + finished.stderr


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    deployed = deploy(folder, tiny_bert)
    with served(deployed) as running, browser(tmp_path_factory.mktemp("profile")) as page:
        client = running.client
        for dag_id in (*(one.dag_id for one in deployed.real), f"decay__{MOVED.replace('-', '_')}"):
            client.unpause(dag_id)
        for dag_id in ("operate_models", "doctor"):
            client.unpause(dag_id)
        page.call("Network.setCookie", name="_token", value=client.token, url=running.server.url)
        yield Office(deployed, running, page)


Way = Callable[[Office, Path], int]
WAYS: dict[str, Way] = {}
COMMANDS: dict[str, Callable[[Office, str], None]] = {}


def way(task: str) -> Callable[[Way], Way]:
    """That goes through the pages for a task, leaves a picture of their end, and returns how often it clicked."""

    def register(goes: Way) -> Way:
        WAYS[task] = goes
        return goes

    return register


def command(task: str) -> Callable[[Callable[[Office, str], None]], Callable[[Office, str], None]]:
    """That gives the command of a task and looks at what came of it."""

    def register(gives: Callable[[Office, str], None]) -> Callable[[Office, str], None]:
        COMMANDS[task] = gives
        return gives

    return register


def test_the_table_has_the_tasks_that_are_tried_here() -> None:
    assert len(ROWS) == 14
    assert {row.task for row in ROWS if row.clicks is not None} == set(WAYS)
    assert {row.task for row in ROWS if row.command} == set(COMMANDS)
    assert all(row.clicks is not None or row.command for row in ROWS)
    pictures = re.findall(r"\(pictures/tasks/([\w-]+\.png)\)", PAGE)
    assert pictures == [row.picture for row in ROWS if row.clicks is not None]
    for name in pictures:
        assert (REPOSITORY / "docs" / "pictures" / "tasks" / name).stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("row", [row for row in ROWS if row.clicks is not None], ids=lambda row: row.task)
def test_by_clicks(row: Row, office: Office, tmp_path: Path) -> None:
    picture = tmp_path / row.picture
    clicks = WAYS[row.task](office, picture)
    assert clicks == row.clicks
    assert clicks <= MOST_CLICKS
    assert 10_000 < picture.stat().st_size <= MOST_BYTES
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, PICTURES)


@pytest.mark.parametrize("row", [row for row in ROWS if row.command], ids=lambda row: row.task)
def test_by_one_command(row: Row, office: Office) -> None:
    assert row.command is not None
    COMMANDS[row.task](office, row.command)


def newest_run(office: Office, dag_id: str, before: int) -> str:
    """The run that was started last, once there are more than before."""
    running = office.running
    running.until(lambda: len(running.client.runs(dag_id)) > before, f"a run of {dag_id}")
    return list(running.client.runs(dag_id))[-1]


@way("train once with other epochs, another base model, fewer rows")
def other_epochs(office: Office, picture: Path) -> int:
    dag_id = office.deployed.moved.dag_id
    before = len(office.running.client.runs(dag_id))
    visit = office.visit()
    visit.click(DAGS)
    visit.click(TRIGGER, row=f"retrain {MOVED}")
    visit.fill("input[name=element_epochs]", "1")
    visit.picture(picture, height=800)
    visit.click(None, SUBMIT)
    run_id = newest_run(office, dag_id, before)
    run = office.running.client.get(f"/dags/{dag_id}/dagRuns/{run_id}")
    assert run["conf"]["epochs"] == 1
    visit.shows(run["run_after"].replace("T", " ")[:19])  # the latest run in the row of the DAG
    office.running.until_ended(dag_id, run_id, 600)
    return visit.clicks


@command("train once with other epochs, another base model, fewer rows")
def other_epochs_told(office: Office, text: str) -> None:
    dag_id = office.deployed.asks.dag_id
    before = len(office.running.client.runs(dag_id))
    office.run(text, NAME=str(office.deployed.asks.content["name"]))
    run_id = newest_run(office, dag_id, before)
    assert office.running.client.get(f"/dags/{dag_id}/dagRuns/{run_id}")["conf"]["epochs"] == 1


@way("see how far a training is")
def how_far(office: Office, picture: Path) -> int:
    client, dag_id = office.running.client, office.deployed.long.dag_id
    run_id = client.trigger(dag_id)
    office.running.until(lambda: office.running.state(dag_id, run_id, "train") == "running", "the training", 300)
    visit = office.visit()
    visit.click(DAGS)
    visit.click(None, LATEST, row=f"retrain {office.deployed.long.content['name']}")
    visit.click("What happened")
    visit.shows("train runs", "training: step", "left", "loss", seconds=240)
    visit.picture(picture, height=800)
    client.patch(f"/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})
    return visit.clicks


@way("see why a model was refused")
def why_refused(office: Office, picture: Path) -> int:
    visit = office.visit()
    visit.click("Models")
    visit.shows("the last 4 challengers were refused")
    visit.click(None, ".refusal a", row="support-tickets")
    visit.shows("Refuse", "the whole interval must be above")
    visit.picture(picture, height=800)
    return visit.clicks


@command("see why a model was refused")
def why_refused_told(office: Office, text: str) -> None:
    said = office.run(text, NAME="support-tickets")
    assert "worse_than_champion" in said
    assert "refuse" in said


@way("read the rows that it now gets wrong")
def wrong_rows(office: Office, picture: Path) -> int:
    visit = office.visit()
    visit.click("Models")
    visit.click("support-tickets")
    visit.click(None, "section[aria-labelledby=decisions] th a")
    visit.shows("Rows that flipped")
    visit.picture(picture, at="#flipped", height=700)
    return visit.clicks


@way("answer an approval")
def answered(office: Office, picture: Path) -> int:
    client, dag_id = office.running.client, office.deployed.asks.dag_id
    run_id = client.trigger(dag_id)
    asks = re.compile(rf"TaskInstance Finished: .*task_id=approval, run_id={re.escape(run_id)},.*awaiting_input")
    log = office.running.server.home / "scheduler.log"
    office.running.until(lambda: asks.search(log.read_text()), "the approval to ask", 400)
    visit = office.visit()
    visit.click("Models")
    visit.click("waits for approval", row=str(office.deployed.asks.content["name"]))
    visit.shows("The gate promotes the challenger", "Approve")
    visit.fill("textarea[name=element_reason]", "read by two people")
    visit.picture(picture, height=980)
    visit.click("Approve")
    states = office.running.until_ended(dag_id, run_id)
    assert states["publish"] == "success"
    moves = Store.open(str(office.deployed.store)).model(str(office.deployed.asks.content["name"]))
    (move,) = moves.history("production")
    assert (move.actor, move.cause.value) == (USER, "approval")
    assert "read by two people" in move.reason
    return visit.clicks


def moved(office: Office, picture: Path, action: str, button: str, cause: str, reason: str) -> int:
    """By one of the two forms of the page of the model; the version is the one that the form names, or the last."""
    model = Store.open(str(office.deployed.store)).model(MOVED)
    before = model.newest_move("production")
    visit = office.visit()
    visit.click("Models")
    visit.click(MOVED)
    form = f"form.move:has([name=action][value={action}])"
    if action == "promote":
        staged = model.newest_move("staging")
        assert staged is not None
        visit.choose(f"{form} select[name=version]", staged.to_version)
    visit.choose(f"{form} select[name=cause]", cause)
    visit.fill(f"{form} textarea", reason)
    visit.picture(picture, at="section[aria-labelledby=move]", height=560)
    visit.click(button)
    visit.shows(f"production of {MOVED} now serves version", seconds=240)
    after = model.newest_move("production")
    assert before is not None
    assert after is not None
    assert (after.action, after.from_version, after.actor) == (action, before.to_version, USER)
    assert after.reason == reason
    return visit.clicks


@way("roll back")
def rolled_back(office: Office, picture: Path) -> int:
    return moved(office, picture, "rollback", "Roll back production", "regression", "says OPEN after rain")


@command("roll back")
def rolled_back_told(office: Office, text: str) -> None:
    assert "production" in office.run(text, WHY="says OPEN after rain")
    move = Store.open(str(office.deployed.store)).model(MOVED).newest_move("production")
    assert move is not None
    assert (move.action, move.reason) == ("rollback", "says OPEN after rain")


@way("promote what another channel serves")
def promoted(office: Office, picture: Path) -> int:
    return moved(
        office, picture, "promote", "Promote to production", "release", "a week on staging without a complaint"
    )


@command("promote what another channel serves")
def promoted_told(office: Office, text: str) -> None:
    model = Store.open(str(office.deployed.store)).model(MOVED)
    office.run(text, WHY="a week on staging")
    production, staging = model.newest_move("production"), model.newest_move("staging")
    assert production is not None
    assert staging is not None
    assert production.to_version == staging.to_version


@way("find out who was live last Tuesday")
def live_then(office: Office, picture: Path) -> int:
    visit = office.visit()
    visit.click("Models")
    visit.click("ag-news")
    visit.choose("form.day input[type=date]", LAST_TUESDAY)
    visit.click("Show")
    move = Store.open(str(office.deployed.store)).model("ag-news").move_at("production", at_the_end_of(LAST_TUESDAY))
    assert move is not None
    visit.shows(f"At the end of {LAST_TUESDAY} {move.to_version} was live")
    visit.picture(picture, at="section[aria-labelledby=day]", height=480)
    return visit.clicks


def at_the_end_of(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T23:59:59.999999+00:00")


@command("find out who was live last Tuesday")
def live_then_told(office: Office, text: str) -> None:
    said = office.run(text, NAME="ag-news", DAY=LAST_TUESDAY)
    start = datetime.fromisoformat(f"{LAST_TUESDAY}T00:00:00+00:00")
    move = Store.open(str(office.deployed.store)).model("ag-news").move_at("production", start)
    assert move is not None
    assert move.to_version in said


@way("compare two versions")
def compared(office: Office, picture: Path) -> int:
    visit = office.visit()
    visit.click("Models")
    visit.click("ag-news")
    visit.click("Compare")
    visit.shows("is better: accuracy differs by", seconds=120)
    visit.picture(picture, height=800)
    return visit.clicks


@command("compare two versions")
def compared_told(office: Office, text: str) -> None:
    moves = Store.open(str(office.deployed.store)).model("ag-news").history("production")
    said = office.run(text, NAME="ag-news", A=moves[0].to_version, B=moves[1].to_version)
    assert "accuracy" in said
    assert moves[1].to_version[:8] in said


@way("see what it learnt from, and what was set aside")
def learnt_from(office: Office, picture: Path) -> int:
    visit = office.visit()
    visit.click("Models")
    visit.click(MOVED)
    visit.click("Data")
    visit.shows("The champion learnt from", "Rows in quarantine", "nearly a test row")
    visit.picture(picture, height=800)
    return visit.clicks


@way("try a text")
def tried(office: Office, picture: Path) -> int:
    visit = office.visit()
    visit.click("Models")
    visit.click(MOVED)
    visit.fill("form[action^=try] textarea", "Trail 7 is closed because of mud")
    visit.click("Ask")
    visit.shows("ms to answer on one core", "closed", "open", seconds=120)
    visit.picture(picture, height=560)
    return visit.clicks


@command("try a text")
def tried_told(office: Office, text: str) -> None:
    said = office.run(text, TEXT="Trail 7 is closed because of mud")
    assert re.search(r"\b(open|closed)\b", said)


@way("know whether it is still as good")
def still_good(office: Office, picture: Path) -> int:
    dag_id = f"decay__{MOVED.replace('-', '_')}"
    write_rows(office.deployed.folder / "data" / MOVED / "labelled-since.csv", 200, start=5000, swapped=True)
    at_once = office.visit()
    at_once.click(DAGS)
    at_once.click(TRIGGER, row=f"decay {MOVED}")
    at_once.click(None, SUBMIT)
    assert at_once.clicks <= MOST_CLICKS
    office.running.until_ended(dag_id, newest_run(office, dag_id, 0), 600)
    visit = office.visit()
    visit.click("Models")
    visit.shows("it has decayed")
    visit.picture(picture, height=560)
    return visit.clicks


@command("know whether it is still as good")
def still_good_told(office: Office, text: str) -> None:
    said = office.run(text, exit_codes=(4,), **{"PIPELINE.yaml": str(office.deployed.moved.pipeline_file)})
    assert f"DECAYED {MOVED}" in said


@way("know whether the deployment is well")
def well(office: Office, picture: Path) -> int:
    visit = office.visit()
    visit.click(DAGS)
    visit.click(TRIGGER, row="doctor")
    visit.click(None, SUBMIT)
    run_id = newest_run(office, "doctor", 0)
    office.running.until_ended("doctor", run_id)
    assert office.running.client.run_state("doctor", run_id) == "success"
    # The sign beside the latest run of its row says so, too.
    card = (
        "[...document.querySelectorAll('[data-testid=dag-card]')].find((one) => one.textContent.startsWith('doctor'))"
    )
    visit.page.go(office.running.server.url + "/dags")  # Airflow's page may stay at what it showed while the run went
    visit.page.wait_for(f"{card} && !{card}.querySelector('.chakra-spinner')")
    visit.picture(picture, height=560)
    return visit.clicks


@command("know whether the deployment is well")
def well_told(office: Office, text: str) -> None:
    said = office.run(text)
    assert "Pipeline files" in said
    assert "Stores" in said


@command("retrain on new rows")
def new_rows(office: Office, text: str) -> None:
    write_rows(office.deployed.folder / "tuesday.csv", 40, start=7000)
    dag_id = office.deployed.watched.dag_id
    # What lay there when the DAG was switched on is retrained on first.
    first = newest_run(office, dag_id, 0)
    office.running.until_ended(dag_id, first, 600)
    office.run(text, (0,), **{"ROWS.csv": "tuesday.csv", "FOLDER": "incoming"})
    second = newest_run(office, dag_id, 1)
    office.running.until_ended(dag_id, second, 600)
    output = office.running.client.xcom(dag_id, second, "ingest")["output"]
    assert output["source_rows"] == 120 + 40 + 40  # with the rows of the test file
    assert office.running.client.get(f"/dags/{dag_id}/dagRuns/{second}")["run_type"] == "asset_triggered"
