"""Evidence of a task that writes text, made to order: scores of each row for each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.artifacts.evaluation import (
    CHAMPION,
    ChampionEvidence,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    PredictionsFile,
)
from retrainer.artifacts.measures import Latency
from retrainer.gate.evidence import Evidence
from retrainer.gate.tables import TextTable

Floats = NDArray[np.float64]
METRICS = ("chrf", "exact_match")


def text_table(scores: Floats, *, name: str = "fp32", **more: Any) -> TextTable:
    """Answers with these chrF scores; those of 1 are the target itself."""
    n = scores.size
    targets = np.empty(n, dtype=np.object_)
    targets[:] = [(f"target {row}", f"another target {row}") for row in range(n)]
    written = [targets[row][row % 2] if scores[row] == 1.0 else f"something by {name} {row}" for row in range(n)]
    predictions = np.empty(n, dtype=np.object_)
    predictions[:] = written
    return TextTable(
        row_ids=np.array([f"{row:016x}" for row in range(n)]),
        labels=np.zeros(n, dtype=np.int64),
        predictions=predictions,
        scores=np.stack([scores, (scores == 1.0).astype(np.float64)], axis=1),
        metrics=METRICS,
        targets=targets,
        sha256=f"{name:0>64}",
        **more,
    )


def text_evidence(scores: Mapping[str, Floats], *, record: Mapping[str, Any] | None = None, **more: Any) -> Evidence:
    """Consistent evidence.

    :param scores: ``fp32``, and perhaps ``int8`` and ``champion``, to the chrF score of each row.
    :param record: other values of the evaluation's record.
    :param more: columns of every table.
    """
    tables = {name: text_table(values, name=name, **more) for name, values in scores.items()}
    models = {
        name: ModelEvidence(
            metrics={metric: float(table.scores[:, at].mean()) for at, metric in enumerate(METRICS)},
            latency_ms=Latency(p50=10.0, p95=20.0),
            rows_per_second=10.0,
            size_mb=90.0,
            peak_memory_mb=200.0,
            predictions=PredictionsFile(file=f"predictions/{name}.parquet", sha256=table.sha256),
        )
        for name, table in tables.items()
    }
    champion = models.pop(CHAMPION, None)
    values: dict[str, Any] = {
        "model": "answers",
        "task": "text2text-generation",
        "labels": (),
        "digests": {step: step[0] * 64 for step in ("ingest", "train", "export", "evaluate")},
        "rows": next(iter(scores.values())).size,
        "challenger": models,
        "champion_state": "none" if champion is None else "present",
        "champion": champion and ChampionEvidence(**champion.model_dump(), version="0123456789abcdef", labels=()),
        "parity": {name: ParityEvidence(max_difference=1e-5, tolerance=1e-4, rows=64) for name in models},
    }
    return Evidence(EvaluationRecord(**{**values, **(record or {})}), tables)


def record_of(rows: int, sha256: str) -> EvaluationRecord:
    """The record of one challenger whose answers are in ``predictions/challenger_fp32.parquet``."""
    file = PredictionsFile(file="predictions/challenger_fp32.parquet", sha256=sha256)
    record = text_evidence({"fp32": np.zeros(rows)}).record
    model = record.challenger["fp32"].model_copy(update={"predictions": file})
    return record.model_copy(update={"challenger": {"fp32": model}})
