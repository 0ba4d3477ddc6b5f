"""One pipeline file of a task that writes text, from its data to a published version and a second decision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from retrainer.artifacts.evaluation import EvaluationRecord
from retrainer.chain import PUBLISH
from retrainer.cli import app
from retrainer.gate.receipt import Receipt
from retrainer.run.pipeline_run import RunResult, new_context, run_pipeline
from retrainer.serve import Generator
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.store import Store
from tests.generation import tiny
from tests.generation.conftest import TASKS_THAT_WRITE

ROWS = 260


def written(folder: Path, count: int) -> Path:
    """Rows with a column to slice by, and some inputs with a second right answer."""
    rows = [
        {"model_input": text, "model_output": output, "source": "ab"[at % 2]}
        for at, (text, output) in enumerate(tiny.rows(count))
    ]
    also = [{**row, "model_output": row["model_output"] + " here"} for row in rows[::20]]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *also]))
    return file


def pipeline(folder: Path, task: str, base: Path, rows: Path, **training: Any) -> Pipeline:
    content: dict[str, Any] = {
        "name": "writer",
        "task": task,
        "dataset": {"train": str(rows), "checks": {"near_duplicate_similarity": 0.9}},
        "model": {"base": str(base), "max_length": 8, "max_new_tokens": 6},
        "training": {"num_train_epochs": 8, "learning_rate": 1e-2, "per_device_train_batch_size": 16, **training},
        "metrics": ["chrf", "exact_match", "rouge_l"],
        "export": {"precisions": ["fp32", "int8"]},
        "gate": {
            "floors": {"chrf": 0.0},
            "against_champion": {"margin": 0.4},
            "max_harmful_flips": 0.9,
            "slices": {"by": ["length", "source"], "min_rows": 5, "patterns": ["red"]},
            "budgets": {"p95_latency_ms": 60_000, "max_size_ratio": 3.0},
        },
        "publish": {"store": str(folder / "store")},
    }
    return parse_pipeline(content, where="test", base_folder=folder)


def run(one: Pipeline, folder: Path) -> tuple[RunResult, EvaluationRecord, Receipt]:
    result = run_pipeline(one, context=new_context(str(folder / "artifacts")))
    evaluated, decided = (folder / "artifacts" / step / result.steps[step].digest for step in ("evaluate", "decide"))
    receipt = Receipt.from_json((decided / "receipt.json").read_bytes(), where="here")
    return result, EvaluationRecord.load(evaluated), receipt


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS_THAT_WRITE)
def test_it_is_trained_judged_published_and_judged_again(task: str, bases: dict[str, Path], tmp_path: Path) -> None:
    rows = written(tmp_path, ROWS)
    result, record, receipt = run(pipeline(tmp_path, task, bases[task], rows), tmp_path)
    assert receipt.promoted, receipt.reasons
    assert (record.labels, record.baseline, record.suspects) == ((), None, None)
    assert set(record.challenger["fp32"].metrics) == {"chrf", "exact_match", "rouge_l"}
    assert record.challenger["fp32"].latency_ms is not None
    evaluated = tmp_path / "artifacts" / "evaluate" / result.steps["evaluate"].digest
    table = pq.read_table(evaluated / record.challenger["fp32"].predictions.file)
    assert {"row_id", "target", "prediction", "score_chrf", "slice_source", "pattern_0"} <= set(table.column_names)
    assert max(map(len, table.column("target").to_pylist())) == 2
    assert sorted(path.name for path in evaluated.glob("*.png")) == ["training_curve.png"]

    # What is published is what was judged, and answers the same.
    model = Store.open(tmp_path / "store").model("writer")
    version = PUBLISH.output_of(result.steps["publish"]).version
    manifest = model.manifest(version)
    assert manifest.labels == ()
    assert set(manifest.metrics) == {"chrf", "exact_match", "rouge_l"}
    model.fetch(version, tmp_path / "fetched", ["README.md", "report.html"])
    card, page = ((tmp_path / "fetched" / name).read_text() for name in ("README.md", "report.html"))
    assert "from retrainer.serve import Generator" in card
    assert "What it writes" in page
    with Generator.from_store(
        tmp_path / "store", "writer", cache_dir=tmp_path / "cache", precision="fp32"
    ) as generator:
        snapshot = tmp_path / "artifacts" / "ingest" / result.steps["ingest"].digest
        split = pq.read_table(snapshot / "test.parquet")
        texts = dict(zip(split.column("row_id").to_pylist(), split.column("text").to_pylist(), strict=True))
        asked = [texts[row_id] for row_id in table.column("row_id").to_pylist()[:10]]
        assert generator(asked) == table.column("prediction").to_pylist()[:10]

    # A second one is held against it on the same rows, and its receipt holds.
    _, again, second = run(pipeline(tmp_path, task, bases[task], rows, seed=1), tmp_path)
    assert again.champion is not None
    assert second.comparison is not None
    assert (second.comparison.metric, second.comparison.n) == ("chrf", record.rows)
    assert {one.metric for one in second.slices} == {"chrf"}
    assert {one.by for one in second.slices} == {"length", "source", "pattern"}
    assert second.flips is not None
    decided = sorted((tmp_path / "artifacts" / "decide").glob("*/receipt.json"))
    for path in decided:
        answer = CliRunner().invoke(app, ["verify", str(path)])
        assert answer.exit_code == 0, answer.output
    answer = CliRunner().invoke(
        app, ["replay", str(tmp_path / "store"), "writer", "--artifacts", str(tmp_path / "artifacts")]
    )
    assert answer.exit_code == 0, answer.output
