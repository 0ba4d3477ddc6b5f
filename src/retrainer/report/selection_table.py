"""A selection among several base models, presented: terminal, task log, Markdown and HTML render it. Pure and light.

Not here: the rule by which one is chosen (``gate/selection.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

from retrainer.artifacts.evaluation import cost_of
from retrainer.artifacts.selection import Candidate, Selection
from retrainer.report.figures import counted_rows
from retrainer.report.presentation import Cell, Part, Row, Table, describe_interval, scored, table_of
from retrainer.sources.base_models import short_names
from retrainer.spec.budgets import COSTS


def selection_part(selection: Selection) -> Part:
    """Which one was chosen and why, what each candidate scores and costs, and how often they say the same."""
    names = short_names([one.base for one in selection.candidates])
    chosen = names.get(selection.chosen, selection.chosen)
    tables = table_of(
        f"{len(selection.candidates)} candidates on {counted_rows(selection.rows)} of validation",
        ("base model", selection.metric, "params", *(cost.head for cost in COSTS.values()), ""),
        (_row(one, selection, names) for one in selection.candidates),
    )
    return Part(
        "selection",
        "Which base model became the challenger",
        (
            f"{chosen} is chosen by {selection.metric} on {counted_rows(selection.rows)} of validation.",
            f"{selection.why}.",
            *differences(selection, names),
        ),
        tables if len(selection.candidates) < 2 else (*tables, *_agreement(selection, names)),
    )


def differences(selection: Selection, names: Mapping[str, str]) -> list[str]:
    """How much better the best is than each other one, a line each.

    :param names: base model to what it is called here.
    """
    best = next((names[one.base] for one in selection.candidates if one.difference is None), "the best")
    return [
        f"{best} minus {names[one.base]}: {describe_interval(one.difference)}"
        for one in selection.candidates
        if one.difference is not None
    ]


def _row(one: Candidate, selection: Selection, names: Mapping[str, str]) -> Row:
    standing = "best" if one.difference is None else "worse" if one.distinguishable else "tie"
    chosen = one.base == selection.chosen
    return (
        names[one.base],
        scored(one.metrics.get(selection.metric)),
        "-" if one.parameters is None else f"{one.parameters / 1e6:,.1f} M",
        *(cost.amount(cost_of(one, name)) for name, cost in COSTS.items()),
        Cell(f"chosen, {standing}" if chosen else standing, mark="good" if chosen else "plain"),
    )


def _agreement(selection: Selection, names: Mapping[str, str]) -> tuple[Table, ...]:
    def share(one: str, other: str) -> str:
        known = selection.agreement.get(one, {}).get(other)
        return "-" if known is None else f"{known:.1%}"

    bases = [one.base for one in selection.candidates]
    return table_of(
        "Share of the rows on which two candidates say the same label",
        ("same answers", *(names[base] for base in bases)),
        ((names[base], *(share(base, other) for other in bases)) for base in bases),
    )
