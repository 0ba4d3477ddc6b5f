"""Plots as numbers: where on a scale each mark, line and tick stands. The template draws them as inline SVG.

Places across are percentages of the width, those down are pixels: the plot fits a phone and a page of paper, and its
text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from retrainer.gate.records import Interval, Receipt, Score, SliceResult
from retrainer.spec.metric_names import LOWER_IS_BETTER

# Pixels: a row is a line of text and below it the lane in which the mark stands.
ROW_HEIGHT = 46
MARK = 34
AXIS_HEIGHT = 24
HEAD_HEIGHT = 16
# The ends of the scale, so that marks and numbers at them are not cut off.
LEFT, RIGHT = 4.0, 96.0
# Two lines nearer than this, in percent of the width, have no room for two labels.
ROOM_FOR_LABELS = 55.0
# A value in a plot's label; the table beside it has it in full.
LABEL_LENGTH = 26
MOST_SLICES = 24

Kind = Literal["challenger", "champion", "baseline", "good", "bad", "plain"]


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of a plot: a point, with the ends of its interval where it has one.

    :param figure: the number in words, at the right end of the row.
    :param y: of the point, in pixels.
    """

    label: str
    figure: str
    kind: Kind
    y: int
    x: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A vertical line: what is asked for, or no difference."""

    x: float
    label: str
    kind: Literal["limit", "zero"]


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot.

    :param name: distinguishes its parts from those of other plots of the page.
    :param text: what it shows, for who cannot see it.
    :param ticks: place and number.
    :param refused: the part of the scale where an interval must not reach, from and to; none where nothing is asked.
    """

    name: str
    title: str
    text: str
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    refused: tuple[float, float] | None = None

    @property
    def axis(self) -> int:
        """Where the scale stands, in pixels from the top."""
        return HEAD_HEIGHT + ROW_HEIGHT * len(self.marks)

    @property
    def height(self) -> int:
        """Of the whole, in pixels."""
        return self.axis + AXIS_HEIGHT


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers to percentages of the width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """The place of a number, to a hundredth of a percent."""
        share = (value - self.low) / (self.high - self.low)
        return round(LEFT + (RIGHT - LEFT) * min(max(share, 0.0), 1.0), 2)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Four to seven round numbers."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        decimals = max(0, math.ceil(-math.log10(step) - 1e-9))
        decimals += round(step * 10**decimals, 6) != round(step * 10**decimals)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple((self.at(index * step), _tick(index * step, decimals)) for index in range(first, last + 1))


def _tick(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}" if abs(value) < 1e6 else f"{value:.3g}"
    return text.replace("-", "−") if float(text) else f"{0:.{decimals}f}"


