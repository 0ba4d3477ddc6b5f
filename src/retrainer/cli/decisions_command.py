"""``retrainer decisions``: what the ledger of a model says of each decision, refused ones too.

Not here: taking one again (``verify_command``), the moves that came of them (``history_command``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrainer.cli import display
from retrainer.cli.store_options import JsonOption, ModelArgument, StoreArgument, open_model

if TYPE_CHECKING:
    from retrainer.store.entry import Entry

DIGITS = 12


def decisions(
    store: StoreArgument,
    model: ModelArgument,
    channel: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only those of one channel; by default of all.", show_default=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the newest.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the decisions of a model, newest first: what was asked, what it spent, what the gate said, and what people
    said to that. The chain of the ledger is verified.
    """
    entries = open_model(store, model, unpublished=True).ledger.entries()
    lines = [line for line in _lines(entries) if channel in {None, line["channel"]}][:limit]
    if as_json:
        display.print_json(lines)
        return
    looks = sum(entry.event.kind == "look" for entry in entries)
    display.print_table(
        ("entry", "at", "channel", "challenger", "champion", "rows", "spent", "verdict", "reasons", "answers", "run"),
        [
            [
                str(line["entry"]),
                display.utc(line["at"]),
                line["channel"],
                line["challenger"][:DIGITS],
                line["champion"] or "-",
                f"{line['rows']:,}",
                "-" if line["level"] is None else f"{line['level']:.2g}",
                line["verdict"] or "none yet",
                ", ".join(line["reasons"]) or "-",
                "\n".join(map(_answer, line["answers"])) or "-",
                line["run"],
            ]
            for line in lines
        ],
    )
    typer.echo(f"{len(lines):,} decisions; test rows of {model} were looked at {looks:,} times")


def _answer(said: dict[str, str]) -> str:
    """``reject by ada: too eager``."""
    return f"{said['answer']} by {said['by']}" + (f": {said['reason']}" if said["reason"] else "")


def _lines(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """One for each verdict, and for what was spent without one yet; the newest first."""
    from retrainer.store.entry import Answer, Look, Spent, Verdict

    events = {entry.sequence: entry.event for entry in entries}
    judged = {event.spent for event in events.values() if isinstance(event, Verdict)}
    answers: dict[str, list[dict[str, str]]] = {}
    for entry in entries:
        if isinstance(said := entry.event, Answer):
            answer = {"answer": said.answer, "by": entry.actor, "reason": said.reason, "at": entry.at}
            answers.setdefault(said.decision, []).append(answer)
    lines = []
    for entry in reversed(entries):
        verdict = entry.event if isinstance(entry.event, Verdict) else None
        spent = events.get(verdict.spent) if verdict else entry.event
        if not isinstance(spent, Spent) or (verdict is None and entry.sequence in judged):
            continue
        look = events.get(spent.look)
        known = look if isinstance(look, Look) else None
        lines.append(
            {
                "entry": entry.sequence,
                "at": entry.at,
                "by": entry.actor,
                "run": entry.run,
                "channel": spent.channel,
                "challenger": known.challenger if known else "",
                "champion": spent.champion,
                "anchor": spent.anchor,
                "metric": spent.metric,
                "rows": known.row_count if known else 0,
                "level": spent.level,
                "verdict": verdict.verdict if verdict else None,
                "reasons": list(verdict.reasons) if verdict else [],
                "decision": verdict.decision if verdict else None,
                "answers": answers.get(verdict.decision, []) if verdict else [],
            }
        )
    return lines
