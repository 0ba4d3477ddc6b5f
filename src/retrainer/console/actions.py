"""Moving a channel from the page of its model: what can be moved to, and what a form has to say.

The move itself is a run of the host's own DAG, started in the visitor's name (``host.Host.start``). Not here: moving,
which that run does, nor its page (``run.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from pydantic import Field

from retrainer.console.host import Mover
from retrainer.errors import NotAllowed, UserError
from retrainer.records import Record
from retrainer.store import Cause, Move
from retrainer.store.move import STAYS
from retrainer.store.names import is_name, is_version
from retrainer.store.summary import Summary

Action = Literal["rollback", "promote"]
MOST_CHARACTERS = 1000
"""Of a reason."""
# Versions that a list offers; others can be given by the command line, or in Airflow's own form.
MOST_CHOICES = 40


class Choice(Record):
    """A version to move to.

    :ivar since: when it was first live, of those that are known.
    :ivar channel: that serves it now; ``None`` where none other does.
    :ivar metrics: that were measured when it was published.
    """

    version: str
    since: str
    channel: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class Moves(Record):
    """What the visitor may do with a channel.

    :ivar back: champions before the present one, the last one first.
    :ivar forward: versions that this channel does not serve: what other channels do first.
    :ivar problem: why nothing can be moved, in words.
    :ivar given: what was filled in, where that was not taken, and ``wrong`` why.
    """

    dag_id: str
    model: str
    channel: str
    champion: str | None
    back: tuple[Choice, ...] = ()
    forward: tuple[Choice, ...] = ()
    problem: str | None = None
    given: dict[str, str] = Field(default_factory=dict)
    wrong: str | None = None

    @property
    def causes(self) -> tuple[tuple[str, str], ...]:
        """Those that a person may give, each with its meaning."""
        return tuple((cause.value, cause.meaning) for cause in Cause.of_people() if cause is not Cause.UNSPECIFIED)


def moves_of(
    model: str,
    channel: str,
    mover: Mover,
    moves: Iterable[Move],
    summary: Summary,
    given: Mapping[str, str] | None = None,
    wrong: str | None = None,
) -> Moves:
    """What can be chosen.

    :param moves: of the channel, the newest first.
    :param summary: of the model, for the other channels and for metrics.
    """
    problem = mover.problem
    if problem is None and model not in mover.models:
        problem = f"the DAG {mover.dag_id} does not know the pipeline {model}: it was added after Airflow read its file"
    metrics = {
        move.to_version: {name: figure.value for name, figure in move.metrics.items()}
        for found in summary.channels.values()
        for move in found.moves
    }
    live = [move for move in moves if move.action not in STAYS]
    champion = live[0].to_version if live else None
    back: dict[str, Choice] = {}
    for move in live[1:]:
        back.setdefault(move.to_version, _choice(move.to_version, move.at, metrics))
    forward: dict[str, Choice] = {}
    others = sorted((name, found) for name, found in summary.channels.items() if name != channel)
    for name, found in others:
        if found.champion and found.moves:
            forward.setdefault(found.champion, _choice(found.champion, found.moves[0].at, metrics, name))
    for _, found in others:
        for earlier in found.moves:
            forward.setdefault(earlier.to_version, _choice(earlier.to_version, earlier.at, metrics))
    for one in (back, forward):
        one.pop(champion or "", None)
    return Moves(
        dag_id=mover.dag_id,
        model=model,
        channel=channel,
        champion=champion,
        back=tuple(back.values())[:MOST_CHOICES],
        # What another channel serves is said of it, also where this one has served it before.
        forward=tuple({**forward, **back, **forward}.values())[:MOST_CHOICES],
        problem=problem,
        given=dict(given or {}),
        wrong=wrong,
    )


def _choice(version: str, since: str, metrics: Mapping[str, dict[str, float]], channel: str | None = None) -> Choice:
    return Choice(version=version, since=since, channel=channel, metrics=metrics.get(version, {}))


def asked_move(given: Mapping[str, str], model: str, channel: str, mover: Mover) -> dict[str, Any]:
    """The ``conf`` of the run that a form asks for.

    :raises UserError: something is missing or makes no sense.
    """
    if mover.problem is not None:
        raise UserError(f"nothing was moved: {mover.problem}")
    if model not in mover.models:
        raise UserError(f"the DAG {mover.dag_id} does not know the pipeline {model} yet")
    action, version = given.get("action", ""), given.get("version", "")
    cause, reason = given.get("cause", ""), given.get("reason", "").strip()
    if action not in get_args(Action):
        raise UserError(f"'action' is one of {', '.join(get_args(Action))}")
    if not is_version(version):
        raise UserError("choose the version to go to")
    if cause not in [one.value for one in Cause.of_people()]:
        raise UserError("choose a cause")
    if not reason:
        raise UserError("say why: the reason stays in the history, with your name")
    if len(reason) > MOST_CHARACTERS:
        raise UserError(f"the reason has more than {MOST_CHARACTERS:,} characters")
    if not is_name(channel):
        raise UserError(f"there is no channel '{channel}'")
    return {
        "pipeline": model,
        "action": action,
        "channel": channel,
        "version": version,
        "cause": cause,
        "reason": reason,
    }


def refuse_unless(may: bool, dag_id: str) -> None:
    """Insist that a visitor may move channels.

    :raises NotAllowed: they may not.
    """
    if not may:
        raise NotAllowed("you may not move channels", hint=f"whoever may start the DAG {dag_id} may")
