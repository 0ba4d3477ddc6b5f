"""The page of a model on a channel: who was champion when, what challenged it, who moved it and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from functools import partial
from typing import Any

from retrainer.chain.model_store import model_of
from retrainer.console.health import Health, Sign, of_own_channel, serving
from retrainer.console.host import Runs, Shown
from retrainer.console.overview import (
    Point,
    check_champion,
    checked_key,
    metric_of,
    points_of,
    published_by,
    refused_for,
)
from retrainer.console.stores import Problem, Stores
from retrainer.errors import NotFoundError
from retrainer.records import Record
from retrainer.store import Manifest, Move
from retrainer.store.move import STAYS
from retrainer.store.summary import ChannelSummary, Figure, Summary

# Moves that the page reads; older ones are a link away.
MOST_MOVES = 100


class Stretch(Record):
    """A time in which a version was live.

    :ivar until: ``None`` of the one that is.
    :ivar move: number of the move that began it.
    """

    version: str
    since: str
    until: str | None
    move: int
    by: str


class Challenger(Record):
    """A decision, on the timeline.

    :ivar difference: to the champion of its time.
    :ivar live_as: the version that it became.
    """

    decision: str
    at: str
    verdict: str
    reasons: tuple[str, ...]
    texts: tuple[str, ...]
    metric: str | None
    difference: Figure | None
    threshold: float | None
    metrics: dict[str, Figure]
    actor: str
    run: str
    champion: str | None
    live_as: str | None


class Origin(Record):
    """What a version was made of.

    :ivar artifacts: step to the digest of its artifact.
    """

    version: str
    task: str
    base_model: str
    base_revision: str
    artifacts: dict[str, str]
    libraries: dict[str, str]
    git_commit: str | None
    labels: tuple[str, ...]
    max_length: int
    size: int
    precisions: tuple[str, ...]
    metrics: dict[str, float]


class LiveOn(Record):
    """What was live when a day ended, and what it began with.

    :ivar move: that made it; ``None`` before the first.
    """

    day: date
    move: Move | None
    moves_that_day: tuple[Move, ...]


class ModelPage(Record):
    """The page.

    :ivar channels: of the model, this one included.
    :ivar moves: the newest first; ``more`` how many older ones there are.
    :ivar anchor: what challengers must not fall behind.
    :ivar problems: what could not be read, in words.
    """

    model: str
    channel: str
    channels: tuple[str, ...]
    dag_id: str
    store: str
    now: str
    health: Health
    champion: str | None = None
    anchor: str | None = None
    signed_by: str | None = None
    metric: str | None = None
    metrics: tuple[str, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    challengers: tuple[Challenger, ...] = ()
    points: tuple[Point, ...] = ()
    moves: tuple[Move, ...] = ()
    more: int = 0
    origin: Origin | None = None
    live_on: LiveOn | None = None
    summary_written_at: str | None = None
    loading_code: str = ""
    problems: tuple[str, ...] = ()


def model_page(
    one: Shown,
    channel: str,
    runs: Runs | None,
    stores: Stores,
    now: datetime,
    *,
    metric: str | None = None,
    on: date | None = None,
    loading_code: str = "",
) -> ModelPage:
    """Read a channel as it is, with its log checked move by move.

    :param metric: to show, where it is not the one that the model is compared by.
    :param on: the day that somebody asks about.
    :raises NotFoundError: the model has no such channel.
    """
    store, key = one.store, (one.store, one.name)
    log_key = ("log", *key, channel)
    questions: dict[Any, Callable[[], Any]] = {
        ("summary", *key): partial(stores.summary, store, one.name),
        log_key: partial(_read_log, one, channel),
        checked_key(one, channel): partial(check_champion, one, channel),
        ("origin", *key, channel): partial(_read_origin, one, channel),
    }
    if on is not None:
        questions["on", *key, channel, on] = partial(_read_day, one, channel, on)
    answers = stores.ask_several([(store, questions)])
    checked = answers[checked_key(one, channel)]
    problems = tuple(dict.fromkeys(found.text for found in answers.values() if isinstance(found, Problem)))
    found = answers["summary", *key]
    summary = found if isinstance(found, Summary) else Summary(model=one.name, written_at=now.isoformat())
    of_log = answers[log_key]
    moves: tuple[Move, ...] = of_log if isinstance(of_log, tuple) else ()
    names = tuple(dict.fromkeys([one.pipeline.publish.channel, *sorted(summary.channels)]))
    if channel not in names and not moves:
        raise NotFoundError(f"'{one.name}' has no channel '{channel}'", hint=f"there are: {', '.join(names)}")
    short = summary.of(channel)
    newest = moves[0] if moves else None
    shown_metric = metric if metric in _metrics_in(short) else metric_of(one, short)
    origin, day = answers["origin", *key, channel], answers.get(("on", *key, channel, on))
    return ModelPage(
        model=one.name,
        channel=channel,
        channels=names,
        dag_id=one.dag_id,
        store=store,
        now=now.isoformat(timespec="seconds"),
        health=_health(one, channel, short, checked, runs, now),
        champion=newest.to_version if newest else short.champion,
        anchor=newest.anchor if newest else None,
        signed_by=newest.signature.key_id if newest and newest.signature else None,
        metric=shown_metric,
        metrics=_metrics_in(short),
        stretches=_stretches(moves),
        challengers=_challengers(short),
        points=points_of(short, shown_metric) if shown_metric else (),
        moves=moves,
        more=moves[-1].sequence - 1 if moves else 0,
        origin=origin if isinstance(origin, Origin) else None,
        live_on=day if isinstance(day, LiveOn) else None,
        summary_written_at=summary.written_at if isinstance(found, Summary) else None,
        loading_code=loading_code,
        problems=problems,
    )


def _health(
    one: Shown, name: str, channel: ChannelSummary, checked: Move | Problem | None, runs: Runs | None, now: datetime
) -> Health:
    wrong = checked.text if isinstance(checked, Problem) else None
    signs: list[Sign] = [serving(channel, wrong, was_checked=True)]
    if name == one.pipeline.publish.channel:
        signs += of_own_channel(one.pipeline, channel, runs, now)
    return Health.of(signs)


def _read_log(one: Shown, channel: str) -> tuple[Move, ...]:
    return tuple(model_of(one.pipeline).history(channel, limit=MOST_MOVES))


def _read_origin(one: Shown, channel: str) -> Origin | None:
    champion = model_of(one.pipeline).champion(channel)
    return origin_of(champion) if champion is not None else None


def origin_of(manifest: Manifest) -> Origin:
    """What a version was made of, by its manifest."""
    same = {name: getattr(manifest, name) for name in Origin.model_fields.keys() & Manifest.model_fields.keys()}
    return Origin(
        **{**same, "version": manifest.version, "size": manifest.size, "precisions": tuple(manifest.precisions)}
    )


def _read_day(one: Shown, channel: str, day: date) -> LiveOn:
    """Who was live at the end of a day, in UTC. The log is read as far back as that."""
    model = model_of(one.pipeline)
    begin, end = datetime.combine(day, time.min, UTC), datetime.combine(day, time.max, UTC)
    found = model.move_at(channel, end)
    that_day: list[Move] = []
    if found is not None and datetime.fromisoformat(found.at) >= begin:
        newest = model.history(channel, limit=None)
        that_day = [move for move in newest if begin <= datetime.fromisoformat(move.at) <= end]
    return LiveOn(day=day, move=found, moves_that_day=tuple(that_day))


def _stretches(moves: tuple[Move, ...]) -> tuple[Stretch, ...]:
    """Who was live when, the oldest first."""
    stretches: list[Stretch] = []
    until: str | None = None
    for move in (move for move in moves if move.action not in STAYS):
        stretches.append(
            Stretch(version=move.to_version, since=move.at, until=until, move=move.sequence, by=move.actor)
        )
        until = move.at
    return tuple(reversed(stretches))


def _challengers(channel: ChannelSummary) -> tuple[Challenger, ...]:
    """The decisions that the summary holds, the newest first."""
    made = []
    for one in channel.decisions:
        judged, live = one.judged, published_by(channel, one.decision)
        made.append(
            Challenger(
                decision=one.decision,
                at=one.at,
                verdict=one.verdict,
                reasons=one.reasons,
                texts=refused_for(one) if one.verdict == "refuse" else (),
                metric=judged.metric if judged else None,
                difference=judged.difference if judged else None,
                threshold=judged.threshold if judged else None,
                metrics=judged.metrics if judged else {},
                actor=one.actor,
                run=one.run,
                champion=one.champion,
                live_as=live.to_version if live else None,
            )
        )
    return tuple(made)


def _metrics_in(channel: ChannelSummary) -> tuple[str, ...]:
    names = {name: None for move in channel.moves for name in move.metrics}
    names |= {name: None for one in channel.decisions if one.judged is not None for name in one.judged.metrics}
    return tuple(names)
