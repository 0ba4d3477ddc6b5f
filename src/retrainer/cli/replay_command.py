"""``retrainer replay``: decide the history of a channel again from stored answers, by its own policies or another one.

Not here: how that goes (``audit/replay.py``), one receipt with all that ties it down (``verify_command``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrainer.cli import display
from retrainer.cli.decisions_command import DIGITS
from retrainer.cli.history_command import moment
from retrainer.cli.libraries import require
from retrainer.cli.store_options import (
    DEFAULT_CHANNEL,
    ChannelOption,
    JsonOption,
    ModelArgument,
    PublicKeysOption,
    StoreArgument,
    open_model,
)
from retrainer.cli.verify_command import DOES_NOT_HOLD, LIBRARIES

if TYPE_CHECKING:
    from retrainer.audit.history import History
    from retrainer.audit.replayed import Night, Replay, Stop


def replay(
    store: StoreArgument,
    model: ModelArgument,
    artifacts: Annotated[
        str,
        typer.Option(metavar="ROOT", help="Root of the artifacts that the runs wrote: their evaluations, receipts."),
    ],
    channel: ChannelOption = DEFAULT_CHANNEL,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What would have gone live by this one: a pipeline file, of which the gate counts, or a file with a "
            "gate alone. By default each decision is taken by its own.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only decisions from then on, as for 'history --at'. What was before is as it was recorded.",
            show_default=False,
        ),
    ] = None,
    public_key: PublicKeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide a history again, from the answers that were stored: no model is loaded.

    By their own policies, all receipts must come out byte for byte as the ledger of decisions has them. By another one,
    you see what would have gone live, and how much better or worse that answers the same rows. Where nobody asked the
    other policy's champion these rows, the replay says so and stops.

    Exit codes: 0 replayed, 1 it could not be, 2 wrong usage, 4 the same policy gives another receipt.
    """
    require("train", only=LIBRARIES)
    begin = None if since is None else moment(since, option="--since")
    if begin is not None and begin > datetime.now(UTC):
        raise typer.BadParameter(f"{begin.isoformat()} is yet to come", param_hint="--since")
    from retrainer.artifacts.repository import Artifacts
    from retrainer.audit import history as record
    from retrainer.audit.replay import replay as decide_again
    from retrainer.spec import load_gate

    found = record.read_history(open_model(store, model, public_keys=public_key, unpublished=True), channel)
    decisions = record.since(found, begin)
    root = Artifacts(artifacts)
    record.require_artifacts(decisions, root, ("evaluate",) if policy is not None else ("evaluate", "decide"))
    gate = load_gate(policy, writes=record.writes_of(decisions[0], root)) if policy is not None else None
    replayed = decide_again(found, decisions, root, gate)
    if as_json:
        display.print_json(_as_json(found, replayed, policy))
    else:
        _print(found, replayed, policy)
    if not replayed.holds:
        raise typer.Exit(DOES_NOT_HOLD)


def _print(history: History, replayed: Replay, policy: str | None) -> None:
    from rich.text import Text

    display.print_table(
        ("entry", "at", "challenger", "recorded", "replayed", "reasons", "receipt", "live recorded", "live replayed"),
        [
            [
                str(night.decision.said.sequence),
                display.utc(night.decision.said.at),
                night.decision.challenger[:DIGITS],
                night.decision.verdict.verdict,
                night.verdict,
                ", ".join(night.codes) or "-",
                {True: "equal", False: "differs", None: "-"}[night.equal],
                _live(history, night.live_recorded),
                _live(history, night.live_replayed),
            ]
            for night in replayed.nights
        ],
    )
    display.print_facts(_facts(history, replayed, policy), title=f"{history.channel} of {history.model.name}, replayed")
    console = display.stdout()
    for night in replayed.nights:
        for problem in night.problems:
            line = f"entry {night.decision.said.sequence}: {problem}"
            console.print(Text(display.printable(line), style="bold red"), soft_wrap=True)
    if not replayed.holds:
        console.print(Text("the history does not hold", style="bold red"), soft_wrap=True)
    elif policy is None:
        line = f"all {len(replayed.nights):,} receipts are identical: the history holds"
        console.print(Text(line, style="bold green"), soft_wrap=True)


def _facts(history: History, replayed: Replay, policy: str | None) -> list[tuple[str, str]]:
    nights = replayed.nights
    equal = sum(night.equal is True for night in nights)
    facts = [
        ("policy", policy or "of each decision its own"),
        ("decisions", f"{len(nights):,}, of which {equal:,} with the same receipt, byte for byte"),
    ]
    if history.undecided:
        facts.append(("without a verdict", f"{history.undecided:,}, left out: their runs ended before it"))
    if policy is None:
        return facts
    facts += _told_apart(history, replayed)
    facts += [("note", note) for note in _notes(nights)]
    if replayed.stop is not None:
        facts.append(("stopped", _stopped(history, replayed.stop)))
    return facts


