"""Rows with any number of labels from their data to a bundle that serves them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.calibration import CalibrationReport
from retrainer.artifacts.parity import ParityReport
from retrainer.artifacts.profile import TrainingProfile
from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import INGEST, StepRef
from retrainer.errors import ExportError
from retrainer.serve import Classifier
from retrainer.serve.encoding import load_tokenizer
from retrainer.serve.golden import agreement, read_golden
from retrainer.serve.predictor import Predictor, load_info
from retrainer.work.export import parity
from retrainer.work.export.checkpoint import load_checkpoint, reference_logits
from retrainer.work.export.sample import choose, read_rows
from retrainer.work.snapshot_texts import label_matrix
from tests.label_sets.conftest import LABELS, MakePipeline
from tests.training.conftest import train_here


def test_a_snapshot_has_the_labels_of_each_row(exported: Path) -> None:
    statistics = SnapshotStatistics.load(exported / "ingest")
    assert statistics.labels == LABELS
    for split, part in statistics.splits.items():
        lists = pq.read_table(exported / "ingest" / f"{split}.parquet").column("label").to_pylist()
        assert all(found == sorted(set(found)) for found in lists)
        assert part.label_counts == {label: sum(at in found for found in lists) for at, label in enumerate(LABELS)}
        assert part.without_labels == lists.count([])
        assert part.labels_a_row == pytest.approx(np.mean([len(found) for found in lists]))


def test_the_training_learns_it_and_measures_it(exported: Path) -> None:
    record = TrainingRecord.load(exported / "train")
    assert {"loss", "f1_micro", "f1_macro", "subset_accuracy"} <= record.validation.keys()
    assert record.validation["f1_micro"] > 0.75


@pytest.mark.long
@pytest.mark.parametrize("some", [{"peft": {"r": 4}}, {"freeze_layers": 1}], ids=["lora", "frozen"])
def test_weights_go_with_training_only_some_of_it(
    some: dict[str, Any], exported: Path, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    training = {"class_weights": "balanced", "num_train_epochs": 1, "learning_rate": 1e-2, **some}
    pipeline = make_pipeline(exported.parent / "rows.jsonl", training=training)
    artifact = (exported / "ingest").resolve()
    snapshot = StepRef(step=INGEST.name, digest=artifact.name, root=str(artifact.parents[1]), reused=True, output={})
    checkpoint, _ = train_here(pipeline, snapshot, tmp_path / "train")
    record = TrainingRecord.load(tmp_path / "train")
    counts = SnapshotStatistics.load(exported / "ingest").splits["train"]
    expected = {label: (counts.rows - count) / count for label, count in counts.label_counts.items()}
    assert record.class_weights == pytest.approx(expected)
    config = json.loads((checkpoint / "config.json").read_bytes())
    assert config["problem_type"] == "multi_label_classification"
    assert np.isfinite(record.validation["loss"])


def test_the_profile_counts_labels_and_how_many_a_row_has(exported: Path, bundle: Path) -> None:
    profile = TrainingProfile.load(bundle)
    lists = pq.read_table(exported / "ingest" / "train.parquet").column("label").to_pylist()
    assert profile.set_sizes == tuple(sum(len(found) == size for found in lists) for size in range(len(LABELS) + 1))
    assert profile.label_counts == SnapshotStatistics.load(exported / "ingest").splits["train"].label_counts


def test_each_graph_has_a_threshold_for_each_label(exported: Path, bundle: Path) -> None:
    report, info = CalibrationReport.load(exported / "export"), load_info(bundle)
    assert info.precisions.keys() == report.graphs.keys() == {"fp32", "int8"}
    for precision, entry in info.precisions.items():
        fitted = report.graphs[precision].thresholds
        assert fitted is not None
        assert tuple(fitted) == LABELS
        assert entry.thresholds == tuple(one.threshold for one in fitted.values())
        assert all(one.why_not_fitted is None and one.f1 >= one.f1_at_half for one in fitted.values())


def test_labels_are_compared_with_the_checkpoint_at_the_fitted_thresholds(exported: Path, bundle: Path) -> None:
    rows = read_rows(exported / "ingest" / "validation.parquet")
    sample = choose(rows, load_tokenizer(bundle, None), max_length=32, count=parity.ROWS)
    checkpoint = load_checkpoint(exported / "train" / "checkpoint", LABELS, load_info(bundle).task)
    reference = reference_logits(checkpoint, sample.texts, 32)
    graphs = {name: parity.measure(bundle, name, sample, reference) for name in load_info(bundle).precisions}
    report = parity.compare_labels(bundle, sample, reference, graphs, exporter="transformers")
    assert report == ParityReport.load(exported / "export")
    predictor = graphs["fp32"].predictor
    thresholds = predictor.thresholds
    assert thresholds is not None
    label = next(at for at, threshold in enumerate(thresholds) if abs(threshold - 0.5) > 0.05)

    def compared(off: float) -> ParityReport:
        """Against a checkpoint whose probability of one label is off its threshold on one row, and not across 0.5."""
        moved = reference.copy()
        probability = thresholds[label] + off
        moved[0, label] = predictor.temperature * np.log(probability / (1 - probability))
        ours = moved.copy()
        probability = thresholds[label] - 1e-4
        ours[0, label] = predictor.temperature * np.log(probability / (1 - probability))
        graph = replace(graphs["fp32"], logits={1: ours})
        return parity.compare_labels(bundle, sample, moved, {"fp32": graph}, exporter="transformers")

    with pytest.raises(ExportError, match="gives other labels than the checkpoint: row"):
        compared(2e-3)
    within = compared(5e-4)
    assert within.label_agreement["fp32"] == pytest.approx(1 - 1 / len(sample.rows))
    assert within.ties >= 1


def test_a_bundle_answers_its_golden_rows_by_its_thresholds(bundle: Path) -> None:
    predictor = Predictor(bundle)
    golden = read_golden(bundle)
    assert agreement(predictor, golden).holds
    moved = golden[0].model_copy(update={"logits": {"fp32": tuple(-value for value in golden[0].logits["fp32"])}})
    assert agreement(predictor, [moved]).labels_changed == 1
    # What stood at its threshold when the bundle was made may apply here or not.
    logits = predictor.logits([golden[0].text], batch_size=1)
    predictor.thresholds = predictor.probabilities_of(logits - 1e-3)[0]
    near = golden[0].model_copy(update={"logits": {"fp32": tuple(map(float, logits[0] - 2e-3))}})
    assert agreement(predictor, [near]).labels_changed == 0


def test_the_client_gives_the_labels_that_apply(exported: Path, bundle: Path) -> None:
    test = pq.read_table(exported / "ingest" / "test.parquet")
    texts, truth = test.column("text").to_pylist(), label_matrix(test.column("label"), len(LABELS))
    with Classifier.from_folder(bundle, precision="fp32") as classify:
        given = classify(texts)
        sets = np.array([[label in {one["label"] for one in found} for label in LABELS] for found in given])
        assert (sets == truth).all(axis=1).mean() > 0.75
        assert [] in given
        predictor = Predictor(bundle)
        assert predictor.thresholds is not None
        np.testing.assert_array_equal(sets, predictor.probabilities(texts) >= predictor.thresholds)

        both = next(text for text, has in zip(texts, truth, strict=True) if has.sum() > 1)
        every = classify(both, top_k=None)
        assert sorted(one["label"] for one in every) == list(LABELS)
        assert [one["score"] for one in every] == sorted((one["score"] for one in every), reverse=True)
        assert classify(both) == [one for one in every if one["applies"]]
        assert classify([both], top_k=1) == every[:1]
        assert classify([both], top_k=2) == [every[:2]]
        assert classify.respond([both]).predictions == (every,)
        assert classify.respond([both], top_k="given").predictions == (classify(both),)


def test_other_runtimes_know_that_labels_go_by_themselves(bundle: Path) -> None:
    assert json.loads((bundle / "config.json").read_bytes())["problem_type"] == "multi_label_classification"
