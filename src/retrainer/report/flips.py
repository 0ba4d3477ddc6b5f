"""Rows on which an update changed who is right, as a part of a report. Pure and light.

A harmful flip is a row that the champion has right and the challenger has wrong (the negative flip of Xie et al. 2021,
"Regression bugs are in your model!"), a beneficial one the reverse. Not here: finding them (``work/flips.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from retrainer.records import FileRecord, Record
from retrainer.report.figures import counted_rows
from retrainer.report.presentation import Part, percent, table_of

# Of a text; the data has the rest of it.
MOST_CHARACTERS = 300


class Flip(Record):
    """A row that the champion has right and the challenger has wrong.

    :param text: ``None`` where texts are not shown; both of a pair, with a bar between them.
    :param label: the true one, and the champion's; ``predicted`` is the challenger's.
    :param probability: that the challenger gives to its own answer.
    """

    row_id: str
    text: str | None
    label: str
    predicted: str
    probability: float


class FlipCounts(Record):
    """Flips among some rows.

    :param group: what these rows have in common: ``label = sports``; empty for all.
    """

    group: str
    rows: int
    harmful: int
    beneficial: int


class Flips(FileRecord):
    """``flips.json`` of a decision: what changed between champion and challenger on the same test rows.

    For pages that show a decision without the rows it rests on. It holds texts where the report does.

    :param groups: those with harmful flips, the largest share of them first.
    :param surest: some of the harmful ones, the challenger's surest mistakes first.
    """

    file: ClassVar[str] = "flips.json"

    format_version: Literal[1] = 1
    counts: FlipCounts
    groups: tuple[FlipCounts, ...] = ()
    surest: tuple[Flip, ...] = ()


def without_texts(flips: Flips) -> Flips:
    """The same for people who may not see texts of rows."""
    hidden = tuple(one.model_copy(update={"text": None}) for one in flips.surest)
    return flips.model_copy(update={"surest": hidden})


def flips_part(flips: Flips | None) -> Part:
    """The section; empty where nothing was compared."""
    if flips is None:
        return Part("flipped", "Rows that flipped")
    counts = flips.counts
    net = counts.beneficial - counts.harmful
    sentence = (
        f"Of {counted_rows(counts.rows)} the champion has {counts.harmful:,} right that the challenger has wrong "
        f"({percent(counts.harmful / counts.rows)}), and the challenger {counts.beneficial:,} right that the champion "
        f"has wrong ({percent(counts.beneficial / counts.rows)}): {abs(net):,} "
        f"{'fewer' if net < 0 else 'more'} right in all."
    )
    surest: Iterable[tuple[str, ...]] = (
        (
            one.row_id,
            *(() if one.text is None else (cut(one.text),)),
            one.label,
            one.predicted,
            f"{one.probability:.3f}",
        )
        for one in flips.surest
    )
    has_texts = any(one.text is not None for one in flips.surest)
    head = ("row", *(("text",) if has_texts else ()), "true label, champion", "challenger", "its probability")
    groups = (
        (one.group, f"{one.rows:,}", f"{one.harmful:,}", f"{one.beneficial:,}", percent(one.harmful / one.rows))
        for one in flips.groups
    )
    return Part(
        "flipped",
        "Rows that flipped",
        (sentence,),
        (
            *table_of("Flips by group", ("rows with", "rows", "harmful", "beneficial", "harmful share"), groups),
            *table_of("The surest of the challenger's new mistakes", head, surest),
        ),
    )


def cut(text: str) -> str:
    """A text that fits a cell."""
    line = " ".join(text.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