def scale_of(values: Iterable[float | None]) -> Scale | None:
    """A scale that holds all values with some room; ``None`` where there is nothing to draw."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        return None
    low, high = min(numbers), max(numbers)
    room = (high - low) * 0.08 or max(abs(low) * 0.05, 1e-3)
    scale = Scale(low - room, high + room)
    # Numbers so large or so near each other that floats, or people, cannot tell the ends apart have no plot.
    width = scale.high - scale.low
    if not math.isfinite(width) or width <= 1e-9 * max(abs(low), abs(high), 1.0):
        return None
    return scale


def difference_chart(
    name: str,
    title: str,
    first: str,
    second: str,
    interval: Interval,
    *,
    threshold: float | None = None,
    point: bool = False,
) -> Chart | None:
    """A difference of two models with its interval, no difference, and what the interval must lie above.

    :param point: the estimate alone must, not the whole interval.
    """
    scale = scale_of((interval.estimate, interval.low, interval.high, 0.0, threshold))
    if scale is None:
        return None
    met = threshold is None or (interval.estimate if point else interval.low) > threshold
    near = threshold is not None and abs(scale.at(threshold) - scale.at(0.0)) < ROOM_FOR_LABELS
    lines = [Line(scale.at(0.0), "" if near else "no difference", "zero")]
    asked = ""
    if threshold is not None:
        wanted = f"{threshold:+g}".replace("-", "−") if threshold else "0"
        lines.append(Line(scale.at(threshold), f"must lie above {wanted}", "limit"))
        who = "The estimate" if point else "The whole interval"
        asked = f" {who} must lie above {wanted}; it {'does' if met else 'does not'}."
    mark = Mark(
        label=_cut(f"{first} − {second}"),
        figure=f"{signed(interval.estimate)} [{signed(interval.low)}, {signed(interval.high)}]",
        kind=("good" if met else "bad") if threshold is not None else "plain",
        y=HEAD_HEIGHT + MARK,
        x=scale.at(interval.estimate),
        low=scale.at(interval.low),
        high=scale.at(interval.high),
    )
    return Chart(
        name=name,
        title=title,
        text=f"{first} minus {second}: {mark.figure}. Above 0 {first} is better.{asked}",
        marks=(mark,),
        lines=tuple(lines),
        ticks=scale.ticks(),
        refused=None if threshold is None else (0.0, scale.at(threshold)),
    )


def score_charts(receipt: Receipt, models: Mapping[str, Mapping[str, Score]]) -> list[Chart]:
    """One plot for each metric: every model's score with its interval, and the floor.

    :param models: name of the model to its scores, in the order of the rows.
    """
    names = dict.fromkeys(metric for scores in models.values() for metric in scores)
    charts = [_score_chart(receipt, models, metric, at) for at, metric in enumerate(names)]
    return [chart for chart in charts if chart is not None]


def _score_chart(receipt: Receipt, models: Mapping[str, Mapping[str, Score]], metric: str, at: int) -> Chart | None:
    shown = {name: scores[metric] for name, scores in models.items() if metric in scores}
    shown = {name: score for name, score in shown.items() if score.value is not None}
    floor = receipt.policy.floors.get(metric)
    scale = scale_of([*(end for s in shown.values() for end in (s.value, s.low, s.high)), floor])
    if scale is None or not shown:
        return None
    marks = tuple(
        Mark(
            label=name,
            figure=number(score.value) + bounds(score),
            kind="champion" if name == "champion" else "baseline" if name == "baseline" else "challenger",
            y=HEAD_HEIGHT + ROW_HEIGHT * row + MARK,
            x=scale.at(score.value or 0.0),
            low=None if score.low is None else scale.at(score.low),
            high=None if score.high is None else scale.at(score.high),
        )
        for row, (name, score) in enumerate(shown.items())
    )
    lines: tuple[Line, ...] = ()
    refused = None
    if floor is not None:
        ceiling = metric in LOWER_IS_BETTER
        lines = (Line(scale.at(floor), f"{'at most' if ceiling else 'floor'} {number(floor)}", "limit"),)
        refused = (scale.at(floor), 100.0) if ceiling else (0.0, scale.at(floor))
    better = "less is better" if metric in LOWER_IS_BETTER else "more is better"
    return Chart(
        name=f"score-{at}",
        title=f"{metric}, {better}",
        text="; ".join(f"{mark.label} {mark.figure}" for mark in marks) + (f"; {lines[0].label}" if lines else ""),
        marks=marks,
        lines=lines,
        ticks=scale.ticks(),
        refused=refused,
    )


def slice_chart(slices: Sequence[SliceResult], max_drop: float | None) -> Chart | None:
    """The differences of the slices that were compared, the worst ones where there are many."""
    compared = [result for result in slices if result.difference is not None]
    if len(compared) > MOST_SLICES:
        kept = set(sorted(range(len(compared)), key=lambda at: compared[at].difference or 0.0)[:MOST_SLICES])
        compared = [result for at, result in enumerate(compared) if at in kept]
    drop = None if max_drop is None else -max_drop
    scale = scale_of([*(result.difference for result in compared), 0.0, drop])
    if scale is None or not compared:
        return None
    marks = tuple(
        Mark(
            label=_cut(f"{result.by} = {result.value}"),
            figure=signed(result.difference) + (" worse" if result.status == "worse" else ""),
            kind="bad" if result.status == "worse" else "plain",
            y=HEAD_HEIGHT + ROW_HEIGHT * at + MARK,
            x=scale.at(result.difference or 0.0),
        )
        for at, result in enumerate(compared)
    )
    near = drop is not None and abs(scale.at(drop) - scale.at(0.0)) < ROOM_FOR_LABELS
    lines = [Line(scale.at(0.0), "" if near else "no difference", "zero")]
    if drop is not None:
        lines.append(Line(scale.at(drop), f"largest loss {signed(drop, 2)}", "limit"))
    worst = min(compared, key=lambda result: result.difference or 0.0)
    return Chart(
        name="slices",
        title="Accuracy by slice, challenger minus champion",
        text=f"{len(compared)} slices; the lowest is {worst.by} = {worst.value} with {signed(worst.difference)}. "
        "The table has all figures.",
        marks=marks,
        lines=tuple(lines),
        ticks=scale.ticks(),
        refused=None if drop is None else (0.0, scale.at(drop)),
    )


def signed(value: float | None, decimals: int = 4) -> str:
    """``+0.0120`` with a real minus sign; a dash for none."""
    return "–" if value is None else f"{value:+.{decimals}f}".replace("-", "−")


def number(value: float | None) -> str:
    """A score or a figure with as many digits as people compare; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 10:
        return f"{value:.4f}".replace("-", "−")
    return (f"{value:,.1f}" if abs(value) < 1e9 else f"{value:.3g}").replace("-", "−")


def bounds(score: Score) -> str:
    """`` [0.9100, 0.9300]``; nothing where there is no interval."""
    return "" if score.low is None or score.high is None else f" [{number(score.low)}, {number(score.high)}]"


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LABEL_LENGTH else f"{flat[: LABEL_LENGTH - 1]}…"
