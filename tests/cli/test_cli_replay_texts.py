"""Receipts of models that write text: verified from their file, and whole histories replayed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from benchmarks.nights import MODEL, Nights
from retrainer.artifacts.evaluation import ModelEvidence, PredictionsFile
from retrainer.artifacts.measures import Latency
from retrainer.cli import app
from retrainer.gate.receipt import Receipt
from retrainer.records import sha256_file

ROWS = 400
DOES_NOT_HOLD = 4
GATE: dict[str, Any] = {"floors": {"chrf": 0.4}, "against_champion": {"metric": "chrf", "margin": 0.05}}


class TextNights(Nights):
    """The same of models that write text: rows that are wrong are half right."""

    task = "text2text-generation"
    names = ()
    metrics = ("chrf", "exact_match")
    asked_besides = ()

    def _answers(self, folder: Path, role: str, export: str, rows: NDArray[np.int64]) -> ModelEvidence:
        right = ~np.isin(rows, self._wrong[export])
        scores = {"chrf": np.where(right, 1.0, 0.5), "exact_match": right.astype(np.float64)}
        path = folder / "predictions" / f"{role}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = pa.table(
            {
                "row_id": [f"{row:016x}" for row in rows.tolist()],
                "target": [[f"target {row}"] for row in rows.tolist()],
                "prediction": [f"target {row}" if hit else "?" for row, hit in zip(rows, right, strict=True)],
                **{f"score_{name}": values for name, values in scores.items()},
                "characters": np.full(rows.size, 20),
            }
        )
        pq.write_table(table, path, compression="zstd")
        return ModelEvidence(
            metrics={name: float(values.mean()) for name, values in scores.items()},
            latency_ms=Latency(p50=10.0, p95=12.0),
            size_mb=90.0,
            predictions=PredictionsFile(file=f"predictions/{role}.parquet", sha256=sha256_file(path)),
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextNights, list[Receipt]]:
    """A history of promotions and refusals, with an anchor that is not the champion."""
    nights = TextNights(tmp_path_factory.mktemp("texts"), ROWS, GATE)
    random = np.random.default_rng(0)
    counts = {"a": 100, "b": 108, "c": 250, "d": 30}
    return nights, [nights.night(name, random.permutation(ROWS)[:count]) for name, count in counts.items()]


def called(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def replayed(nights: TextNights, *options: object) -> Any:
    answer = called("replay", nights.store, MODEL, "--artifacts", nights.root, "--json", *options)
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return json.loads(answer.stdout)


def test_the_same_policy_gives_the_same_bytes(made: tuple[TextNights, list[Receipt]]) -> None:
    nights, receipts = made
    assert {receipt.verdict for receipt in receipts} == {"promote", "refuse"}
    assert all(receipt.labels == () for receipt in receipts)
    assert any(receipt.anchor is not None for receipt in receipts)
    said = replayed(nights)
    assert [night["equal"] for night in said["decisions"]] == [True] * len(receipts)


def test_another_policy_decides_by_another_metric_of_the_stored_scores(
    made: tuple[TextNights, list[Receipt]], tmp_path: Path
) -> None:
    nights, _ = made
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"against_champion": {"metric": "exact_match", "mode": "superiority"}}))
    said = replayed(nights, "--policy", policy)
    assert said["metric"] == "exact_match"
    assert [night["replayed"] for night in said["decisions"]] == ["promote", "refuse", "refuse", "promote"]
    assert said["mean_difference"] is not None
    # A gate by itself is for what the history's models answer with.
    policy.write_text(json.dumps({"against_champion": {"margin": 0.06}}))
    assert replayed(nights, "--policy", policy)["metric"] == "chrf"
    policy.write_text(json.dumps({"against_champion": {"metric": "f1"}}))
    answer = called("replay", nights.store, MODEL, "--artifacts", nights.root, "--policy", policy)
    assert "f1 does not judge what a text-to-text model answers" in str(answer.exception)


def test_a_receipt_is_verified_and_forged_scores_are_found(
    made: tuple[TextNights, list[Receipt]], tmp_path: Path
) -> None:
    nights, _ = made
    decisions = sorted((Path(nights.root) / "decide").iterdir())
    receipt = decisions[0] / "receipt.json"
    answer = called("verify", receipt)
    assert answer.exit_code == 0, answer.output
    record = json.loads(receipt.read_text())
    evaluated = Path(nights.root) / "evaluate" / record["digests"]["evaluate"]
    file = (
        evaluated / json.loads((evaluated / "evaluation.json").read_text())["challenger"]["fp32"]["predictions"]["file"]
    )
    before = file.read_bytes()
    table = pq.read_table(file)
    better = pa.array(np.ones(table.num_rows))
    pq.write_table(table.set_column(table.schema.get_field_index("score_chrf"), "score_chrf", better), file)
    try:
        assert called("verify", receipt).exit_code == DOES_NOT_HOLD
    finally:
        file.write_bytes(before)
