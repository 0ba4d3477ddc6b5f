"""``retrainer doctor``: whether a deployment has what runs need, and how to mend what it has not."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.cli import display
from retrainer.cli.run_command import ROOT_VARIABLE
from retrainer.cli.store_options import JsonOption

if TYPE_CHECKING:
    from retrainer.doctor.deployment import Deployment
    from retrainer.doctor.findings import Check, Finding

PIPELINES_VARIABLE = "RETRAINER_PIPELINES"
PYTHON_VARIABLE = "RETRAINER_TRAINER_PYTHON"
# What Airflow's layer knows beside: loaded where there is an Airflow, never imported from here.
OF_AIRFLOW = "retrainer.airflow.deployment_checks:beside_the_database"
WIDTH = 26


def doctor(
    pipelines: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PIPELINES]...",
            help=f"Pipeline files, or folders of them; by default Airflow's, or ${PIPELINES_VARIABLE}.",
            show_default=False,
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(metavar="ROOT", help=f"Where artifacts go; by default Airflow's, or ${ROOT_VARIABLE}."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="PYTHON", help=f"Interpreter that trains; by default Airflow's, or ${PYTHON_VARIABLE}."),
    ] = None,
    airflow: Annotated[
        bool, typer.Option(help="Look at Airflow as well, with its settings and connections, where it is set up here.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Check a deployment: interpreter, GPUs, disks, clock, stores, keys, Airflow. Each finding says how to mend it.

    Nothing that is tried stays. Exit code 1 when something is broken. Run it where tasks run, as the same user.
    """
    from retrainer.doctor.examination import Examination, examine

    with _airflow_logs_elsewhere():
        deployment, checks = _deployment(pipelines, artifacts, python, airflow=airflow and has_airflow())
    found: list[tuple[Check, Finding]] = []
    for check, finding in _one_by_one(examine(checks, deployment)):
        if not as_json:
            if not found or found[-1][0] is not check:
                typer.echo(check.title)
            display.print_finding(finding.state, finding, width=WIDTH)
        found.append((check, finding))
    examination = Examination.of(found)
    if as_json:
        display.print_json(examination.to_json())
    else:
        typer.echo(f"\n{examination.summary}")
    if examination.broken:
        raise typer.Exit(1)


def _one_by_one(found: Iterator[tuple[Check, Finding]]) -> Iterator[tuple[Check, Finding]]:
    while True:
        with _airflow_logs_elsewhere():
            one = next(found, None)
        if one is None:
            return
        yield one


def _airflow_logs_elsewhere() -> AbstractContextManager[object]:
    """Airflow writes its log to the standard output, which is for findings."""
    return redirect_stdout(sys.stderr)


def has_airflow() -> bool:
    """Whether Airflow is installed and set up here. Importing it would set it up."""
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    return importlib.util.find_spec("airflow") is not None and (home / "airflow.cfg").is_file()


def _deployment(
    places: list[Path] | None, root: str | None, python: str | None, *, airflow: bool
) -> tuple[Deployment, Sequence[Check]]:
    if airflow:
        settings = {name: value for name, value in (("artifact_root", root), ("trainer_python", python)) if value}
        made: tuple[Deployment, Sequence[Check]] = pkgutil.resolve_name(OF_AIRFLOW)(settings, places)
        return made

    from retrainer.doctor.checks import CHECKS
    from retrainer.doctor.deployment import Deployment, files_of

    folder = os.environ.get(PIPELINES_VARIABLE)
    files, problem = files_of(places or ([Path(folder).expanduser()] if folder else []))
    deployment = Deployment(
        files=files,
        problem=problem,
        artifact_root=root or os.environ.get(ROOT_VARIABLE) or None,
        python=python or os.environ.get(PYTHON_VARIABLE) or sys.executable,
    )
    return deployment, CHECKS
