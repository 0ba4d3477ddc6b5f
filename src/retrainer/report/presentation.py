"""What a page of any kind is made of: parts with sentences and tables, and their forms as text and as Markdown.

A part is built once; terminal, task log, Airflow, model card and HTML page differ only in how they render it.
Not here: what the parts say (``decision.py``, ``selection_table.py``), the HTML (``html/``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from retrainer.artifacts.measures import Interval, Score
from retrainer.report.figures import Facts, aligned, number

Mark = Literal["", "plain", "good", "warn", "bad"]
# A page folds a table with more rows; its reader opens it.
MOST_OPEN_ROWS = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    :param below: what belongs to the text, such as its interval; in a second line where there is room.
    :param mark: of a verdict, which is a coloured badge where there is colour.
    """

    text: str
    below: str = ""
    mark: Mark = ""

    def __str__(self) -> str:
        return f"{self.text} {self.below}".rstrip()


@dataclass(frozen=True, slots=True)
class Table:
    """Cells below a head, every row as long as it. The first column names the rows.

    :param title: what the table shows, for people who jump to it.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def figures(self) -> tuple[bool, ...]:
        """Whether a column holds figures, which are aligned to the right."""
        return tuple(all(_is_figure(row[at].text) for row in self.rows) for at in range(len(self.head)))

    @property
    def folded(self) -> str:
        """What a page writes on the lid of a table that is too long to be open; empty where it is not."""
        return f"{self.title}: {len(self.rows)} rows" if len(self.rows) > MOST_OPEN_ROWS else ""

    def facts(self) -> Facts:
        """Name of a row, and its other cells in columns; the head first."""
        table = [self.head, *(tuple(map(str, row)) for row in self.rows)]
        widths = [max(len(row[column]) for row in table) for column in range(1, len(self.head))]
        return tuple(
            (row[0], "  ".join(f"{cell:<{width}}" for cell, width in zip(row[1:], widths, strict=True)).rstrip())
            for row in table
        )

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [self.head, ("---",) * len(self.head), *(tuple(map(str, row)) for row in self.rows)]
        table = "\n".join("| " + " | ".join(escaped(cell) for cell in line) + " |" for line in lines)
        # Markdown's renderers let this tag of HTML through.
        folded = f"<details><summary>{escaped(self.folded)}</summary>\n\n{table}\n\n</details>"
        return folded if self.folded else table


@dataclass(frozen=True, slots=True)
class Part:
    """A heading with what is below it.

    :param name: of the part among those of a page, to link to it and to find its charts.
    """

    name: str
    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()

    @property
    def said(self) -> bool:
        """Whether there is anything below the heading."""
        return bool(self.sentences or self.tables)

    def facts(self) -> Facts:
        """Name and value: the sentences, then each row of the tables."""
        sentences = (("in words", "\n".join(self.sentences)),) if self.sentences else ()
        return (*sentences, *(fact for table in self.tables for fact in table.facts()))

    def lines(self) -> list[str]:
        """Sentences, then the tables in columns."""
        return [*self.sentences, *(line[2:] for table in self.tables for line in aligned(table.facts()).splitlines())]

    def markdown(self) -> str:
        """Sentences as a list, then the tables; without the heading, of which the page knows the level."""
        sentences = "\n".join(f"- {escaped(sentence)}" for sentence in self.sentences)
        return "\n\n".join(block for block in (sentences, *(table.markdown() for table in self.tables)) if block)


Row = tuple[str | Cell, ...]


def part(name: str, title: str, *sentences: str, caption: str = "", head: Row = (), rows: Iterable[Row] = ()) -> Part:
    """A part with at most one table, which is left out where it would have no rows.

    :param caption: of the table; the title unless given.
    """
    return Part(name, title, sentences, table_of(caption or title, head, rows))


def table_of(title: str, head: Row, rows: Iterable[Row]) -> tuple[Table, ...]:
    """A table, or nothing where it would have no rows."""
    made = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    return (Table(title, tuple(map(str, head)), made),) if made else ()


def escaped(text: str) -> str:
    """Text from the data or an error, so that it stays within its line and cell of Markdown."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# --- figures with their bounds ---------------------------------------------------------------------------


def signed(value: float | None) -> str:
    """A difference: ``+0.0120``; ``-`` for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:+.4f}"


def bounds_of(score: Score) -> str:
    """Both bounds of a score: ``[0.9100, 0.9300]``; nothing where it has none."""
    return "" if score.low is None or score.high is None else f"[{number(score.low)}, {number(score.high)}]"


def scored(score: Score | None) -> Cell:
    """A score with its bounds."""
    return Cell("-") if score is None or score.value is None else Cell(number(score.value), bounds_of(score))


def describe_interval(interval: Interval) -> str:
    """``accuracy +0.0120, 90 % interval [+0.0010, +0.0230] (Tango score interval, 2,000 rows, ...)``."""
    return (
        f"{interval.metric} {signed(interval.estimate)}, {percent(interval.confidence)} interval {interval.range} "
        f"({interval.method}, {interval.n:,} rows, {interval.disagreements:,} predicted differently)"
    )


def percent(share: float) -> str:
    """``90 %``; as many digits as it takes to tell it from 100 %."""
    short = f"{100 * share:.4g}"
    return f"{100 * share:.7g} %" if short == "100" else f"{short} %"


def probability(value: float | None) -> str:
    """A p value."""
    if value is None:
        return "-"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _is_figure(text: str) -> bool:
    return text[:1] in "-+<≤≥×" or text[:1].isdigit()
