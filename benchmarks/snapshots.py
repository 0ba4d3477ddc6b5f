"""Snapshots and trainings made to order, as ingest and train leave them but for the training rows and the weights: for
looking at the pages that show them. Used by ``benchmarks.deployment``.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import (
    QUARANTINE,
    Characters,
    QuarantineReason,
    SnapshotStatistics,
    SourceStatistics,
    SplitName,
    SplitStatistics,
    split_file,
)
from retrainer.artifacts.training import CutRows, TrainingRecord
from retrainer.chain import INGEST
from retrainer.chain.steps.ingest import Ingested
from retrainer.chain.steps.train import TRAIN, Trained
from retrainer.records import digest_of

_SUBJECTS = ("The council", "A late goal", "Heavy rain", "The striker", "Talks in Geneva", "A coach", "The ministry")
_VERBS = ("delays", "surprises", "worries", "delights", "divides", "unites")
_OBJECTS = ("the league before the final", "voters in three regions", "thousands of travellers", "the whole stadium")


def text_of(row: int) -> str:
    """Of a row, always the same."""
    digest = hashlib.sha256(str(row).encode()).digest()
    words = (_SUBJECTS[digest[0] % 7], _VERBS[digest[1] % 6], _OBJECTS[digest[2] % 4])
    return f"{' '.join(words)}, report no. {row}"


def write_origin(
    artifacts: Artifacts, model: str, number: int, names: tuple[str, ...], test_labels: Any, at: datetime
) -> dict[str, str]:
    """What a challenger was made of: step to the digest of its artifact.

    :param number: of the night: data grows, its labels shift, and from the fourth on the learning rate is another.
    :param test_labels: of the test rows, ``[n]``.
    """
    ingest = _ingest(artifacts, model, number, names, test_labels, at)
    return {"ingest": ingest, "train": _train(artifacts, ingest, number, at)}


def _ingest(
    artifacts: Artifacts, model: str, number: int, names: tuple[str, ...], test_labels: Any, at: datetime
) -> str:
    identity = INGEST.identity({"task": "text-classification", "sources": {"train": f"{model}, night {number}"}})
    digest = digest_of(identity)
    test = np.bincount(test_labels, minlength=len(names))
    # Every night a little more of the second label.
    share = min(0.34 + 0.025 * number, 0.7)
    rows = 6000 + 420 * number
    of_second = round(rows * share)
    splits: dict[SplitName, SplitStatistics] = {
        "train": _split(names, [rows - of_second, of_second], 96),
        "validation": _split(names, [700 - round(700 * share), round(700 * share)], 94),
        "test": _split(names, test.tolist(), 95),
    }
    quarantined: dict[QuarantineReason, int] = {
        "missing_text": 3 + number % 4,
        "conflicting_labels": 2 * (1 + number % 5),
        "also_in_test": 5,
        "nearly_in_test": 7 + number,
    }
    kept = sum(split.rows for split in splits.values())
    duplicates = 40 + 9 * number
    source_rows = kept + sum(quarantined.values()) + duplicates
    statistics = SnapshotStatistics(
        labels=names,
        splits=splits,
        source_rows=source_rows,
        duplicates=duplicates,
        conflicts=1 + number % 5,
        leakage={"train_in_test": 5},
        near_leakage={"train_in_test": 7 + number},
        quarantined=quarantined,
        sources=(
            SourceStatistics(split="train", name="articles.csv", format="csv", rows=source_rows - 300, size=1_900_000),
            SourceStatistics(split="train", name="corrections/2026.jsonl", format="jsonl", rows=300, size=41_000),
        ),
        spellings={names[1]: {names[1]: of_second - 12, f" {names[1].upper()}": 12}},
    )
    with artifacts.staging("ingest", digest) as staging:
        _write_test(split_file(staging, "test"), test_labels)
        _write_quarantine(staging / QUARANTINE, quarantined, names)
        statistics.save(staging)
        output = Ingested.of(statistics).model_dump(mode="json")
        artifacts.commit(
            staging,
            step="ingest",
            digest=digest,
            identity=identity,
            inputs={},
            output=output,
            created_at=at.isoformat(timespec="seconds"),
        )
    return digest


def _split(names: tuple[str, ...], counts: list[int], characters: int) -> SplitStatistics:
    return SplitStatistics(
        rows=sum(counts),
        label_counts=dict(zip(names, counts, strict=True)),
        characters=Characters(p50=characters, p95=3 * characters, max=40 * characters),
    )


def _write_test(file: Path, labels: Any) -> None:
    numbers = range(len(labels))
    texts = [text_of(row) for row in numbers]
    pq.write_table(pa.table({"row_id": [f"{row:016x}" for row in numbers], "text": texts, "label": labels}), file)


def _write_quarantine(file: Path, counts: dict[QuarantineReason, int], names: tuple[str, ...]) -> None:
    reasons = [reason for reason, count in counts.items() for _ in range(count)]
    texts = [None if reason == "missing_text" else text_of(9000 + at) for at, reason in enumerate(reasons)]
    columns = {
        "source": ["train/articles.csv"] * len(reasons),
        "row": list(range(17, 17 + 31 * len(reasons), 31)),
        "reason": reasons,
        "text": pa.array(texts, pa.large_string()),
        "text_pair": pa.nulls(len(reasons), pa.large_string()),
        "label": [names[at % len(names)] for at in range(len(reasons))],
    }
    pq.write_table(pa.table(columns), file)


def _train(artifacts: Artifacts, ingest: str, number: int, at: datetime) -> str:
    arguments = {
        "num_train_epochs": 3.0,
        "learning_rate": 5e-5 if number < 3 else 3e-5,
        "per_device_train_batch_size": 16 if number < 2 else 32,
        "warmup_ratio": 0.1,
        "seed": 42,
    }
    identity = TRAIN.identity(
        {
            "snapshot": ingest,
            "task": "text-classification",
            "base": "abc",
            "base_name": "minilm",
            "max_length": 128,
            "training": arguments,
            "metrics": ["accuracy"],
            "processes": 1,
            "gpus": 1,
        }
    )
    digest = digest_of(identity)
    record = TrainingRecord(
        base_model="minilm",
        base_fingerprint=str(identity["base"]),
        device="cuda:0",
        processes=1,
        epochs=3.0,
        steps=1200,
        best_step=1000,
        seconds=181.0,
        rows_per_second=104.0,
        padding_fraction=0.12,
        resumed_from=None,
        validation={"accuracy": 0.92},
        curve=(),
        parameters=66_955_010,
        cut={"train": CutRows(inputs=31 + number, outputs=0), "validation": CutRows(inputs=4, outputs=0)},
    )
    with artifacts.staging("train", digest) as staging:
        record.save(staging)
        artifacts.commit(
            staging,
            step="train",
            digest=digest,
            identity=identity,
            inputs={"ingest": ingest},
            output=Trained.of(record).model_dump(mode="json"),
            created_at=at.isoformat(timespec="seconds"),
        )
    return digest
