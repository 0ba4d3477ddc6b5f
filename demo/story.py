"""The demo's story: a first model goes live, a night of swapped labels is refused, an unchanged day costs nothing.

Each chapter is a run of the DAG ``retrain__trail_status`` in a real Airflow, triggered and watched over its REST API.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from demo.airflow_server import AirflowServer
from demo.rest_client import ApiError, RestClient
from demo.watch import watch_run
from demo.workspace import CHECKOUT, Workspace
from retrainer.chain import DECIDE, PUBLISH, StepRef
from retrainer.chain.messages import duration
from retrainer.run.report import Report, make_report
from retrainer.spec import load_pipeline
from retrainer.store import Store

DAG_ID = "retrain__trail_status"
POOL = "gpu_pool"
TASKS = ("ingest", "train", "export", "evaluate", "gate", "publish")
PARSE_SECONDS = 60.0


class StoryError(Exception):
    """Something came out otherwise than the story says. The message is for people."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """A run that has ended.

    :param steps: what its tasks left in XCom.
    :param states: task to final state.
    """

    run_id: str
    steps: dict[str, StepRef]
    states: dict[str, str | None]
    seconds: float


def start_airflow(workspace: Workspace, console: Console, *, triggerer: bool = False) -> AirflowServer:
    """The server for the demo's folders, not started yet."""
    console.print(f"Starting Airflow in {workspace.airflow_home.relative_to(CHECKOUT)} ...")
    return AirflowServer(
        workspace.airflow_home,
        workspace.dags,
        plugins=workspace.plugins,
        environment=workspace.environment,
        triggerer=triggerer,
    )


def set_up(server: AirflowServer, console: Console) -> RestClient:
    """Log in, create the pool, wait for the DAG, unpause it."""
    client = server.client()
    client.ensure_pool(POOL, 1)

    def parsed() -> bool:
        errors = client.import_errors()
        if errors:
            raise StoryError(f"Airflow cannot import a DAG file:\n{errors[0]}")
        return client.has_dag(DAG_ID)

    server.wait_for(parsed, f"the DAG {DAG_ID}", seconds=PARSE_SECONDS)
    client.unpause(DAG_ID)
    console.print(f"Airflow is up on {server.url}; pool {POOL} made, {DAG_ID} unpaused.")
    return client


def tell(workspace: Workspace, console: Console) -> None:
    """The whole story, from empty folders; Airflow is stopped at its end, however it ends.

    :raises StoryError: a chapter came out otherwise.
    """
    began = time.monotonic()
    workspace.clear()
    workspace.fill()
    server = start_airflow(workspace, console)
    with server:
        client = set_up(server, console)
        first = _first_model(client, workspace, console)
        _swapped_labels(client, workspace, console, live=PUBLISH.output_of(first.steps[PUBLISH.name]).version)
        _nothing_changed(client, workspace, console)
        _where_things_are(client, workspace, first, console)
    left = server.processes()
    if left:
        raise StoryError(f"processes of Airflow are left: {left}")
    console.print(
        f"\nAirflow stopped, no process left. The whole demo took {duration(time.monotonic() - began)}. "
        "Look around in the UI: make airflow"
    )


def _first_model(client: RestClient, workspace: Workspace, console: Console) -> RunOutcome:
    _chapter(console, "1  A labelled file goes in, a model goes live")
    outcome = _run(client, console)
    report = _report(outcome, workspace)
    _expect(report.outcome == "promoted", "the first model was not promoted", report)
    console.print()
    console.print(escape(report.text()), highlight=False)
    console.print("[bold]Ten answers of the published model, from a process without torch[/bold]")
    sys.stdout.flush()
    model = load_pipeline(workspace.pipeline_file).name
    answered = subprocess.run(
        [sys.executable, "-m", "demo.predict", str(workspace.store), model], cwd=CHECKOUT, check=False
    )
    if answered.returncode != 0:
        raise StoryError("the published model did not answer, or torch was loaded")
    return outcome


def _swapped_labels(client: RestClient, workspace: Workspace, console: Console, *, live: str) -> None:
    _chapter(console, "2  The nightly export arrives with open and closed swapped")
    rows = workspace.swap_labels()
    console.print(f"{rows} rows of {workspace.data_file.relative_to(CHECKOUT)} now say the opposite.")
    outcome = _run(client, console)
    report = _report(outcome, workspace)
    _expect(report.outcome == "refused", "the model of the swapped labels was not refused", report)
    _expect(outcome.states["publish"] == "skipped", "publish was not skipped", report)
    decision = DECIDE.output_of(outcome.steps[DECIDE.name])
    console.print("\n[bold]Refused[/bold]")
    for reason in decision.reasons:
        console.print(f"  {escape(reason.detail)} [dim]({reason.code.value})[/dim]", highlight=False)
    now = _live_version(workspace)
    _expect(now == live, f"production moved from {live} to {now}", report)
    console.print(f"  production still serves version {now}, as before", highlight=False)


def _nothing_changed(client: RestClient, workspace: Workspace, console: Console) -> None:
    _chapter(console, "3  The export is repaired; nothing is new")
    workspace.restore_labels()
    outcome = _run(client, console)
    report = _report(outcome, workspace)
    _expect(report.outcome == "unchanged", "the run did not say that nothing changed", report)
    console.print(f"\n{escape(report.headline)} [dim]({outcome.seconds:.1f} s)[/dim]", highlight=False)


def _where_things_are(client: RestClient, workspace: Workspace, first: RunOutcome, console: Console) -> None:
    _chapter(console, "Where things are")
    links = {
        name: link
        for task in ("gate", "publish")
        for name, link in client.links(DAG_ID, first.run_id, task).items()
        if link
    }
    for name, link in links.items():
        console.print(f"  {name:<18} {escape(link)}", highlight=False, soft_wrap=True)
    console.print(f"  {'Model store':<18} {workspace.store}", highlight=False, soft_wrap=True)
    console.print(f"  {'Airflow':<18} {workspace.airflow_home}", highlight=False, soft_wrap=True)


def _run(client: RestClient, console: Console) -> RunOutcome:
    began = time.monotonic()
    run_id = client.trigger(DAG_ID)
    console.print(f"Triggered {DAG_ID} over the REST API: {run_id}")
    states = watch_run(client, DAG_ID, run_id, list(TASKS), console)
    steps: dict[str, StepRef] = {}
    for task in TASKS:
        if states.get(task) == "success":
            try:
                ref = StepRef.model_validate(client.xcom(DAG_ID, run_id, task))
            except ApiError as error:
                raise StoryError(f"{task} left no result in XCom: {error}") from None
            steps[ref.step] = ref
    return RunOutcome(run_id, steps, states, time.monotonic() - began)


def _report(outcome: RunOutcome, workspace: Workspace) -> Report:
    return make_report(load_pipeline(workspace.pipeline_file), outcome.steps)


def _live_version(workspace: Workspace) -> str | None:
    pipeline = load_pipeline(workspace.pipeline_file)
    newest = Store.open(str(workspace.store)).model(pipeline.name).newest_move(pipeline.publish.channel)
    return newest.to_version if newest else None


def _expect(holds: bool, otherwise: str, report: Report) -> None:
    if not holds:
        raise StoryError(f"{otherwise}.\n\n{report.text()}")


def _chapter(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{title}[/bold]", align="left"))
