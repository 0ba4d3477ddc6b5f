"""A selection among several base models as tables for people: terminal, task log, Markdown. Pure and light.

Not here: the rule by which one is chosen (``selection.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retrainer.gate.records import Candidate, Score, Selection
from retrainer.report.explain import describe_interval


@dataclass(frozen=True, slots=True)
class TextTable:
    """Cells as text, every row as long as the head. The first column names the rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def lines(self) -> list[tuple[str, str]]:
        """Name of a row, and its other cells in columns; the head first."""
        table = [self.head, *self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(1, len(self.head))]
        return [
            (row[0], "  ".join(f"{cell:<{width}}" for cell, width in zip(row[1:], widths, strict=True)).rstrip())
            for row in table
        ]

    def markdown(self) -> str:
        """The same as Markdown."""
        rule = ("---",) * len(self.head)
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.head, rule, *self.rows))


def candidates_table(selection: Selection, names: Mapping[str, str]) -> TextTable:
    """What each candidate scores and costs, and what became of it.

    :param names: base model to what it is called here.
    """
    head = ("base model", selection.metric, "size", "params", "p50", "rows/s", "memory", "")
    return TextTable(head, tuple(_row(one, selection, names) for one in selection.candidates))


def agreement_table(selection: Selection, names: Mapping[str, str]) -> TextTable:
    """Share of the rows on which each two candidates say the same."""
    bases = [one.base for one in selection.candidates]
    shares = selection.agreement
    return TextTable(
        ("same answers", *(names[base] for base in bases)),
        tuple((names[base], *(f"{shares[base][other]:.1%}" for other in bases)) for base in bases),
    )


def differences(selection: Selection, names: Mapping[str, str]) -> list[str]:
    """How much better the best is than each other one, a line each."""
    best = next(names[one.base] for one in selection.candidates if one.difference is None)
    return [
        f"{best} minus {names[one.base]}: {describe_interval(one.difference)}"
        for one in selection.candidates
        if one.difference is not None
    ]


def _row(one: Candidate, selection: Selection, names: Mapping[str, str]) -> tuple[str, ...]:
    return (
        names[one.base],
        _score(one.metrics[selection.metric]),
        f"{one.size_mb:,.1f} MB",
        "-" if one.parameters is None else f"{one.parameters / 1e6:,.1f} M",
        "-" if one.latency_ms.p50 is None else f"{one.latency_ms.p50:.2f} ms",
        f"{one.rows_per_second:,.1f}",
        "-" if one.peak_memory_mb is None else f"{one.peak_memory_mb:,.0f} MB",
        _verdict(one, selection),
    )


def _score(score: Score) -> str:
    if score.value is None:
        return "-"
    bounds = "" if score.low is None or score.high is None else f" [{score.low:.4f}, {score.high:.4f}]"
    return f"{score.value:.4f}{bounds}"


def _verdict(one: Candidate, selection: Selection) -> str:
    standing = "best" if one.difference is None else "worse" if one.distinguishable else "tie"
    return f"chosen, {standing}" if one.base == selection.chosen else standing
