"""One pipeline file of a task in which a row has any number of labels, from its data to a published version, a second
decision against it, and predictions by client and server.
"""

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
from retrainer.serve import Classifier
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.store import Store
from tests.label_sets.conftest import LABELS, TASK, rows
from tests.server.process import ServerProcess


def written(folder: Path, count: int) -> Path:
    """Rows with a column to slice by."""
    lines = [{"text": text, "labels": has, "source": "ab"[at % 2]} for at, (text, has) in enumerate(rows(count))]
    file = folder / "trails.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def pipeline(folder: Path, base: Path, data: Path, **training: Any) -> Pipeline:
    content: dict[str, Any] = {
        "name": "trails",
        "task": TASK,
        "dataset": {"train": str(data), "label": "labels", "labels": list(LABELS)},
        "model": {"base": str(base), "max_length": 32},
        "training": {"num_train_epochs": 6, "learning_rate": 5e-3, "per_device_train_batch_size": 16, **training},
        "metrics": ["f1_micro", "f1_macro", "subset_accuracy", "hamming_loss", "log_loss"],
        "export": {"precisions": ["fp32", "int8"]},
        "gate": {
            "floors": {"f1_micro": 0.1, "hamming_loss": 0.9},
            "against_champion": {"margin": 0.5},
            "baseline": "report",
            "max_harmful_flips": 0.9,
            "slices": {"by": ["label", "length", "source"], "min_rows": 5, "max_drop": 0.9},
            "budgets": {"p95_latency_ms": 60_000},
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
def test_it_is_trained_judged_published_and_judged_again(tiny_bert: Path, tmp_path: Path) -> None:
    data = written(tmp_path, 420)
    result, record, receipt = run(pipeline(tmp_path, tiny_bert, data), tmp_path)
    assert receipt.promoted, receipt.reasons
    challenger = record.challenger["fp32"]
    assert {"f1_micro", "f1_macro", "subset_accuracy", "hamming_loss", "log_loss", "ece"} <= set(challenger.metrics)
    assert challenger.thresholds is not None
    assert len(challenger.thresholds) == len(LABELS)
    assert record.baseline is not None
    assert record.baseline.thresholds == (0.5,) * len(LABELS)
    assert record.suspects is None
    assert "not looked for" in (record.suspects_error or "")
    evaluated = tmp_path / "artifacts" / "evaluate" / result.steps["evaluate"].digest
    table = pq.read_table(evaluated / challenger.predictions.file)
    assert {"row_id", "label", "prediction", "scores", "slice_source"} <= set(table.column_names)
    assert sorted(path.stem for path in evaluated.glob("*.png")) == ["labels", "reliability", "training_curve"]
    # Rows with none of the labels are rows like others.
    assert [] in table.column("label").to_pylist()

    # What is published is what was judged, and answers the same.
    model = Store.open(tmp_path / "store").model("trails")
    version = PUBLISH.output_of(result.steps["publish"]).version
    model.fetch(version, tmp_path / "fetched", ["README.md", "report.html"])
    card, page = ((tmp_path / "fetched" / name).read_text() for name in ("README.md", "report.html"))
    assert "Each label" in card
    assert "Each label" in page
    assert "Most confused labels" not in page
    with Classifier.from_store(
        tmp_path / "store", "trails", cache_dir=tmp_path / "cache", precision="fp32"
    ) as classifier:
        snapshot = tmp_path / "artifacts" / "ingest" / result.steps["ingest"].digest
        split = pq.read_table(snapshot / "test.parquet")
        texts = dict(zip(split.column("row_id").to_pylist(), split.column("text").to_pylist(), strict=True))
        asked = [texts[row_id] for row_id in table.column("row_id").to_pylist()[:20]]
        given = [sorted(LABELS.index(one["label"]) for one in answer) for answer in classifier(asked)]
        assert given == table.column("prediction").to_pylist()[:20]

    # A second one is held against it on the same rows.
    again_result, again, second = run(pipeline(tmp_path, tiny_bert, data, seed=1), tmp_path)
    assert again.champion is not None
    assert again.champion.thresholds == challenger.thresholds
    assert second.comparison is not None
    assert (second.comparison.metric, second.comparison.n) == ("f1_micro", again.rows)
    assert {one.metric for one in second.slices} == {"subset_accuracy"}
    assert [one.value for one in second.slices if one.by == "label"] == [*LABELS, "(none)"]
    assert second.flips is not None
    assert second.overturn is not None
    assert second.drift is not None
    assert {"label shares", "labels a row"} <= {one.measure for one in second.drift}
    report = tmp_path / "artifacts" / "decide" / again_result.steps["decide"].digest / "report.html"
    assert "Rows that flipped" in report.read_text()

    # And every receipt holds.
    for path in sorted((tmp_path / "artifacts" / "decide").glob("*/receipt.json")):
        answer = CliRunner().invoke(app, ["verify", str(path)])
        assert answer.exit_code == 0, answer.output
    store, root = str(tmp_path / "store"), ["--artifacts", str(tmp_path / "artifacts")]
    answer = CliRunner().invoke(app, ["replay", store, "trails", *root])
    assert answer.exit_code == 0, answer.output
    policy = tmp_path / "gate.yaml"
    policy.write_text("floors: {subset_accuracy: 0.0}\nagainst_champion: {metric: f1_macro, margin: 0.9}\n")
    answer = CliRunner().invoke(app, ["replay", store, "trails", *root, "--policy", str(policy)])
    assert answer.exit_code == 0, answer.output
    answer = CliRunner().invoke(app, ["decisions", store, "trails"])
    assert answer.exit_code == 0, answer.output
    assert "2 decisions" in answer.output
    answer = CliRunner().invoke(app, ["decisions", store, "trails", "--json"])
    assert {one["metric"] for one in json.loads(answer.output)} == {"f1_micro"}

    # The server gives those that apply.
    with Classifier.from_store(
        tmp_path / "store", "trails", cache_dir=tmp_path / "cache", precision="fp32"
    ) as classifier:
        expected = classifier(asked)
    server = ServerProcess(tmp_path, store, "trails", "--cache-dir", tmp_path / "cache", "--precision", "fp32")
    try:
        server.wait_until_ready()
        document = server.predict("trails", texts=asked).json()
        found = [[one["label"] for one in answer] for answer in document["predictions"]]
        assert found == [[one["label"] for one in answer] for answer in expected]
    finally:
        server.stop()
