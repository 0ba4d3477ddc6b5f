"""The charts of a decision, as PNG: what the evaluation saw of the challenger, and what the gate compared.

The same numbers give the same bytes. Heavy: matplotlib. Not here: where a chart is shown (``html/``).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from retrainer.artifacts.measures import Interval, Score
from retrainer.artifacts.training import CurvePoint
from retrainer.gate.label_sets import LabelScores
from retrainer.gate.receipt import SliceResult
from retrainer.report.figures import number
from retrainer.report.presentation import scored, signed
from retrainer.spec.known_metrics import lower_is_better

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREY, GREEN, RED = "#2a6f97", "#e07a1f", "#8a8f98", "#1a7f50", "#b3261e"
# Above so many labels, numbers in the cells and names on the axes could not be read.
READABLE_COUNTS, READABLE_LABELS = 30, 150
RELIABILITY_BINS = 10
# A name beside a chart; the table below has it in full.
LONGEST_NAME = 26
MOST_SLICES = 24
MOST_LABELS = 40
# Of a number on a scale.
LARGEST = 1e9
_STYLE = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
}


def confusion_matrix(counts: npt.NDArray[np.int64], labels: tuple[str, ...]) -> bytes:
    """Draw counts, coloured by the share of each true label.

    :param counts: ``[labels, labels]``, rows are the true labels.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(2.2 + 0.42 * len(labels), 3.4, 14 if len(labels) <= 60 else 20))
    # No taller than a row, of which there are 72 points an inch.
    points = min(9.0, 0.8 * 72 * size / len(labels))
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(size + 0.9, size), layout="constrained")
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(labels) <= READABLE_LABELS:
            names = [_plain(label) for label in labels]
            axes.set_xticks(
                range(len(labels)),
                names,
                rotation=45 if len(labels) <= READABLE_COUNTS else 90,
                ha="right",
                va="center" if len(labels) > READABLE_COUNTS else "top",
                rotation_mode="anchor",
                parse_math=False,
                fontsize=points,
            )
            axes.set_yticks(range(len(labels)), names, parse_math=False, fontsize=points)
        if len(labels) <= READABLE_COUNTS:
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.55 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
        axes.set(xlabel="predicted", ylabel="true", title=f"{counts.sum():,} test rows")
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, format=PercentFormatter(1), shrink=0.8, label="share of the true label")
        return _png(figure)


def training_curve(curve: tuple[CurvePoint, ...], best_step: int) -> bytes:
    """Draw training loss and validation scores over steps; the kept checkpoint is marked."""
    with plt.rc_context(_STYLE):
        figure, (losses, scores) = plt.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained")
        train = [(point.step, point.loss) for point in curve if point.loss is not None]
        _line(losses, train, "training", BLUE, marker="")
        evaluated = [point for point in curve if point.validation]
        names = sorted({name for point in evaluated for name in point.validation})
        for name in names:
            values = [(point.step, point.validation[name]) for point in evaluated if name in point.validation]
            if name == "loss":
                _line(losses, values, "validation", ORANGE)
            else:
                _line(scores, values, name.replace("_", " "), None)
        losses.set(title="loss", xlabel="step")
        scores.set(title="on validation", xlabel="step")
        for axes in (losses, scores):
            axes.axvline(best_step, color=GREY, linestyle=":", linewidth=1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if axes.lines[:-1]:
                axes.legend(frameon=False, fontsize=8)
        return _png(figure)


def _line(axes: Axes, points: list[tuple[int, float]], label: str, colour: str | None, marker: str = "o") -> None:
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, marker=marker, markersize=4, linewidth=1.5, color=colour, label=label)


