"""The charts are drawn for whatever numbers and names there are, and the same numbers give the same bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.artifacts.measures import Interval, Score
from retrainer.artifacts.training import CurvePoint
from retrainer.gate.receipt import SliceResult
from retrainer.report import charts

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("labels", [2, 7, 77, 200])
def test_confusion_matrix(labels: int) -> None:
    counts = np.random.default_rng(0).integers(0, 50, (labels, labels))
    names = tuple(f"label {i} $x$ \n" for i in range(labels))
    first, second = (charts.confusion_matrix(counts, names) for _ in range(2))
    assert first.startswith(PNG)
    assert first == second


def test_training_curve_with_and_without_validation() -> None:
    losses = tuple(CurvePoint(step=step, epoch=step / 10, loss=1 / step) for step in (10, 20))
    scores = (CurvePoint(step=20, epoch=2, validation={"loss": 0.1, "accuracy": 0.9}),)
    drawn = {charts.training_curve(curve, 20) for curve in (losses + scores, losses, ())}
    assert len(drawn) == 3
    assert all(png.startswith(PNG) for png in drawn)


def test_reliability_of_extreme_confidence() -> None:
    png = charts.reliability(np.array([1.0, 0.5, 1.0, 0.0]), np.array([True, False, True, False]))
    assert png.startswith(PNG)


def interval(low: float, estimate: float, high: float) -> Interval:
    return Interval(
        metric="f1", estimate=estimate, low=low, high=high, confidence=0.9, method="m", n=100, disagreements=9
    )


def test_a_difference_says_whether_it_is_enough() -> None:
    enough = charts.difference_chart("new", "old", interval(0.01, 0.02, 0.03), threshold=0.0)
    short = charts.difference_chart("new", "old", interval(-0.01, 0.02, 0.03), threshold=0.0)
    by_point = charts.difference_chart("new", "old", interval(-0.01, 0.02, 0.03), threshold=0.0, point=True)
    unasked = charts.difference_chart("new", "old", interval(-0.01, 0.02, 0.03))
    assert enough is not None
    assert short is not None
    assert by_point is not None
    assert unasked is not None
    assert enough.text.endswith("Above 0 new is better. The whole interval must be above +0; it is.")
    assert short.text.endswith("it is not.")
    assert by_point.text.endswith("The estimate must be above +0; it is.")
    assert unasked.text == "new minus old: +0.0200 [-0.0100, +0.0300]. Above 0 new is better."
    assert len({chart.png for chart in (enough, short, by_point, unasked)}) == 4


def test_floors_are_ceilings_where_less_is_better() -> None:
    models = {"fp32": {"f1": Score(value=0.9, low=0.8, high=0.95), "ece": Score(value=0.05)}, "champion": {}}
    drawn = {chart.title: chart.text for chart in charts.score_charts(models, {"f1": 0.85, "ece": 0.1})}
    assert drawn == {
        "f1, more is better": "fp32 0.9000 [0.8000, 0.9500]; at least 0.8500",
        "ece, less is better": "fp32 0.0500; at most 0.1000",
    }


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1e-300, 1e300, -1e300, math.pi]), min_size=1, max_size=4),
    st.text(max_size=30),
    st.none() | st.floats(0, 1),
)
def test_whatever_is_measured_is_drawn_or_left_out(values: list[float], name: str, drop: float | None) -> None:
    """No number and no name stops the page: a chart that no scale can hold is left out."""
    slices = [
        SliceResult(by="column", value=f"{name} {at}", rows=9, status="ok", difference=value)
        for at, value in enumerate(values)
    ]
    chart = charts.slice_chart(slices, drop)
    assert (chart is None) == (max(abs(value) for value in values) > 1e6)
    assert chart is None or chart.png.startswith(PNG)
