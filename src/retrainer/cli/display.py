"""How the command line prints: errors, tables, key and value, times, JSON.

For a terminal with colour and lines; otherwise plain text of a stable form, tables with a tab between columns.
``NO_COLOR`` and ``TERM=dumb`` are honoured by rich.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from retrainer.errors import RetrainerError

if TYPE_CHECKING:
    from rich.console import Console

    from retrainer.doctor.findings import Finding

# What narrow output would break: digests, URLs and sentences stay on one line.
PLAIN_WIDTH = 10_000
# Control characters of ASCII and Latin-1 but tab and line feed; an escape sequence begins with one of them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def stdout() -> Console:
    """The console for results."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console for progress and complaints."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def show_error(error: RetrainerError) -> None:
    """``error: where: message`` and a line with the hint, to the error stream."""
    from rich.text import Text

    console = stderr()
    text = f"{error.where}: {error.message}" if error.where else error.message
    for number, line in enumerate(text.splitlines()):
        console.print(
            Text("error: " if number == 0 else "       ", style="bold red") + Text(printable(line)), soft_wrap=True
        )
    if error.hint:
        console.print(Text("hint:  ", style="bold") + Text(printable(error.hint)), soft_wrap=True)


def print_json(value: Any) -> None:
    """Indented JSON, as it is: no colour, no wrapping."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; without a terminal, a line of column names and a line a row, separated by tabs."""
    console = stdout()
    if not console.is_terminal:
        for row in (columns, *rows):
            sys.stdout.write("\t".join(_one_line(cell) for cell in row) + "\n")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text without what would steer a terminal: reasons and names come from whoever could write to the store."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_facts(facts: Sequence[tuple[str, str]], *, title: str) -> None:
    """A heading, and names and values below it; a value may have several lines."""
    console = stdout()
    facts = [(name, printable(value)) for name, value in facts]
    if not console.is_terminal:
        from retrainer.report.figures import aligned

        sys.stdout.write(f"{title}\n{aligned(tuple(facts))}\n")
        return
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console.print(Text(title, style="bold cyan"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(name), Text(value))
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def print_lines(lines: Iterable[str], *, title: str) -> None:
    """A heading and lines below it."""
    from rich.text import Text

    console = stdout()
    console.print(Text(title, style="bold cyan"))
    for line in lines:
        console.print(Text(printable(f"  {line}")), soft_wrap=True)


def print_finding(word: str, finding: Finding, *, width: int = 15) -> None:
    """A line for what a check found, and further ones for the rest of its text and how to mend it.

    :param word: what its state is called.
    :param width: characters for what was looked at.
    """
    from rich.text import Text

    style = {"ok": "green", "broken": "bold red", "warning": "yellow"}[finding.state]
    lines = [*finding.text.splitlines(), *([f"hint: {finding.hint}"] if finding.hint else [])]
    console = stdout()
    for number, line in enumerate(lines):
        head = f"  {word:<8} {printable(finding.what):<{width}} " if number == 0 else " " * (12 + width)
        console.print(Text(head, style=style if number == 0 else "") + Text(printable(line)), soft_wrap=True)


def utc(at: str) -> str:
    """A time of the store as people read it, to the second, in UTC."""
    return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