def uncalibrated(scores: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """The probabilities that the same logits give without their temperature: powers of those they give with it."""
    with np.errstate(divide="ignore"):
        logits = np.log(scores) * temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def uncalibrated_alone(probabilities: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    """The same of probabilities of labels each of which is decided by itself."""
    both = np.stack([probabilities, 1.0 - probabilities], axis=1)
    return uncalibrated(both, temperature)[:, 0]


def label_scores(labels: Sequence[LabelScores]) -> bytes:
    """Draw precision, recall, F1 and threshold of each label; of many those with the lowest F1."""
    worst = sorted(range(len(labels)), key=lambda at: labels[at].f1)[:MOST_LABELS]
    shown = [labels[at] for at in sorted(worst)]
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 1.2 + 0.4 * len(shown)), layout="constrained")
        places = range(len(shown))
        for at, one in enumerate(shown):
            axes.plot([one.precision, one.recall], [at, at], color=GREY, linewidth=1, zorder=1)
        for name, marker, colour in (("precision", "<", BLUE), ("recall", ">", ORANGE), ("f1", "o", GREEN)):
            values = [getattr(one, name) for one in shown]
            axes.scatter(values, places, marker=marker, color=colour, label=name, zorder=2)
        axes.scatter([one.threshold for one in shown], places, marker="|", s=120, color=RED, label="threshold")
        axes.set_yticks(places, [f"{_plain(one.label)}\n{one.rows:,} rows" for one in shown], parse_math=False)
        axes.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.5, -0.5))
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
        figure.legend(loc="outside upper center", ncols=4, frameon=False, fontsize=8)
        return _png(figure)


def reliability(
    confidence: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    *,
    before: npt.NDArray[np.float64] | None = None,
    decisions: bool = False,
) -> bytes:
    """Draw how often predictions of each confidence are right.

    :param confidence: probability of the predicted label of each row.
    :param correct: whether that label is the true one.
    :param before: the same probabilities without the temperature, where there is one.
    :param decisions: they are of each label of each row, and whether the row has it.
    """
    right_share, across, counted = (
        ("share that has the label", "probability of a label", "decisions")
        if decisions
        else ("share that is right", "confidence", "rows")
    )
    from sklearn.calibration import calibration_curve

    with plt.rc_context(_STYLE):
        figure, (curve, histogram) = plt.subplots(
            2, 1, figsize=(4.2, 4.8), sharex=True, height_ratios=(3, 1), layout="constrained"
        )
        curve.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        if before is not None:
            right, said = calibration_curve(correct, before, pos_label=True, n_bins=RELIABILITY_BINS)
            curve.plot(said, right, marker="o", color=GREY, markersize=4, label="before calibration")
        right, said = calibration_curve(correct, confidence, pos_label=True, n_bins=RELIABILITY_BINS)
        curve.plot(said, right, marker="o", color=BLUE, label="calibrated")
        if before is not None:
            curve.legend(frameon=False, fontsize=8)
        curve.set(ylabel=right_share, title="reliability", xlim=(0, 1), ylim=(0, 1.02))
        histogram.hist(confidence, bins=RELIABILITY_BINS, range=(0, 1), rwidth=0.9, color=BLUE)
        histogram.set(xlabel=across, ylabel=counted)
        return _png(figure)


