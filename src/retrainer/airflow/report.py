"""A decision, or a selection among base models, for people: lines for the task log, Markdown for the page where
somebody approves it.
"""

from __future__ import annotations

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepRef
from retrainer.gate.records import Receipt, Score, Selection
from retrainer.report.explain import describe_interval
from retrainer.report.selection_table import agreement_table, candidates_table, differences
from retrainer.sources.base_models import short_names

REPORT_KEY = "report"
"""XCom key of a task's result as Markdown."""


def read_receipt(decision: StepRef) -> Receipt | None:
    """The receipt of a decision; ``None`` where there was nothing to decide."""
    if not decision.digest:
        return None
    path = Artifacts(decision.root).fetch("decide", decision.digest) / "receipt.json"
    return Receipt.from_json(path.read_bytes(), where=str(path))


def decision_markdown(decision: StepRef, receipt: Receipt | None) -> str:
    """A decision as a short page."""
    if receipt is None:
        return decision.unchanged.line() if decision.unchanged else ""
    verdict = "The gate promotes the challenger." if receipt.promoted else "The gate refuses the challenger."
    parts = [f"**{receipt.model}**: {verdict}"]
    if receipt.reasons:
        parts.append("\n".join(f"- {reason.detail} (`{reason.code.value}`)" for reason in receipt.reasons))
    parts.append(_table(receipt))
    if receipt.comparison is not None:
        parts.append(f"Challenger minus champion: {describe_interval(receipt.comparison)}.")
    if receipt.notes:
        parts.append("\n".join(f"- {note}" for note in receipt.notes))
    if receipt.selection is not None:
        parts.append(selection_markdown(receipt.selection))
    return "\n\n".join(parts)


def selection_lines(selection: Selection) -> list[str]:
    """The candidates in columns, how they differ, and how often they say the same."""
    names = short_names([one.base for one in selection.candidates])
    rows = [*candidates_table(selection, names).lines(), *agreement_table(selection, names).lines()]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {cells}" for name, cells in rows]
    at = len(selection.candidates) + 1
    return [*lines[:at], *differences(selection, names), *lines[at:], selection.why]


def selection_markdown(selection: Selection) -> str:
    """The same as a short page."""
    names = short_names([one.base for one in selection.candidates])
    parts = [
        f"**{names[selection.chosen]}** is chosen by {selection.metric} on {selection.rows:,} validation rows.",
        candidates_table(selection, names).markdown(),
        "\n".join(f"- {line}" for line in differences(selection, names)),
        agreement_table(selection, names).markdown(),
        f"{selection.why}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _table(receipt: Receipt) -> str:
    names = list(receipt.metrics)
    metrics = list(dict.fromkeys(metric for scores in receipt.metrics.values() for metric in scores))
    head = f"| on {receipt.rows:,} test rows | {' | '.join(names)} |"
    rule = f"|---|{'---|' * len(names)}"
    rows = [
        f"| {metric} | {' | '.join(_shown(receipt.metrics[name].get(metric)) for name in names)} |"
        for metric in metrics
    ]
    return "\n".join([head, rule, *rows])


def _shown(score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    interval = "" if score.low is None or score.high is None else f" [{score.low:.4f}, {score.high:.4f}]"
    return f"{score.value:.4f}{interval}"
