"""Evidence whose truth is known: two models of stated quality on rows drawn from a stated population.

A population is an array of probabilities ``[true label, first's answer, second's answer]``, and so the true
difference of the two models is computed, not estimated. Used by ``benchmarks.gate`` and by the tests of the gate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax

from retrainer.artifacts.evaluation import (
    BASELINE,
    CHAMPION,
    ChampionEvidence,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    PredictionsFile,
)
from retrainer.gate.evidence import Evidence
from retrainer.gate.metrics import METRICS
from retrainer.gate.tables import Table

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LABELS = 10
SHARES: Mapping[str, Floats] = {
    "mild, 2 to 1": np.linspace(2, 1, LABELS),
    "1/k": 1 / np.arange(1, LABELS + 1),
    "one label 60 %": np.array([0.6, *[0.4 / (LABELS - 1)] * (LABELS - 1)]),
    "halving": np.exp2(-np.arange(LABELS, dtype=np.float64)),
}


def population(shares: Floats, *, accuracy: float, discordant: float, worse: float = 0.0) -> Floats:
    """Two models that are right on the same share of every label's rows, and wrong in any way alike.

    :param discordant: share of rows that only one of them gets right.
    :param worse: share of the first one's right answers that are then made wrong ones.
    """
    n_labels = shares.size
    cells = np.zeros((n_labels, n_labels, n_labels))
    for label, share in enumerate(shares / shares.sum()):
        wrong = np.full(n_labels, 1 / (n_labels - 1))
        wrong[label] = 0.0
        cells[label] += (1 - accuracy - discordant / 2) * np.diag(wrong)
        cells[label, label] += discordant / 2 * wrong
        cells[label, :, label] += discordant / 2 * wrong
        cells[label, label, label] = accuracy - discordant / 2
        moved = worse * cells[label, label]
        cells[label, label] -= moved
        cells[label] += wrong[:, None] * moved
        cells[label] *= share
    return cells


def true_difference(cells: Floats, metric: str) -> float:
    """First minus second, of a metric of the confusion matrix, without chance."""
    function = METRICS[metric].from_confusion
    assert function is not None
    matrices = np.pad(np.stack([cells.sum(axis=2), cells.sum(axis=1)]), ((0, 0), (0, 0), (0, 1)))
    one, two = function(matrices)
    return float(one - two)


def with_difference(shares: Floats, difference: float, metric: str, **quality: float) -> Floats:
    """The population in which the first model is worse by exactly this, zero or negative."""
    if difference == 0:
        return population(shares, **quality)

    def distance(worse: float) -> float:
        return true_difference(population(shares, worse=worse, **quality), metric) - difference

    return population(shares, worse=float(brentq(distance, 0.0, 0.9)), **quality)


def draw(cells: Floats, n: int, random: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Labels and both models' answers on ``n`` rows of a population."""
    codes = random.choice(cells.size, size=n, p=cells.ravel() / cells.sum())
    labels, first, second = np.unravel_index(codes, cells.shape)
    return labels, first, second


def probabilities(predictions: Ints, n_labels: int, confidence: float = 0.8) -> Floats:
    """Scores that say no more than the predictions."""
    scores = np.full((predictions.size, n_labels), (1 - confidence) / (n_labels - 1))
    scores[np.arange(predictions.size), predictions] = confidence
    return scores


def evidence(labels: Ints, models: Mapping[str, Ints], n_labels: int, **columns: Any) -> Evidence:
    """What ``decide`` judges, without files.

    :param models: ``fp32``, ``champion`` and the like, to predictions ``[n]``.
    :param columns: ``characters`` and ``slices`` of the tables.
    """
    row_ids = np.array([f"{position:016x}" for position in range(labels.size)])
    tables, measured = {}, {}
    for name, predictions in models.items():
        scores = probabilities(predictions, n_labels)
        tables[name] = Table(row_ids, labels, predictions, scores, sha256=f"{name:0>64}", **columns)
        accuracy = METRICS["accuracy"].compute(labels, scores, predictions)
        measured[name] = ModelEvidence(
            metrics={"accuracy": accuracy, "f1": METRICS["f1"].compute(labels, scores, predictions)},
            predictions=PredictionsFile(file=f"predictions/{name}.parquet", sha256=f"{name:0>64}"),
        )
    return Evidence(_record(measured, tuple(f"label {label}" for label in range(n_labels)), labels.size), tables)


def _record(measured: dict[str, ModelEvidence], labels: tuple[str, ...], rows: int) -> EvaluationRecord:
    champion, baseline = measured.pop(CHAMPION), measured.pop(BASELINE, None)
    tolerances = {name: 1e-4 if name == "fp32" else None for name in measured}
    return EvaluationRecord(
        model="benchmark",
        task="text-classification",
        labels=labels,
        digests={},
        rows=rows,
        challenger=measured,
        champion_state="present",
        champion=ChampionEvidence(**champion.model_dump(), version="0" * 16, labels=labels),
        parity={
            name: ParityEvidence(max_difference=1e-5, tolerance=tolerance, rows=256)
            for name, tolerance in tolerances.items()
        },
        baseline=baseline,
    )


def write_evidence(folder: Path, n: int, n_labels: int, seed: int = 0) -> None:
    """An evaluate artifact of that many rows with real-valued scores: fp32, int8, champion and baseline.

    Rows stand in no order, each model is related to the others, and every metric was measured.
    """
    random = np.random.default_rng(seed)
    (folder / "predictions").mkdir(parents=True)
    labels = random.choice(n_labels, size=n, p=SHARES["1/k"][:n_labels] / SHARES["1/k"][:n_labels].sum())
    row_ids = pa.array([f"{value:016x}" for value in random.integers(0, 2**63, n)])
    common = {
        "row_id": row_ids,
        "label": labels,
        "characters": random.integers(10, 2000, n),
        "slice_region": pa.array(np.array(["north", "south", "east", "west"])[random.integers(0, 4, n)]),
    }
    shared = random.normal(size=(n, n_labels))
    offsets = pa.array(np.arange(n + 1, dtype=np.int64) * n_labels, pa.int32())
    names = [name for name in METRICS if name != "f1_binary" or n_labels == 2]
    measured: dict[str, ModelEvidence] = {}
    fp32 = shared
    for name, skill in (("fp32", 2.0), ("int8", None), (CHAMPION, 1.98), (BASELINE, 1.5)):
        if skill is None:
            logits = fp32 + 0.05 * random.normal(size=(n, n_labels))
        else:
            logits = shared + 0.4 * random.normal(size=(n, n_labels))
            logits[np.arange(n), labels] += skill
            fp32 = logits if name == "fp32" else fp32
        scores = softmax(logits, axis=1)
        predictions = scores.argmax(axis=1)
        path = folder / "predictions" / f"{name}.parquet"
        column = pa.ListArray.from_arrays(offsets, pa.array(scores.ravel()))
        pq.write_table(pa.table({**common, "prediction": predictions, "scores": column}), path)
        measured[name] = ModelEvidence(
            metrics={metric: METRICS[metric].compute(labels, scores, predictions) for metric in names},
            predictions=PredictionsFile(
                file=f"predictions/{name}.parquet", sha256=hashlib.sha256(path.read_bytes()).hexdigest()
            ),
        )
    record = _record(measured, tuple(f"label {label}" for label in range(n_labels)), n)
    (folder / "evaluation.json").write_text(record.to_pretty_json(), encoding="utf-8")
