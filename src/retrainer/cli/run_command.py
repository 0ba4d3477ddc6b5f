"""``retrainer run``: a whole pipeline, the same steps in the same child processes as under Airflow."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.cli import display
from retrainer.cli.libraries import require
from retrainer.errors import IntegrityError

if TYPE_CHECKING:
    from retrainer.run.pipeline_run import RunResult
    from retrainer.run.report import Report
    from retrainer.spec import Pipeline

ROOT_VARIABLE = "RETRAINER_ARTIFACT_ROOT"
# Beside the pipeline file, as every relative path in it is: the same wherever the command is called from.
DEFAULT_ROOT = Path(".retrainer") / "artifacts"

NOT_PUBLISHED = 3
STYLES = {"promoted": "bold green", "unchanged": "bold green", "refused": "bold red", "unapproved": "bold yellow"}


def run(
    pipeline_file: Annotated[
        Path,
        # What cannot be read is said by load_pipeline, as every other fault of the file is.
        typer.Argument(metavar="PIPELINE.yaml", help="The pipeline file.", readable=False),
    ],
    artifacts: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where step outputs, checkpoints and run folders are kept: a folder, file:// or s3://. "
            f"By default ${ROOT_VARIABLE}, else {DEFAULT_ROOT} beside the pipeline file.",
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Interpreter that has airflow-retrainer[train]; this one by default."),
    ] = None,
    approve: Annotated[
        bool,
        typer.Option(
            "--approve", help="Approve what the gate promotes, where the pipeline requires a person's approval."
        ),
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain lines on a terminal, too; elsewhere they are always plain.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of the report.")] = False,
) -> None:
    """Run a pipeline: ingest, train, export, evaluate, decide, publish.

    Where it lists several base models, each is trained and exported, and the best on the validation rows is evaluated.

    Nothing is done twice: an interrupted training resumes, and a run in which nothing changed ends after a second and
    says "unchanged".

    Exit codes: 0 promoted or unchanged, 1 error, 2 wrong usage, 3 refused by the gate or not approved, 130 interrupted.
    """
    from retrainer.chain import stages_of
    from retrainer.cli.progress import open_display
    from retrainer.run.pipeline_run import new_context, run_pipeline
    from retrainer.run.report import make_report
    from retrainer.spec import load_pipeline

    pipeline = load_pipeline(pipeline_file)
    _look_ahead(pipeline)
    root = artifact_root(pipeline_file, artifacts)
    if python is None:
        # Said before the data is read, not with a stack trace of the second step.
        require("train", otherwise=", or give --python an interpreter that has it")
    watching = open_display(display.stderr(), plain=plain, stages=stages_of(pipeline))
    try:
        with _sigterm_interrupts() as signals, watching:
            context = new_context(root, approved=approve and pipeline.publish.approval.required)
            result = run_pipeline(pipeline, context=context, observer=watching, python=python)
    except KeyboardInterrupt:
        display.stderr().print("interrupted; run it again to go on from the last complete step or checkpoint")
        raise typer.Exit(128 + (signals or [signal.SIGINT])[0]) from None
    report = make_report(pipeline, result.steps, folder=result.folder)
    if as_json:
        _print_json(pipeline, result, report)
    else:
        _print_report(report)
    if report.outcome == "unapproved":
        display.stderr().print("to publish it, run the same command again with --approve; nothing is computed twice")
    if report.outcome in {"refused", "unapproved"}:
        raise typer.Exit(NOT_PUBLISHED)


def artifact_root(pipeline_file: Path, given: str | None) -> str:
    """The option, else the environment, else a folder beside the pipeline file that git does not see."""
    configured = given or os.environ.get(ROOT_VARIABLE)
    if configured:
        return configured
    root = pipeline_file.absolute().parent / DEFAULT_ROOT
    from retrainer.storage.errors import filesystem_errors

    with filesystem_errors(str(root)):
        root.mkdir(parents=True, exist_ok=True)
        ignore = root.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    return str(root)


def _look_ahead(pipeline: Pipeline) -> None:
    """Find out now, not after an hour of training, that the base model, the signing key or the store is not there."""
    from retrainer.chain.model_store import check_channel, check_keys, model_of
    from retrainer.sources import base_models

    for base in pipeline.model.candidates or (pipeline.model.base,):
        base_models.local_folder(base)
    check_keys(pipeline.publish)
    # What cannot be trusted in a store is evidence for the gate, not an error of this run.
    with suppress(IntegrityError):
        check_channel(pipeline.publish, model_of(pipeline).newest_move(pipeline.publish.channel))


@contextmanager
def _sigterm_interrupts() -> Iterator[list[int]]:
    """SIGTERM ends the run like Ctrl-C does: the step's process goes first. Yields the signals that came."""
    signals: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_report(report: Report) -> None:
    from rich.text import Text

    console = display.stdout()
    if not console.is_terminal:
        sys.stdout.write(report.text())
        return
    for section in report.sections:
        display.print_facts(section.facts, title=section.title)
        console.print()
    if report.code:
        display.print_lines(report.code.splitlines(), title="How to load it")
        console.print()
    console.print(Text(report.headline, style=STYLES[report.outcome]))


def _print_json(pipeline: Pipeline, result: RunResult, report: Report) -> None:
    display.print_json(
        {
            "pipeline": pipeline.name,
            "outcome": report.outcome,
            "headline": report.headline,
            "run_id": result.context.run_id,
            "folder": result.folder,
            "artifacts": result.root,
            "steps": {step: ref.model_dump(mode="json") for step, ref in result.steps.items()},
            "candidates": {
                base: {step: ref.model_dump(mode="json") for step, ref in refs.items()}
                for base, refs in result.candidates.items()
            },
        }
    )
