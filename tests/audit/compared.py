"""Evaluate artifacts made to order, for comparing what two models answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrainer.artifacts.evaluation import (
    CHAMPION,
    ChampionEvidence,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    PredictionsFile,
)
from retrainer.artifacts.repository import Artifacts
from retrainer.audit.compared import Side
from retrainer.precisions import REFERENCE
from retrainer.records import digest_of, sha256_file

METRICS = {
    "text-classification": ("accuracy", "f1"),
    "multi-label-classification": ("subset_accuracy", "f1_micro"),
    "text2text-generation": ("chrf", "exact_match"),
}


def evaluation(
    artifacts: Artifacts,
    name: str,
    labels: Sequence[str],
    columns: Mapping[str, Any],
    *,
    task: str = "text-classification",
    metrics: Sequence[str] | None = None,
    at: str = "2026-01-01T00:00:00+00:00",
    champion: tuple[str, Mapping[str, Any]] | None = None,
    **record: Any,
) -> Side:
    """An evaluation of one challenger, committed; and the challenger.

    :param columns: of its predictions.
    :param champion: its version, and its predictions.
    """
    digest = digest_of({"evaluation": name})
    thresholds = (0.5,) * len(labels) if task == "multi-label-classification" else None
    with artifacts.staging("evaluate", digest) as staging:
        (staging / "predictions").mkdir()

        def measured(role: str, table: Mapping[str, Any]) -> dict[str, Any]:
            path = staging / "predictions" / f"{role}.parquet"
            pq.write_table(pa.table(dict(table)), path)
            file = PredictionsFile(file=f"predictions/{role}.parquet", sha256=sha256_file(path))
            return {
                "metrics": dict.fromkeys(metrics or METRICS[task]),
                "predictions": file,
                "thresholds": thresholds,
            }

        asked = None
        if champion is not None:
            asked = ChampionEvidence(version=champion[0], labels=tuple(labels), **measured(CHAMPION, champion[1]))
        EvaluationRecord.model_validate(
            {
                "model": "news",
                "task": task,
                "labels": tuple(labels),
                "digests": {"evaluate": digest},
                "rows": len(columns["row_id"]),
                "challenger": {REFERENCE: ModelEvidence(**measured(REFERENCE, columns))},
                "champion_state": "none" if asked is None else "present",
                "champion": asked,
                "parity": {REFERENCE: ParityEvidence(max_difference=1e-6, tolerance=1e-4, rows=8)},
                **record,
            }
        ).save(staging)
        identity = {"evaluation": name}
        artifacts.commit(
            staging, step="evaluate", digest=digest, identity=identity, inputs={}, output={}, created_at=at
        )
    return side(name, labels, evaluate=digest, export=digest_of({"export": name}), task=task)


def side(name: str, labels: Sequence[str], *, task: str = "text-classification", **artifacts: str) -> Side:
    """A published model."""
    return Side(name=name, published=True, task=task, labels=tuple(labels), artifacts=artifacts, made={})


def labelled(rows: Sequence[int], truth: Sequence[int], said: Sequence[int], labels: int) -> dict[str, Any]:
    """Predictions of one label a row.

    :param said: -1 for a label that is not among these.
    """
    sure = [[0.9 if at == given else 0.1 / max(labels - 1, 1) for at in range(labels)] for given in said]
    scores = [row if given >= 0 else [0.2 / labels] * labels for row, given in zip(sure, said, strict=True)]
    return {
        "row_id": [f"{row:016x}" for row in rows],
        "label": pa.array(truth, pa.int64()),
        "prediction": pa.array(said, pa.int64()),
        "scores": pa.array(scores, pa.list_(pa.float64())),
        "characters": pa.array([10 + row % 90 for row in rows], pa.int64()),
    }


def with_sets(rows: Sequence[int], truth: Sequence[Sequence[int]], said: Sequence[Sequence[int]], labels: int) -> Any:
    """Predictions of any number of labels a row."""
    ints = pa.list_(pa.int64())
    return {
        "row_id": [f"{row:016x}" for row in rows],
        "label": pa.array(truth, ints),
        "prediction": pa.array(said, ints),
        "scores": pa.array([[0.8 if at in given else 0.2 for at in range(labels)] for given in said]),
    }


def written(rows: Sequence[int], right: Sequence[bool], target: str = "target") -> dict[str, Any]:
    """Predictions that are text: those that are wrong are half right."""
    return {
        "row_id": [f"{row:016x}" for row in rows],
        "target": [[f"{target} {row}"] for row in rows],
        "prediction": [f"{target} {row}" if hit else f"tar {row}" for row, hit in zip(rows, right, strict=True)],
        "score_chrf": [1.0 if hit else 0.5 for hit in right],
        "score_exact_match": [float(hit) for hit in right],
    }