# --- differences and scores with their intervals ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the page.

    :param text: what it shows, for people who cannot see it.
    """

    title: str
    text: str
    png: bytes


@dataclass(frozen=True, slots=True)
class _Row:
    """A point, with the ends of its interval where it has one."""

    name: str
    figure: str
    colour: str
    value: float
    low: float | None = None
    high: float | None = None


def difference_chart(
    first: str, second: str, interval: Interval | None, *, threshold: float | None = None, point: bool = False
) -> Chart | None:
    """A difference of two models with its interval, and what the interval must be above.

    :param point: the estimate alone must, not the whole interval.
    :return: ``None`` where nothing was compared, or where no scale holds it.
    """
    if interval is None:
        return None
    judged = interval.estimate if point else interval.low
    met = threshold is None or judged > threshold
    colour = BLUE if threshold is None else GREEN if met else RED
    shown = f"{signed(interval.estimate)} {interval.range}"
    text = f"{first} minus {second}: {shown}. Above 0 {first} is better."
    if threshold is not None:
        who = "The estimate" if point else "The whole interval"
        text += f" {who} must be above {threshold:+g}; it {'is' if met else 'is not'}."
    row = _Row(f"{first} minus {second}", shown, colour, interval.estimate, interval.low, interval.high)
    return _forest(f"Difference in {interval.metric}", text, [row], zero=True, least=threshold)


def score_charts(models: Mapping[str, Mapping[str, Score]], floors: Mapping[str, float]) -> list[Chart]:
    """One chart for each metric: every model's score with its interval, and the floor.

    :param models: name of the model to its scores, in the order of the rows.
    """
    names = dict.fromkeys(metric for scores in models.values() for metric in scores)
    charts = [_score_chart(models, metric, floors.get(metric)) for metric in names]
    return [chart for chart in charts if chart is not None]


def _score_chart(models: Mapping[str, Mapping[str, Score]], metric: str, floor: float | None) -> Chart | None:
    rows = [
        _Row(name, str(scored(score)), _MODEL_COLOURS.get(name, BLUE), score.value, score.low, score.high)
        for name, scores in models.items()
        if (score := scores.get(metric)) is not None and score.value is not None
    ]
    text = "; ".join(f"{row.name} {row.figure}" for row in rows)
    less = lower_is_better(metric)
    if floor is not None:
        text += f"; {'at most' if less else 'at least'} {number(floor)}"
    title = f"{metric}, {'less' if less else 'more'} is better"
    return _forest(title, text, rows, least=None if less else floor, most=floor if less else None)


_MODEL_COLOURS = {"champion": ORANGE, "baseline": GREY}


def slice_chart(slices: Sequence[SliceResult], max_drop: float | None) -> Chart | None:
    """The differences of the slices that were compared, the worst ones where there are many."""
    compared = [(result.difference, result) for result in slices if result.difference is not None]
    if not compared:
        return None
    worst = sorted(range(len(compared)), key=lambda at: compared[at][0])[:MOST_SLICES]
    rows = [
        _Row(f"{result.by} = {result.value}", signed(difference), RED if result.status == "worse" else BLUE, difference)
        for difference, result in (compared[at] for at in sorted(worst))
    ]
    lowest, at = compared[worst[0]]
    text = f"{len(rows)} slices; the lowest is {at.by} = {at.value} with {signed(lowest)}. The table has all figures."
    least = None if max_drop is None else -max_drop
    name = (slices[0].metric or "accuracy").replace("_", " ")
    return _forest(
        f"{name[0].upper()}{name[1:]} by slice, challenger minus champion", text, rows, zero=True, least=least
    )


def _forest(
    title: str,
    text: str,
    rows: Sequence[_Row],
    *,
    zero: bool = False,
    least: float | None = None,
    most: float | None = None,
) -> Chart | None:
    """Points below each other with their intervals; shaded is what the gate does not accept.

    :param zero: whether no difference is marked.
    :return: ``None`` where there is nothing that a scale can show.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high)] + [least, most, *([0.0] if zero else [])]
    if not rows or (span := _span(ends)) is None:
        return None
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.45 * len(rows)), layout="constrained")
        axes.set_xlim(*span)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        for limit, beyond in ((least, span[0]), (most, span[1])):
            if limit is not None:
                axes.axvspan(limit, beyond, color=RED, alpha=0.12, linewidth=0)
                axes.axvline(limit, color=RED, linewidth=1)
        if zero:
            axes.axvline(0.0, color=GREY, linestyle=":", linewidth=1)
        for at, row in enumerate(rows):
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [at, at], color=row.colour, linewidth=2.5, marker="|")
            axes.plot([row.value], [at], color=row.colour, marker="o")
        axes.set_yticks(range(len(rows)), [f"{_plain(row.name)}\n{row.figure}" for row in rows], parse_math=False)
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
        return Chart(title, text, _png(figure))


def _span(values: Iterable[float | None]) -> tuple[float, float] | None:
    """A scale that holds all values with some room; ``None`` for numbers so large that it would say nothing."""
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers or max(map(abs, numbers)) > LARGEST:
        return None
    low, high = min(numbers), max(numbers)
    # Ends that floats, or people, could not tell apart are moved apart.
    room = max((high - low) * 0.08, abs(low) * 1e-6, 1e-3)
    return low - room, high + room


def _plain(name: str) -> str:
    """One line that a font can show, not too long."""
    flat = " ".join("".join(letter if letter.isprintable() else "\ufffd" for letter in name).split())
    return flat if len(flat) <= LONGEST_NAME else f"{flat[: LONGEST_NAME - 1]}…"


def _png(figure: plt.Figure) -> bytes:
    stream = io.BytesIO()
    # Without metadata the same numbers give the same bytes.
    figure.savefig(stream, format="png", metadata={"Software": None})
    plt.close(figure)
    return stream.getvalue()
