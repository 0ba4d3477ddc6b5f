"""The ``retrainer`` command: everything by hand that Airflow does by schedule, and a look into a store.

Each command's module loads what it needs when it is called, so that ``retrainer --help`` is quick and works where
neither the training libraries nor Airflow are installed.

Exit codes: 0 fine, 1 an error, 2 wrong usage, 3 nothing was published because the challenger was refused or not
approved, 4 a receipt, a store or a model does not hold, 5 there are too few rows to tell, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from retrainer import __version__
from retrainer.cli.compare_command import compare
from retrainer.cli.decay_command import decay
from retrainer.cli.decisions_command import decisions
from retrainer.cli.display import show_error
from retrainer.cli.doctor_command import doctor
from retrainer.cli.history_command import history
from retrainer.cli.init_command import init
from retrainer.cli.key_commands import keygen, sign
from retrainer.cli.move_commands import anchor, promote, rollback
from retrainer.cli.pipeline_commands import check, schema
from retrainer.cli.predict_command import predict
from retrainer.cli.relabel_command import relabel
from retrainer.cli.replay_command import replay
from retrainer.cli.run_command import run
from retrainer.cli.serve_command import serve
from retrainer.cli.store_commands import models, show, versions
from retrainer.cli.upkeep_commands import fsck, gc
from retrainer.cli.verify_command import verify
from retrainer.errors import RetrainerError, UserError

DEBUG_VARIABLE = "RETRAINER_DEBUG"
OFF = {"", "0", "false", "no", "off"}

app = typer.Typer(
    name="retrainer",
    help="Keeps text classifiers fresh: train, judge, publish, serve.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"retrainer {__version__}")
        raise typer.Exit


@app.callback()
def _every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show stack traces of all errors. Also ${DEBUG_VARIABLE}=1.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"  # so that the steps' processes know, too


for command in (
    *(init, run, check, doctor, schema, relabel),
    *(models, versions, show, history, decisions),
    *(verify, replay, compare, decay, predict, promote, rollback, anchor),
    *(fsck, gc, keygen, sign, serve),
):
    app.command()(command)


def _of_the_machine(error: OSError) -> Exception:
    """What the system refused to do with a file that it names: a name too long, a full disk, a loop of links."""
    if error.errno is None or error.filename is None:
        return error
    named = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else str(error.filename)
    return UserError(str(error.strerror), where=named, hint="--debug shows where it came from")


def main() -> None:
    """The console script. Ends the process with one of the exit codes above."""
    try:
        app(prog_name="retrainer")
    except Exception as error:
        known = _of_the_machine(error) if isinstance(error, OSError) else error
        if isinstance(known, RetrainerError):
            if os.environ.get(DEBUG_VARIABLE, "").lower() not in OFF:
                traceback.print_exc()
            show_error(known)
            sys.exit(1)
        error.add_note("\nThis is a fault in retrainer, not in what you did. Please report it with the lines above.")
        raise
