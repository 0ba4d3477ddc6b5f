"""What a model that writes text wrote on test rows, beside the targets, as a part of a report. Pure and light.

Not here: which rows are shown (``work/examples.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrainer.report.figures import number
from retrainer.report.flips import cut
from retrainer.report.presentation import Part, Table, signed, table_of


@dataclass(frozen=True, slots=True)
class Example:
    """A test row.

    :param text: what was read, ``target`` what is right, ``written`` what the challenger wrote, ``champion`` what the
        champion did; all ``None`` where texts are not shown.
    :param score: of what the challenger wrote.
    :param difference: to the champion's; ``None`` without one.
    """

    row_id: str
    text: str | None
    target: str | None
    written: str | None
    champion: str | None
    score: float
    difference: float | None


@dataclass(frozen=True, slots=True)
class Examples:
    """Some rows.

    :param metric: of the scores.
    :param spread: from the worst to the best score of the challenger, evenly.
    :param lost: those that lost most against the champion, the largest loss first.
    """

    metric: str
    spread: tuple[Example, ...] = ()
    lost: tuple[Example, ...] = ()


def examples_part(examples: Examples | None) -> Part:
    """The section; empty for a task that does not write text."""
    title = "What it writes"
    if examples is None:
        return Part("examples", title)
    return Part(
        "examples",
        title,
        (
            "Text has no labels: so there is no confusion matrix, and no search for labels that may be wrong. These "
            "test rows show what was written beside what is right.",
        ),
        (
            *_table(f"From the lowest to the highest {examples.metric}, evenly", examples.metric, examples.spread),
            *_table(f"Those that lost most {examples.metric} against the champion", examples.metric, examples.lost),
        ),
    )


def _table(title: str, metric: str, rows: Sequence[Example]) -> tuple[Table, ...]:
    has_texts = any(one.text is not None for one in rows)
    compared = any(one.difference is not None for one in rows)
    texts = ("text", "target", "written", *(("champion wrote",) if compared else ())) if has_texts else ()
    head = ("row", *texts, metric, *(("difference",) if compared else ()))

    def row(one: Example) -> tuple[str, ...]:
        written = (one.text, one.target, one.written, *((one.champion,) if compared else ()))
        shown = tuple(cut(text or "") for text in written) if has_texts else ()
        return (one.row_id, *shown, number(one.score), *((signed(one.difference),) if compared else ()))

    return table_of(title, head, map(row, rows))
