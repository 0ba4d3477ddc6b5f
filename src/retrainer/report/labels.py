"""Labels that may be wrong, presented: the rows that a person should look at. Pure and light.

Not here: which they are (``work/evaluate/suspects.py``, ``gate/overturn.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from retrainer.artifacts.evaluation import LOOK_FIRST, SUSPECTS, Suspects
from retrainer.report.figures import counted_rows
from retrainer.report.presentation import Part, Row, part, percent

# Rows of each table; the files have all of them.
SHOWN = 20
LONGEST = 300

Rows = Sequence[Mapping[str, str]]


def counted(found: Suspects) -> str:
    """How many labels may be wrong: ``about 12 of 400 test labels and 60 of 1,600 train labels seem wrong``."""
    if not found.telling:
        return (
            f"which labels are wrong cannot be told: models that have not seen them agree with only "
            f"{percent(round(found.agreement, 3))} of them"
        )
    each = (f"{found.wrong.get(split, 0):,} of {count:,} {split} labels" for split, count in found.rows.items())
    return f"about {' and '.join(each)} seem wrong"


def suspects_part(found: Suspects | None, rows: Rows, *, why_not: str | None = None) -> Part:
    """The test labels that are most likely to be wrong.

    :param rows: of ``suspects.csv``.
    :param why_not: why nobody looked, where that is known.
    """
    if found is None:
        return part("suspects", "Labels that may be wrong", *([f"Nobody looked: {why_not}."] if why_not else []))
    listed = sum(found.suspects.values())
    return part(
        "suspects",
        "Labels that may be wrong",
        f"{_sentence(found)} {SUSPECTS} lists the {listed:,} rows for which another label is likelier, the most "
        "suspicious first. Nothing was removed.",
        f"Whoever looks at them writes the right label into the column 'label' of {SUSPECTS} or {LOOK_FIRST} and gives "
        "it to retrainer relabel.",
        caption="Of the test labels the most suspicious",
        head=("text", "label", "more likely", "probability of its label"),
        rows=((_text(row), row["given"], row["suggested"], row["score"]) for row in rows[:SHOWN]),
    )


def _sentence(found: Suspects) -> str:
    said = counted(found)
    how = f", by models that have not seen them and agree with {percent(round(found.agreement, 3))} of all labels"
    return f"{said[0].upper()}{said[1:]}{how if found.telling else ''}."


def look_first_part(rows: Rows) -> Part:
    """The rows whose label matters for the comparison with the champion, and may be wrong.

    :param rows: of ``look_first.csv``.
    """

    def row(one: Mapping[str, str]) -> Row:
        return _text(one), one["given"], one["challenger"], one["champion"], one["expected"]

    if not rows:
        return part("look-first", "Rows to look at first")
    return part(
        "look-first",
        "Rows to look at first",
        f"Only where challenger and champion differ can a label change the comparison. Of {counted_rows(len(rows))} in "
        f"{LOOK_FIRST} these are the ones whose label, if it is wrong, moves it most, times how likely that is.",
        caption="Where the models differ, the labels that matter most",
        head=("text", "label", "challenger", "champion", "expected to move by"),
        rows=map(row, rows[:SHOWN]),
    )


def _text(row: Mapping[str, str]) -> str:
    text = " / ".join(row[name] for name in ("text", "text_pair") if row.get(name))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
