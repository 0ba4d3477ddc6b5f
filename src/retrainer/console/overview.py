"""The first page: every model and channel in one row, the worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

from retrainer.chain.model_store import model_of
from retrainer.console.approvals import Waiting
from retrainer.console.health import LEVELS, Health, Sign, of_own_channel, scheduled, serving
from retrainer.console.host import Catalogue, Runs, Shown
from retrainer.console.stores import Problem, Questions, Stores
from retrainer.gate.receipt import ReasonCode
from retrainer.records import Record
from retrainer.storage import is_s3
from retrainer.store import Move
from retrainer.store.summary import ChannelSummary, DecisionSummary, Figure, MoveSummary, Summary

# Seconds for which a version that verified is taken to do so; in a bucket, where it takes five requests, for longer.
CHECKED_SECONDS = 300.0
CHECKED_IN_BUCKET_SECONDS = 3600.0
# So many are checked for each look at a page of models in buckets.
CHECKED_AT_ONCE = 2
# Points of a sparkline.
MOST_POINTS = 24


class Point(Record):
    """A version, or a challenger that was refused, by the metric of the model.

    :ivar live: whether it was published.
    """

    at: str
    name: str
    figure: Figure
    live: bool


class Refusal(Record):
    """A challenger that was refused, and why."""

    at: str
    decision: str
    codes: tuple[str, ...]
    texts: tuple[str, ...]


class Row(Record):
    """A model on a channel.

    :ivar metric: of the points; ``None`` where none is known.
    :ivar is_latest: the refusal is the last decision.
    :ivar summary_written_at: of what the row was made of; ``None`` where its store gave nothing.
    :ivar problem: why there is nothing.
    """

    model: str
    channel: str
    dag_id: str
    store: str
    health: Health
    champion: str | None = None
    since: str | None = None
    by: str | None = None
    cause: str | None = None
    action: str | None = None
    metric: str | None = None
    points: tuple[Point, ...] = ()
    refusal: Refusal | None = None
    is_latest: bool = False
    summary_written_at: str | None = None
    problem: str | None = None


class BrokenFile(Record):
    """A pipeline file that cannot be read."""

    file: str
    problem: str


class Overview(Record):
    """The page.

    :ivar now: when it was made.
    :ivar waiting: for an approval, those that wait longest first.
    :ivar hidden: how many models there are of which the visitor may not read the DAG.
    """

    now: str
    rows: tuple[Row, ...]
    waiting: tuple[Waiting, ...] = ()
    broken: tuple[BrokenFile, ...]
    hidden: int = 0
    problem: str | None = None


def overview(
    catalogue: Catalogue, shown: Sequence[Shown], runs: Mapping[str, Runs], stores: Stores, now: datetime
) -> Overview:
    """Ask every store for a summary of each model, and put the worst first.

    :param shown: those of the catalogue that the visitor may see.
    """
    by_store: dict[str, list[Shown]] = {}
    for one in shown:
        by_store.setdefault(one.store, []).append(one)
    summaries = stores.ask_several(
        [
            (store, {("summary", store, one.name): partial(stores.summary, one.store, one.name) for one in models})
            for store, models in by_store.items()
        ]
    )
    checks = check_champions(shown, summaries, stores)
    rows = [
        row
        for one in shown
        for row in _rows(one, summaries["summary", one.store, one.name], checks, runs.get(one.dag_id), now)
    ]
    return Overview(
        now=now.isoformat(timespec="seconds"),
        rows=tuple(sorted(rows, key=lambda row: (-LEVELS.index(row.health.level), row.model, row.channel))),
        broken=tuple(BrokenFile(file=one.file, problem=one.problem) for one in catalogue.broken),
        hidden=len(catalogue.models) - len(shown),
        problem=catalogue.problem,
    )


def checked_key(one: Shown, channel: str) -> tuple[str, str, str, str]:
    """Under which the answer is kept whether what a channel serves verifies."""
    return ("checked", one.store, one.name, channel)


def check_champion(one: Shown, channel: str) -> Move | None:
    """Read what a channel serves as a client does, but for the files: the newest move and the manifest that it names.

    :raises IntegrityError: one of them was altered, or is not signed by a key that the pipeline trusts.
    """
    model = model_of(one.pipeline)
    newest = model.newest_move(channel)
    if newest is not None:
        model.champion_of(newest)
    return newest


def check_champions(
    shown: Sequence[Shown], summaries: Mapping[tuple[str, str, str], Summary | Problem], stores: Stores
) -> dict[tuple[str, str, str, str], Move | Problem | None]:
    """What is known of them: in a folder they are looked at now, in a bucket that happens behind the page's back."""
    now: list[tuple[str, Questions]] = []
    later: list[tuple[str, Questions]] = []
    for one in shown:
        summary = summaries["summary", one.store, one.name]
        if isinstance(summary, Problem):
            continue
        questions: Questions = {
            checked_key(one, channel): partial(check_champion, one, channel)
            for channel, found in summary.channels.items()
            if found.champion is not None
        }
        (later if is_s3(one.store) else now).append((one.store, questions))
    known: dict[tuple[str, str, str, str], Move | Problem | None] = stores.ask_several(now, fresh=CHECKED_SECONDS)
    known |= stores.kept(key for _, asked in later for key in asked)
    unknown = [(store, key, ask) for store, asked in later for key, ask in asked.items() if key not in known]
    for store, key, ask in unknown[:CHECKED_AT_ONCE]:
        stores.look_later(store, {key: ask}, CHECKED_IN_BUCKET_SECONDS)
    return known


