"""Which plot a page has: its records turned into marks (``drawing.py``). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from retrainer.console.drawing import Band, Plot, Span, Tick, Value, plotted, ticks
from retrainer.console.model import ModelPage
from retrainer.console.overview import Point
from retrainer.console.words import moment, short, shown_time
from retrainer.report.figures import number
from retrainer.report.presentation import signed
from retrainer.store.summary import Figure

SPARK_HEIGHT = 40
METRIC_HEIGHT = 150
DIFFERENCE_HEIGHT = 150
# Percent of the width that a name of eight digits takes, about.
_NAME_WIDTH = 9.0
_SHADES = 4

Link = Callable[..., str]


def spark(points: Sequence[Point], metric: str) -> Plot | None:
    """A metric over versions, one after the other."""
    values = [
        Value(
            at=float(at),
            value=point.figure.value,
            low=point.figure.low,
            high=point.figure.high,
            kind="live" if point.live else "refused",
            title=_titled(point, metric),
            joined=point.live,
        )
        for at, point in enumerate(points)
    ]
    return plotted(values, height=SPARK_HEIGHT)


def _titled(point: Point, metric: str) -> str:
    what = f"version {short(point.name)}" if point.live else "refused"
    return f"{metric} {_said(point.figure)}, {what}, {shown_time(moment(point.at))}"


def _said(figure: Figure) -> str:
    bounds = "" if figure.low is None or figure.high is None else f" [{number(figure.low)}, {number(figure.high)}]"
    return f"{number(figure.value)}{bounds}"


def span_of(page: ModelPage) -> Span | None:
    """The time that the plots of a model show: its moves and decisions, to now."""
    times = [stretch.since for stretch in page.stretches] + [one.at for one in page.challengers]
    return Span.of([moment(text).timestamp() for text in [*times, page.now]]) if times else None


def time_ticks(page: ModelPage) -> tuple[Tick, ...]:
    """Below them."""
    span = span_of(page)
    return ticks(span) if span is not None else ()


def bands(page: ModelPage) -> tuple[Band, ...]:
    """Who was champion when."""
    span = span_of(page)
    if span is None:
        return ()
    made = []
    for at, stretch in enumerate(page.stretches):
        begin = span.percent(moment(stretch.since).timestamp())
        end = span.percent(moment(stretch.until or page.now).timestamp())
        until = f"to {shown_time(moment(stretch.until))}" if stretch.until else "until now"
        made.append(
            Band(
                x=begin,
                width=round(max(end - begin, 0.15), 3),
                name=short(stretch.version),
                title=f"{stretch.version}: {shown_time(moment(stretch.since))} {until}, by {stretch.by}",
                shade=sum(map(ord, stretch.version)) % _SHADES if stretch.until else _SHADES,
                wide=end - begin > _NAME_WIDTH,
                href=f"#move-{stretch.move}",
            )
        )
        assert at < len(page.stretches)
    return tuple(made)


def differences(page: ModelPage, link: Link) -> Plot | None:
    """Challengers against the champion of their time."""
    threshold = next((one.threshold for one in page.challengers if one.difference is not None), None)
    values = [
        Value(
            at=moment(one.at).timestamp(),
            value=one.difference.value,
            low=one.difference.low,
            high=one.difference.high,
            kind="promoted" if one.verdict == "promote" else "refused",
            title=f"{one.metric} {signed(one.difference.value)} "
            f"[{signed(one.difference.low)}, {signed(one.difference.high)}], "
            f"{'promoted' if one.verdict == 'promote' else 'refused'}, {shown_time(moment(one.at))}",
            href=link("decision", name=page.model, channel=page.channel, decision=one.decision),
        )
        for one in reversed(page.challengers)
        if one.difference is not None
    ]
    return plotted(values, height=DIFFERENCE_HEIGHT, across=span_of(page), zero=True, least=threshold)


def metric(page: ModelPage, link: Link) -> Plot | None:
    """The metric over versions."""
    if page.metric is None:
        return None
    values = [
        Value(
            at=moment(point.at).timestamp(),
            value=point.figure.value,
            low=point.figure.low,
            high=point.figure.high,
            kind="live" if point.live else "refused",
            title=_titled(point, page.metric),
            href=None if point.live else link("decision", name=page.model, channel=page.channel, decision=point.name),
            joined=point.live,
        )
        for point in page.points
    ]
    return plotted(values, height=METRIC_HEIGHT, across=span_of(page), scale=True)
