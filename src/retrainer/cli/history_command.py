"""``retrainer history``: the moves of a channel, and its champion at a moment.

Not here: how a channel moves (``move_commands``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from retrainer.cli import display
from retrainer.cli.store_options import (
    DEFAULT_CHANNEL,
    ChannelOption,
    JsonOption,
    ModelArgument,
    PublicKeysOption,
    StoreArgument,
    no_such_channel,
    open_model,
)

if TYPE_CHECKING:
    from retrainer.store import Move


def history(
    store: StoreArgument,
    model: ModelArgument,
    channel: ChannelOption = DEFAULT_CHANNEL,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only the champion of that moment and the move that made it: 2026-03-31, 2026-03-31T14:05 or "
            "2026-03-31T16:05+02:00. In UTC unless it says otherwise; a date is its first moment.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the newest moves.", show_default=False)
    ] = None,
    public_key: PublicKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """List who moved a channel, when, from what to what and why; newest first. The chain is verified."""
    time = None if at is None else moment(at, option="--at")
    if time and limit:
        raise typer.BadParameter("with --at there is one move to tell", param_hint="--limit")
    found = open_model(store, model, public_keys=public_key)
    if found.newest_move(channel) is None:
        raise no_such_channel(found, channel)
    if time:
        _print_moment(model, channel, time, found.move_at(channel, time), as_json)
        return
    entries = found.history(channel, limit=limit)
    if as_json:
        display.print_json([entry.model_dump(mode="json") for entry in entries])
        return
    display.print_table(
        ("move", "at", "action", "from", "to", "anchor", "by", "cause", "reason"),
        [
            [
                str(entry.sequence),
                display.utc(entry.at),
                entry.action,
                entry.from_version or "-",
                entry.to_version,
                entry.anchor,
                entry.actor,
                entry.cause,
                entry.reason,
            ]
            for entry in entries
        ],
    )


def moment(text: str, *, option: str) -> datetime:
    """The time that an option names, with its zone.

    :raises typer.BadParameter: it is none.
    """
    try:
        time = datetime.fromisoformat(text.strip())
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"'{text}' is not a time: give 2026-03-31, 2026-03-31T14:05 or 2026-03-31T16:05+02:00", param_hint=option
        ) from None


def _print_moment(model: str, channel: str, time: datetime, move: Move | None, as_json: bool) -> None:
    if as_json:
        display.print_json(
            {
                "model": model,
                "channel": channel,
                "at": time.isoformat(),
                "version": move.to_version if move else None,
                "move": move.model_dump(mode="json") if move else None,
            }
        )
        return
    at = display.utc(time.isoformat())
    if move is None:
        typer.echo(f"{channel} of {model} had no champion at {at}")
        return
    facts = [
        ("version", move.to_version),
        ("since", f"{display.utc(move.at)}, move {move.sequence}"),
        ("by", move.actor),
        ("action", move.action),
        ("before", move.from_version or "nothing"),
        ("anchor", move.anchor),
        ("cause", move.cause),
        ("reason", move.reason or "-"),
        ("decision", move.decision or "-"),
    ]
    display.print_facts(facts, title=f"{channel} of {model} at {at}")