def _rows(
    one: Shown,
    summary: Summary | Problem,
    checks: Mapping[tuple[str, str, str, str], Move | Problem | None],
    runs: Runs | None,
    now: datetime,
) -> list[Row]:
    common = {"model": one.name, "dag_id": one.dag_id, "store": one.store}
    own = one.pipeline.publish.channel
    if isinstance(summary, Problem):
        sick = Sign(name="serving", level="bad", text=f"its store {summary.text}")
        health = Health.of([sick, scheduled(one.pipeline.schedule, runs, now)])
        return [Row(**common, channel=own, health=health, problem=summary.text)]
    rows = []
    for name in sorted({own, *summary.channels}, key=lambda name: (name != own, name)):
        channel = summary.of(name)
        key = checked_key(one, name)
        found = checks.get(key)
        wrong = found.text if isinstance(found, Problem) else None
        signs = [serving(channel, wrong, was_checked=key in checks)]
        if name == own:
            signs += of_own_channel(one.pipeline, channel, runs, now)
        refusal, is_latest = refusal_of(channel)
        live = channel.moves[0] if channel.moves else None
        metric = metric_of(one, channel)
        rows.append(
            Row(
                **common,
                channel=name,
                health=Health.of(signs),
                champion=channel.champion,
                since=live.at if live else None,
                by=live.actor if live else None,
                cause=live.cause.value if live else None,
                action=live.action if live else None,
                metric=metric,
                points=points_of(channel, metric)[-MOST_POINTS:] if metric else (),
                refusal=refusal,
                is_latest=is_latest,
                summary_written_at=summary.written_at,
            )
        )
    return rows


def refusal_of(channel: ChannelSummary) -> tuple[Refusal | None, bool]:
    """The last refusal, and whether nothing was judged since."""
    for at, one in enumerate(channel.decisions):
        if one.verdict == "refuse":
            refusal = Refusal(at=one.at, decision=one.decision, codes=one.reasons, texts=refused_for(one))
            return refusal, at == 0
    return None, False


def refused_for(one: DecisionSummary) -> tuple[str, ...]:
    """Why a challenger was refused, in words; what the codes mean where the words are not known."""
    if one.judged is not None and one.judged.texts:
        return one.judged.texts
    known = {code.value: code.help for code in ReasonCode}
    return tuple(known.get(code, code) for code in one.reasons) or ("no reason is known",)


def metric_of(one: Shown, channel: ChannelSummary) -> str | None:
    """The metric that says most of a model: by which it is compared, else the first that is known."""
    against = one.pipeline.gate.against_champion
    found: list[Mapping[str, Figure]] = [move.metrics for move in channel.moves]
    found += [decision.judged.metrics for decision in channel.decisions if decision.judged is not None]
    named = {name: None for metrics in found for name in metrics}
    wanted = [against.metric] if against is not None else []
    return next((name for name in [*wanted, *one.pipeline.metrics, *named] if name in named), None)


def points_of(channel: ChannelSummary, metric: str) -> tuple[Point, ...]:
    """What was live, and what was refused, the oldest first."""
    points = [
        Point(at=move.at, name=move.to_version, figure=move.metrics[metric], live=True)
        for move in channel.moves
        if metric in move.metrics
    ]
    points += [
        Point(at=one.at, name=one.decision, figure=one.judged.metrics[metric], live=False)
        for one in channel.decisions
        if one.verdict == "refuse" and one.judged is not None and metric in one.judged.metrics
    ]
    return tuple(sorted(points, key=lambda point: datetime.fromisoformat(point.at)))


def published_by(channel: ChannelSummary, decision: str) -> MoveSummary | None:
    """The move that made a decision's challenger live."""
    return next((move for move in channel.moves if move.decision == decision), None)