def _told_apart(history: History, replayed: Replay) -> list[tuple[str, str]]:
    """What another policy would have changed, and what that is worth."""
    nights, metric = replayed.nights, replayed.metric
    facts = [("other verdicts", f"{sum(night.verdict != night.decision.verdict.verdict for night in nights):,}")]
    for only, which in (("replay", True), ("record", False)):
        names = [_live(history, night.decision.challenger) for night in nights if _only(night) is which]
        facts.append((f"promoted only by the {only}", f"{len(names):,}" + (f": {', '.join(names)}" if names else "")))
    apart = sum(night.live_recorded != night.live_replayed for night in nights)
    facts.append(("nights with another model live", f"{apart:,}"))
    on, interval = replayed.compared_on, replayed.comparison
    if on is not None and interval is not None:
        instead = f"{_live(history, on.live_replayed)} instead of {_live(history, on.live_recorded)}"
        of = f"of entry {on.decision.said.sequence}, {interval.confidence:.0%}: {instead}"
        facts.append((f"{metric}, replay less record", f"{interval.seen} {of}"))
    if apart and nights[-1].live_recorded == nights[-1].live_replayed:
        facts.append(("in the end", "the same model is live"))
    known = [night.difference for night in nights if night.difference is not None]
    if apart and replayed.mean_difference is not None:
        facts.append(
            (
                "mean over nights",
                f"{replayed.mean_difference:+.4f} on {len(known):,} of {len(nights):,}; without an interval, since "
                "nights share rows",
            )
        )
        facts.append(
            ("mind", "both histories chose their models by these rows, so each looks better on them than it is")
        )
    return facts


def _only(night: Night) -> bool | None:
    """Whether only the replay promoted, or only the record; ``None`` where they agree."""
    replayed, recorded = night.verdict == "promote", night.decision.verdict.verdict == "promote"
    return None if replayed == recorded else replayed


def _notes(nights: tuple[Night, ...]) -> list[str]:
    """Each note once, with where it is from."""
    where: dict[str, list[int]] = {}
    for night in nights:
        unmeasured = ("refused for nothing but what this history did not measure",) if night.unmeasured else ()
        for note in (*night.notes, *unmeasured):
            where.setdefault(note, []).append(night.decision.said.sequence)
    return [
        f"{note} (entry {entries[0]}" + (f" and {len(entries) - 1:,} more" if len(entries) > 1 else "") + ")"
        for note, entries in where.items()
    ]


def _stopped(history: History, stop: Stop) -> str:
    entry, rows = stop.decision.said, stop.decision.question.look.row_count
    return (
        f"at entry {entry.sequence}, {display.utc(entry.at)}: the {stop.role} would be {_live(history, stop.model)}, "
        f"and {stop.lacking.rows:,} of the {rows:,} rows lack its answers ({stop.lacking.why})"
    )


def _live(history: History, export: str | None) -> str:
    """A model for people: its version, or what of its export names it where it was never published."""
    if export is None:
        return "-"
    return history.version_of(export) or f"{export[:DIGITS]} (unpublished)"


def _as_json(history: History, replayed: Replay, policy: str | None) -> dict[str, Any]:
    stop, on = replayed.stop, replayed.compared_on

    def model(export: str | None) -> dict[str, str | None] | None:
        return None if export is None else {"version": history.version_of(export), "export": export}

    return {
        "model": history.model.name,
        "channel": history.channel,
        "policy": policy,
        "holds": replayed.holds,
        "undecided": history.undecided,
        "decisions": [
            {
                "entry": night.decision.said.sequence,
                "at": night.decision.said.at,
                "challenger": night.decision.challenger,
                "decision": night.decision.verdict.decision,
                "recorded": night.decision.verdict.verdict,
                "replayed": night.verdict,
                "recorded_reasons": list(night.decision.verdict.reasons),
                "reasons": [r.model_dump(mode="json") for r in night.receipt.reasons] if night.receipt else [],
                "level": night.receipt.spending.level if night.receipt and night.receipt.spending else None,
                "equal": night.equal,
                "unmeasured": night.unmeasured,
                "problems": list(night.problems),
                "notes": list(night.notes),
                "live_recorded": model(night.live_recorded),
                "live_replayed": model(night.live_replayed),
                "difference": night.difference,
            }
            for night in replayed.nights
        ],
        "metric": replayed.metric,
        "comparison": replayed.comparison.model_dump(mode="json") if replayed.comparison else None,
        "compared_on": on.decision.said.sequence if on else None,
        "mean_difference": replayed.mean_difference,
        "stop": None
        if stop is None
        else {
            "entry": stop.decision.said.sequence,
            "at": stop.decision.said.at,
            "role": stop.role,
            "model": model(stop.model),
            "rows": stop.decision.question.look.row_count,
            "lacking": stop.lacking.rows,
            "why": stop.lacking.why,
        },
    }
