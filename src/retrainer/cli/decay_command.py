"""``retrainer decay``: whether the model that is live still answers as well on rows that were labelled since."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.cli import display
from retrainer.cli.libraries import require
from retrainer.cli.run_command import ROOT_VARIABLE, artifact_root

if TYPE_CHECKING:
    from retrainer.artifacts.decay import DecayVerdict
    from retrainer.chain.messages import Message

EXIT_CODES: dict[DecayVerdict, int] = {"holds": 0, "decayed": 4, "insufficient": 5}


def decay(
    pipeline_file: Annotated[Path, typer.Argument(metavar="PIPELINE.yaml", help="The pipeline file.", readable=False)],
    artifacts: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"As of `retrainer run`; by default ${ROOT_VARIABLE}, else beside the file."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Interpreter that has airflow-retrainer[train]; this one by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Score the champion on newly labelled rows, and compare that with the test rows of its decision.

    Rows that it was trained, chosen or judged by are left out. Section `decay` of the pipeline says which rows, by
    which metric, and how much worse is too much; without it the defaults hold. Nothing is trained, and nothing moves.

    Exit codes: 0 it holds, 1 error, 2 wrong usage, 4 it has decayed, 5 the rows do not tell.
    """
    from retrainer.artifacts.decay import DecayRecord
    from retrainer.artifacts.repository import Artifacts
    from retrainer.chain import DECAY
    from retrainer.report.decay import decay_lines
    from retrainer.run.pipeline_run import new_context
    from retrainer.run.processes import run_step
    from retrainer.spec import load_pipeline

    pipeline = load_pipeline(pipeline_file)
    root = artifact_root(pipeline_file, artifacts)
    if python is None:
        require("train", otherwise=", or give --python an interpreter that has it")
    request = DECAY.plan(pipeline, context=new_context(root))
    ref = run_step(request, on_message=_warn, python=python)
    record = DecayRecord.load(Artifacts(ref.root).fetch(DECAY.name, ref.digest))
    if as_json:
        display.print_json(record.model_dump(mode="json"))
    else:
        sys.stdout.write("\n".join(decay_lines(record)) + "\n")
    raise typer.Exit(EXIT_CODES[record.verdict])


def _warn(message: Message) -> None:
    """Only what somebody has to know: what was found is printed at the end."""
    from retrainer.chain.messages import Log

    if isinstance(message, Log) and message.level == "warning":
        display.stderr().print(f"warning: {message.text}", markup=False)
