"""A run while it happens: a live list of the steps on a terminal, plain lines every few seconds elsewhere.

Both go to the error stream, so that standard output holds the report alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from retrainer.chain import Stage, StepRef
from retrainer.chain.messages import Log, Message, Metrics, Progress, describe, duration
from retrainer.run.pipeline_run import Observer
from retrainer.run.report import brief

# Between two lines of progress where there is no terminal.
LINE_SECONDS = 3.0
BAR_WIDTH = 20
# Of "train" and the name of a base model; longer ones are cut.
MOST_NAME_WIDTH = 28
TIME_WIDTH = len(duration(59 * 60 + 59))
REFRESH_PER_SECOND = 4


class Display(Observer):
    """An observer that is opened before the run, and closed after it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the terminal as it was."""


class Lines(Display):
    """One line for each thing that happens, of progress at most one every few seconds."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = 0.0
        self._last = 0.0

    def _say(self, stage: Stage, text: str) -> None:
        self._console.print(f"{stage.step.name:<8} {_about(stage)}{text}", soft_wrap=True)

    def planning(self, stage: Stage) -> None:
        """Remember when the step began."""
        self._began = self._clock()
        self._last = 0.0

    def message(self, stage: Stage, message: Message) -> None:
        """Say what the step said, unless it is progress and the last line is recent."""
        match message:
            case Progress():
                now = self._clock()
                finished = message.total is not None and message.done >= message.total
                if self._last and now - self._last < LINE_SECONDS and not finished:
                    return
                self._last = now
                self._say(stage, describe(message))
            case Log():
                self._say(stage, f"warning: {message.text}" if message.level == "warning" else message.text)
            case Metrics():
                self._say(stage, describe(message))

    def finished(self, stage: Stage, ref: StepRef) -> None:
        """Say what came out, and how long it took."""
        took = "done before" if ref.reused else f"done in {duration(self._clock() - self._began)}"
        self._say(stage, f"{took}: {brief(ref)}" if not ref.unchanged else brief(ref))


@dataclass
class _Row:
    """A line of the live list."""

    state: str = "pending"
    began: float = 0.0
    took: float | None = None
    progress: Progress | None = None
    detail: str = ""
    spinner: Spinner = field(default_factory=lambda: Spinner("dots"))


class LiveList(Display):
    """The steps below each other, each with its state, how far it is, what it measures and how long is left."""

    def __init__(
        self,
        console: Console,
        *,
        stages: Sequence[Stage],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._rows: dict[Stage, _Row] = {stage: _Row() for stage in stages}
        self._live = Live(self, console=console, refresh_per_second=REFRESH_PER_SECOND)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop redrawing; a step that was under way did not get through."""
        for row in self._rows.values():
            if row.state == "running":
                row.state, row.took = "failed", self._clock() - row.began
            elif row.state == "pending":
                row.state = "skipped"
        self._live.stop()

    def planning(self, stage: Stage) -> None:
        """The step is under way from here on."""
        row = self._rows[stage]
        row.state, row.began, row.detail = "running", self._clock(), "looking at its inputs"

    def started(self, stage: Stage, process: object) -> None:
        """Starting an interpreter and its libraries takes seconds, and should not look like nothing."""
        self._rows[stage].detail = "starting"

    def message(self, stage: Stage, message: Message) -> None:
        """Progress goes into the step's line, scores and warnings above the list."""
        row = self._rows[stage]
        about = _about(stage)
        match message:
            case Progress():
                row.progress, row.detail = message, describe(message).removeprefix("training: ")
            case Metrics():
                self._live.console.print(Text(about + describe(message), style="cyan"))
            case Log(level="warning"):
                self._live.console.print(Text(f"{about}warning: {message.text}", style="yellow"))
            case Log():
                row.progress, row.detail = None, message.text

    def finished(self, stage: Stage, ref: StepRef) -> None:
        """Show what came out in place of progress."""
        row = self._rows[stage]
        row.state = "done"
        row.took = None if ref.reused else self._clock() - row.began
        row.progress, row.detail = None, brief(ref) + (" (done before)" if ref.reused and not ref.unchanged else "")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The list as it is now."""
        grid = Table.grid(padding=(0, 1), expand=True)
        names = min(max(len(str(stage)) for stage in self._rows), MOST_NAME_WIDTH)
        grid.add_column(min_width=1, max_width=1)
        grid.add_column(min_width=names, max_width=names, no_wrap=True, overflow="ellipsis")
        grid.add_column(min_width=TIME_WIDTH, max_width=TIME_WIDTH, justify="right", no_wrap=True)
        grid.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        for stage, row in self._rows.items():
            dim = "dim" if row.state in {"pending", "skipped"} else ""
            grid.add_row(_mark(row), Text(str(stage), style=dim), Text(self._time(row), style="dim"), _doing(row))
        yield grid

    def _time(self, row: _Row) -> str:
        if row.state == "running":
            return duration(self._clock() - row.began)
        return duration(row.took) if row.took is not None else ""


def _about(stage: Stage) -> str:
    """Which of several base models the step is about."""
    return f"{stage.candidate}: " if stage.candidate else ""


def _mark(row: _Row) -> Text | Spinner:
    match row.state:
        case "running":
            return row.spinner
        case "done":
            return Text("✓", style="green")
        case "failed":
            return Text("✗", style="red")
        case _:
            return Text("·", style="dim")


def _doing(row: _Row) -> Text | Table:
    progress = row.progress
    if row.state != "running" or progress is None or not progress.total:
        return Text(row.detail, style="" if row.state == "running" else "dim")
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(min_width=BAR_WIDTH, max_width=BAR_WIDTH)
    line.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
    line.add_row(
        ProgressBar(total=progress.total, completed=min(progress.done, progress.total), width=BAR_WIDTH),
        Text(row.detail),
    )
    return line


def open_display(console: Console, *, plain: bool, stages: Sequence[Stage]) -> Display:
    """The live list of the run's stages on a terminal, else lines."""
    if plain or not console.is_terminal or console.is_dumb_terminal:
        return Lines(console)
    return LiveList(console, stages=stages)
