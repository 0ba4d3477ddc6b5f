"""The pictures are drawn for few and many labels, and the same numbers give the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrainer.artifacts.training import CurvePoint
from retrainer.work.evaluate import plots

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("labels", [2, 7, 60])
def test_confusion_matrix(labels: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 50, (labels, labels))
    for name in ("first", "second"):
        plots.confusion_matrix(counts, tuple(f"label {i}" for i in range(labels)), tmp_path / f"{name}.png")
    assert (tmp_path / "first.png").read_bytes().startswith(PNG)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_training_curve_with_and_without_validation(tmp_path: Path) -> None:
    losses = [CurvePoint(step=step, epoch=step / 10, loss=1 / step) for step in (10, 20)]
    scores = [CurvePoint(step=20, epoch=2, validation={"loss": 0.1, "accuracy": 0.9})]
    plots.training_curve(tuple(losses + scores), 20, tmp_path / "both.png")
    plots.training_curve(tuple(losses), 20, tmp_path / "losses.png")
    plots.training_curve((), 0, tmp_path / "nothing.png")
    assert all(path.read_bytes().startswith(PNG) for path in tmp_path.iterdir())


def test_reliability_of_extreme_confidence(tmp_path: Path) -> None:
    plots.reliability(np.array([1.0, 0.5, 1.0, 0.0]), np.array([True, False, True, False]), tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(PNG)
