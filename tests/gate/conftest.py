"""Evidence made to order: the tests of the gate say which rows each model gets right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

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
from retrainer.gate.evidence import Evidence
from retrainer.gate.metrics import METRICS
from retrainer.gate.tables import Table

Ints = NDArray[np.int64]


class EvidenceMaker:
    """Builds consistent evidence from true labels and each model's predictions."""

    def scores(self, predictions: Ints, n_labels: int, confidence: float = 0.9) -> NDArray[np.float64]:
        scores = np.full((predictions.size, n_labels), (1 - confidence) / (n_labels - 1))
        known = predictions >= 0
        scores[known, predictions[known]] = confidence
        scores[~known] = 1 / (n_labels + 1)
        return scores

    def metrics(
        self,
        labels: Ints,
        scores: NDArray[np.float64],
        predictions: Ints,
        measured: tuple[str, ...] = ("accuracy", "f1"),
        positive: int = 1,
    ) -> dict[str, float | None]:
        values = {name: METRICS[name].compute(labels, scores, predictions, positive=positive) for name in measured}
        return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}

    def __call__(
        self,
        labels: Ints,
        predictions: Mapping[str, Ints],
        *,
        names: tuple[str, ...] | None = None,
        characters: Ints | None = None,
        slices: Mapping[str, NDArray[Any]] | None = None,
        patterns: Mapping[str, NDArray[np.bool_]] | None = None,
        latency: Mapping[str, float] | None = None,
        measured: tuple[str, ...] = ("accuracy", "f1"),
        **changes: Any,
    ) -> Evidence:
        """:param predictions: ``fp32``, and perhaps ``int8``, ``champion`` and ``baseline``, to label indices."""
        n = labels.size
        names = names or tuple(f"label {index}" for index in range(int(labels.max(initial=1)) + 1))
        row_ids = np.array([f"{index:016x}" for index in range(n)])
        found = np.stack(list(patterns.values()), axis=1) if patterns else None
        positive = names.index(changes["positive_label"]) if changes.get("positive_label") else 1
        tables, models = {}, {}
        for model, predicted in predictions.items():
            scores = self.scores(predicted, len(names))
            tables[model] = Table(
                row_ids,
                labels,
                predicted,
                scores,
                characters,
                dict(slices or {}),
                sha256=f"{model:0>64}",
                patterns=found,
            )
            models[model] = ModelEvidence(
                metrics=self.metrics(labels, scores, predicted, measured, positive),
                latency_ms=Latency(p50=(latency or {}).get(model, 10.0), p95=20.0),
                rows_per_second=100.0,
                size_mb=90.0 if model != "int8" else 25.0,
                peak_memory_mb=200.0,
                predictions=PredictionsFile(file=f"predictions/{model}.parquet", sha256=f"{model:0>64}"),
            )
        champion = models.pop(CHAMPION, None)
        baseline = models.pop(BASELINE, None)
        values: dict[str, Any] = {
            "model": "news",
            "task": "text-classification",
            "labels": names,
            "digests": {step: step[0] * 64 for step in ("ingest", "train", "export", "evaluate")},
            "rows": n,
            "challenger": models,
            "baseline": baseline,
            "patterns": tuple(patterns or ()),
            "champion_state": "none" if champion is None else "present",
            "champion": None
            if champion is None
            else ChampionEvidence(**champion.model_dump(), version="0123456789abcdef", labels=names),
            "parity": {
                "fp32": ParityEvidence(max_difference=1e-5, tolerance=1e-4, rows=256),
                **({"int8": ParityEvidence(max_difference=0.3, tolerance=None, rows=256)} if "int8" in models else {}),
            },
        }
        return Evidence(EvaluationRecord(**{**values, **changes}), tables)

    def pair(
        self,
        n: int = 1000,
        *,
        better: int = 0,
        worse: int = 0,
        both_wrong: int = 50,
        n_labels: int = 3,
        int8: bool = False,
        baseline_wrong: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Evidence:
        """Challenger and champion with exactly so many rows that only one of them gets right.

        :param baseline_wrong: rows that a baseline gets wrong; no baseline when ``None``.
        """
        random = np.random.default_rng(seed)
        labels = random.permutation(np.arange(n) % n_labels)
        order = random.permutation(n)
        challenger, champion = labels.copy(), labels.copy()
        wrong = (labels + 1) % n_labels
        only_challenger = order[:better]
        only_champion = order[better : better + worse]
        neither = order[better + worse : better + worse + both_wrong]
        champion[only_challenger] = wrong[only_challenger]
        challenger[only_champion] = wrong[only_champion]
        champion[neither] = challenger[neither] = wrong[neither]
        predictions = {"fp32": challenger, "champion": champion}
        if int8:
            predictions["int8"] = challenger.copy()
        if baseline_wrong is not None:
            baseline = labels.copy()
            baseline[order[n - baseline_wrong :]] = wrong[order[n - baseline_wrong :]]
            predictions["baseline"] = baseline
        return self(labels, predictions, **more)


@pytest.fixture(scope="session")
def make() -> EvidenceMaker:
    return EvidenceMaker()
