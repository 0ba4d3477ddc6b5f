"""Plots as numbers: where each mark stands. Across in percent of the width, so that a plot fits any page; down in
pixels.

Pure. The SVG is in ``pages/pieces.html.jinja``, where all text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

Kind = Literal["live", "promoted", "refused", "good", "bad", "plain", "a", "b"]
# Room left and right, in percent, so that no mark is cut.
_EDGE = 1.5
_ROOM = 7.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with the ends of its interval.

    :ivar x: percent; ``y``, ``top`` and ``bottom`` in pixels, the last two of the interval.
    :ivar title: what it is, in words.
    :ivar href: where it leads.
    """

    x: float
    y: float
    top: float | None
    bottom: float | None
    kind: Kind
    title: str
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of time.

    :ivar wide: whether there is room for its name.
    """

    x: float
    width: float
    name: str
    title: str
    shade: int
    wide: bool
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across a plot, at a value."""

    y: float
    name: str
    kind: Literal["zero", "least", "scale"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of a scale."""

    x: float
    name: str


@dataclass(frozen=True, slots=True)
class Plot:
    """Marks over time, or one after the other.

    :ivar line: of neighbouring marks, as x and y of both.
    """

    height: int
    marks: tuple[Mark, ...] = ()
    line: tuple[tuple[float, float, float, float], ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Value:
    """What a mark is made of.

    :ivar at: time, or number in a row.
    """

    at: float
    value: float
    low: float | None
    high: float | None
    kind: Kind
    title: str
    href: str | None = None
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A scale from one value to another."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Span | None:
        """A scale that holds all of them; ``None`` where there is none that is a number."""
        numbers = [value for value in values if value is not None and math.isfinite(value)]
        if not numbers:
            return None
        low, high = min(numbers), max(numbers)
        if high - low < 1e-9:
            room = max(abs(high) * 0.05, 1e-3)
            return cls(low - room, high + room)
        return cls(low, high)

    def percent(self, value: float) -> float:
        """Where a value is, from left to right."""
        share = (value - self.low) / (self.high - self.low)
        return round(_EDGE + share * (100 - 2 * _EDGE), 3)

    def pixels(self, value: float, height: int) -> float:
        """Where a value is, from the top of a plot."""
        share = (self.high - value) / (self.high - self.low)
        return round(_ROOM + share * (height - 2 * _ROOM), 2)


def plotted(
    values: Sequence[Value],
    *,
    height: int,
    across: Span | None = None,
    zero: bool = False,
    least: float | None = None,
    scale: bool = False,
) -> Plot | None:
    """Values as marks, neighbours that are ``joined`` with a line between them.

    :param across: the scale from left to right; of the values unless given.
    :param zero: show 0; ``least`` another value that intervals must be above.
    :param scale: name the highest and the lowest value.
    :return: ``None`` where there is nothing to show.
    """
    across = across or Span.of(value.at for value in values)
    ends = [end for value in values for end in (value.value, value.low, value.high)]
    up = Span.of([*ends, *([0.0] if zero else []), least])
    if across is None or up is None or not values:
        return None
    marks = tuple(
        Mark(
            x=across.percent(value.at),
            y=up.pixels(value.value, height),
            top=None if value.high is None else up.pixels(value.high, height),
            bottom=None if value.low is None else up.pixels(value.low, height),
            kind=value.kind,
            title=value.title,
            href=value.href,
        )
        for value in values
    )
    joined = [mark for mark, value in zip(marks, values, strict=True) if value.joined]
    rules = [Rule(up.pixels(0.0, height), "0", "zero")] if zero else []
    if least is not None and least != 0:
        rules.append(Rule(up.pixels(least, height), f"{least:+g}", "least"))
    if scale:
        rules += [Rule(up.pixels(end, height), f"{end:.3f}", "scale") for end in (up.high, up.low)]
    return Plot(
        height=height,
        marks=marks,
        line=tuple((one.x, one.y, two.x, two.y) for one, two in pairwise(joined)),
        rules=tuple(rules),
    )


def ticks(span: Span, count: int = 5) -> tuple[Tick, ...]:
    """Times below a plot.

    :param span: of seconds since 1970.
    """
    apart = timedelta(seconds=span.high - span.low)
    form = "%b %Y" if apart > timedelta(days=400) else "%-d %b" if apart > timedelta(days=count) else "%-d %b %H:%M"
    if apart < timedelta(minutes=count):
        form = "%H:%M:%S"
    times = [span.low + (span.high - span.low) * at / (count - 1) for at in range(count)]
    return tuple(Tick(span.percent(time), f"{_utc(time):{form}}") for time in times)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a forest plot: a difference, or a score, with its interval.

    :ivar x: percent; so are ``low`` and ``high``.
    :ivar figure: the numbers, in words.
    :ivar mark: a verdict on the row, in a word; with the kind it is coloured by.
    """

    name: str
    figure: str
    x: float
    low: float | None
    high: float | None
    kind: Kind
    mark: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Forest:
    """Rows below each other on one scale.

    :ivar zero: percent; so is ``least``: left of it, or with ``at_most`` right of it, the gate does not accept.
    :ivar sides: what it means to be left and right of 0, in words.
    """

    title: str
    text: str
    rows: tuple[Bar, ...]
    ends: tuple[Tick, ...]
    zero: float | None = None
    least: float | None = None
    at_most: bool = False
    sides: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a row of a forest plot is made of."""

    name: str
    figure: str
    value: float
    low: float | None = None
    high: float | None = None
    kind: Kind = "plain"
    mark: str = ""
    below: str = ""


def forest(
    title: str,
    text: str,
    rows: Sequence[Estimate],
    *,
    zero: bool = False,
    least: float | None = None,
    at_most: bool = False,
    sides: str = "to the right is better",
) -> Forest | None:
    """Rows on one scale.

    :param text: what the plot shows, for people who cannot see it.
    :return: ``None`` where there is nothing to show.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high)]
    span = Span.of([*ends, *([0.0] if zero else []), least])
    if span is None or not rows:
        return None
    form = "{:+.3f}" if zero else "{:.3f}"
    return Forest(
        title=title,
        text=text,
        rows=tuple(
            Bar(
                name=row.name,
                figure=row.figure,
                x=span.percent(row.value),
                low=None if row.low is None else span.percent(row.low),
                high=None if row.high is None else span.percent(row.high),
                kind=row.kind,
                mark=row.mark,
                below=row.below,
            )
            for row in rows
        ),
        ends=tuple(Tick(span.percent(end), form.format(end)) for end in (span.low, span.high)),
        zero=span.percent(0.0) if zero else None,
        least=span.percent(least) if least is not None else None,
        at_most=at_most,
        sides=sides,
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar that is a whole.

    :ivar x: percent of the bar; so is ``width``.
    :ivar title: what it is, in words; ``wide`` whether there is room for its figure.
    :ivar kind: by which it is coloured.
    """

    x: float
    width: float
    kind: str
    figure: str
    title: str
    wide: bool


# Percent of a bar that a figure takes, about.
_FIGURE_WIDTH = 9.0


def stacked(parts: Sequence[tuple[str, str, float]], *, percents: bool = True) -> tuple[Segment, ...]:
    """Parts of a whole beside each other.

    :param parts: kind, name and size of each; those without any are left out.
    :param percents: the figures are shares, else sizes.
    """
    whole = sum(size for _, _, size in parts)
    segments, x = [], 0.0
    for kind, name, size in parts:
        if size <= 0:
            continue
        share = 100 * size / whole
        figure = f"{share:.1f} %" if percents else f"{size:,.0f}"
        title = f"{name}: {size:,.0f} of {whole:,.0f}, {share:.1f} %"
        segments.append(Segment(round(x, 3), round(share, 3), kind, figure, title, share > _FIGURE_WIDTH))
        x += share
    return tuple(segments)
