"""``python -m demo`` tells the story and stops; ``python -m demo --serve`` leaves the same Airflow running."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from httpx import HTTPError
from rich.console import Console
from rich.markup import escape

from demo.airflow_server import USER, ServerError
from demo.rest_client import ApiError
from demo.story import DAG_ID, StoryError, set_up, start_airflow, tell
from demo.watch import RunFailed
from demo.workspace import Workspace, WorkspaceBusy
from retrainer.errors import RetrainerError


def main(arguments: list[str]) -> int:
    """Run the demo.

    :return: exit code: 0 when everything came out as told, 130 after Ctrl-C or SIGTERM.
    """
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="leave Airflow running, with its UI, until Ctrl-C")
    chosen = parser.parse_args(arguments)
    console = Console(soft_wrap=True)
    # A supervisor's SIGTERM, and a terminal that is closed, end the demo in the way that Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    workspace = Workspace()
    try:
        with workspace.alone():
            if chosen.serve:
                serve(workspace, console)
            else:
                tell(workspace, console)
    except KeyboardInterrupt:
        console.print("\nStopped; Airflow and everything it started has ended.")
        return 130
    except (WorkspaceBusy, ServerError, StoryError, RunFailed, ApiError, HTTPError, RetrainerError) as error:
        console.print(f"\n[red bold]The demo did not work.[/red bold]\n{escape(str(error))}", highlight=False)
        return 1
    return 0


def serve(workspace: Workspace, console: Console) -> None:
    """Airflow with its UI, on the demo's folders as they are, until interrupted."""
    workspace.fill()
    with start_airflow(workspace, console, triggerer=True) as server:
        set_up(server, console)
        console.print(f"\n  {server.url}\n  user {USER}, password {server.password}\n", highlight=False)
        console.print(f"Trigger {DAG_ID} there, or change {workspace.data_file} first. Ctrl-C stops it.")
        while True:
            server.wait_for(lambda: False, "Ctrl-C", seconds=float("inf"))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
