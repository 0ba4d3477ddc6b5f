"""Evidence of rows that have any number of labels, made to order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from retrainer.artifacts.evaluation import (
    BASELINE,
    CHAMPION,
    ChampionEvidence,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    PredictionsFile,
)
from retrainer.artifacts.measures import Latency
from retrainer.gate.answers import Rights, SetAnswers
from retrainer.gate.evidence import Evidence
from retrainer.gate.metrics import METRICS
from retrainer.gate.tables import SetTable

NAMES = ("mud", "trees", "crowd")
MEASURED = ("f1_micro", "f1_macro", "subset_accuracy", "hamming_loss", "ece")
THRESHOLDS = (0.5, 0.4, 0.3)


def drawn(n: int, seed: int = 0, shares: tuple[float, ...] = (0.5, 0.3, 0.1)) -> Rights:
    """Which labels each row has."""
    return np.random.default_rng(seed).random((n, len(shares))) < np.array(shares)


def with_errors(truth: Rights, share: float, seed: int) -> Rights:
    """The same with so many decisions wrong."""
    return truth ^ (np.random.default_rng(seed).random(truth.shape) < share)


def said(truth: Rights, applies: Rights, foreign: Rights | None = None) -> SetAnswers:
    """What gives these labels, with probabilities on their side of the thresholds."""
    scores = np.where(applies, 0.9, 0.1)
    return SetAnswers(truth, applies, scores, np.zeros(len(truth), np.bool_) if foreign is None else foreign)


def set_evidence(
    truth: Rights, models: Mapping[str, SetAnswers], *, record: Mapping[str, Any] | None = None, **more: Any
) -> Evidence:
    """Consistent evidence.

    :param models: ``fp32``, and perhaps ``int8``, ``champion`` and ``baseline``, to what it says.
    :param record: other values of the evaluation's record.
    :param more: columns of every table.
    """
    n = len(truth)
    row_ids = np.array([f"{row:016x}" for row in range(n)])
    tables = {name: SetTable.of(row_ids, one, sha256=f"{name:0>64}", **more) for name, one in models.items()}
    nothing = np.zeros(n, dtype=np.int64)
    measured = {
        name: ModelEvidence(
            metrics={metric: METRICS[metric].value(nothing, one) for metric in MEASURED},
            latency_ms=Latency(p50=10.0, p95=20.0),
            rows_per_second=10.0,
            size_mb=90.0,
            peak_memory_mb=200.0,
            thresholds=THRESHOLDS,
            predictions=PredictionsFile(file=f"predictions/{name}.parquet", sha256=f"{name:0>64}"),
        )
        for name, one in models.items()
    }
    champion, baseline = measured.pop(CHAMPION, None), measured.pop(BASELINE, None)
    values: dict[str, Any] = {
        "model": "trails",
        "task": "multi-label-classification",
        "labels": NAMES,
        "digests": {step: step[0] * 64 for step in ("ingest", "train", "export", "evaluate")},
        "rows": n,
        "challenger": measured,
        "baseline": baseline,
        "champion_state": "none" if champion is None else "present",
        "champion": champion and ChampionEvidence(**champion.model_dump(), version="0123456789abcdef", labels=NAMES),
        "parity": {name: ParityEvidence(max_difference=1e-5, tolerance=1e-4, rows=64) for name in measured},
    }
    return Evidence(EvaluationRecord(**{**values, **(record or {})}), tables)
