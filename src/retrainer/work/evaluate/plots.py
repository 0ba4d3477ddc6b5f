"""The pictures that stand beside an evaluation: confusion matrix, training curve, reliability diagram."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from retrainer.artifacts.training import CurvePoint

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#8a8f98"
# Above this many labels, numbers in the cells and names on the axes could not be read.
READABLE_LABELS = 30
RELIABILITY_BINS = 10
_STYLE = {
    "figure.dpi": 120,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
}


def confusion_matrix(counts: npt.NDArray[np.int64], labels: tuple[str, ...], path: Path) -> None:
    """Draw counts, coloured by the share of each true label.

    :param counts: ``[labels, labels]``, rows are the true labels.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(2.2 + 0.42 * len(labels), 3.4, 14))
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(figsize=(size + 0.9, size), layout="constrained")
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        if len(labels) <= READABLE_LABELS:
            axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(labels)), labels)
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.55 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
        axes.set(xlabel="predicted", ylabel="true", title=f"{counts.sum():,} test rows")
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, format=PercentFormatter(1), shrink=0.8, label="share of the true label")
        _save(figure, path)


def training_curve(curve: tuple[CurvePoint, ...], best_step: int, path: Path) -> None:
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
        _save(figure, path)


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


def reliability(
    confidence: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    path: Path,
    *,
    before: npt.NDArray[np.float64] | None = None,
) -> None:
    """Draw how often predictions of each confidence are right.

    :param confidence: probability of the predicted label of each row.
    :param correct: whether that label is the true one.
    :param before: the same probabilities without the temperature, where there is one.
    """
    with plt.rc_context(_STYLE):
        figure, (curve, histogram) = plt.subplots(
            2, 1, figsize=(4.2, 4.8), sharex=True, height_ratios=(3, 1), layout="constrained"
        )
        curve.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
        if before is not None:
            said, right, _ = _binned(before, correct)
            curve.plot(said, right, marker="o", color=GREY, markersize=4, label="before calibration")
        said, right, counts = _binned(confidence, correct)
        curve.plot(said, right, marker="o", color=BLUE, label="calibrated")
        if before is not None:
            curve.legend(frameon=False, fontsize=8)
        curve.set(ylabel="share that is right", title="reliability", xlim=(0, 1), ylim=(0, 1.02))
        centres = (np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS
        histogram.bar(centres, counts, width=0.9 / RELIABILITY_BINS, color=BLUE)
        histogram.set(xlabel="confidence", ylabel="rows")
        _save(figure, path)


def _binned(
    confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean confidence and share of right ones in each filled bin, and the rows of every bin."""
    bins = np.clip((confidence * RELIABILITY_BINS).astype(int), 0, RELIABILITY_BINS - 1)
    counts = np.bincount(bins, minlength=RELIABILITY_BINS)
    filled = counts > 0
    right = np.bincount(bins, weights=correct, minlength=RELIABILITY_BINS)[filled] / counts[filled]
    said = np.bincount(bins, weights=confidence, minlength=RELIABILITY_BINS)[filled] / counts[filled]
    return said, right, counts


def _save(figure: plt.Figure, path: Path) -> None:
    # Without metadata the same numbers give the same bytes.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
