"""The architectures that a pipeline may name: each exports, and answers as its checkpoint and as transformers do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from retrainer.artifacts.parity import ParityReport
from retrainer.errors import ExportError
from retrainer.serve import Classifier
from retrainer.serve.predictor import Predictor
from retrainer.work.export import graph
from retrainer.work.export.bundle import export_bundle
from tests.export import tiny


def export(
    checkpoint: Path, folder: Path, *, pairs: bool = False, precisions: tuple[str, ...] = ("fp32",)
) -> ParityReport:
    return export_bundle(
        checkpoint,
        tiny.rows(40, pairs=pairs),
        folder,
        task="text-pair-classification" if pairs else "text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
        precisions=precisions,
    )


@pytest.mark.parametrize("architecture", ["distilbert", "electra"])
def test_agrees_with_the_pipeline_of_transformers(architecture: str, tmp_path: Path) -> None:
    checkpoint = tiny.save_checkpoint(tmp_path / "checkpoint", architecture)
    report = export(checkpoint, tmp_path / "bundle", precisions=("fp32", "int8"))
    assert report.max_difference["fp32"] <= 1e-4
    theirs = pipeline("text-classification", model=str(checkpoint), tokenizer=str(checkpoint), device="cpu")
    texts = [str(row.text) for row in tiny.rows(12)]
    expected = theirs(texts, top_k=None, truncation=True, max_length=tiny.MAX_LENGTH)
    answers = Classifier.from_folder(tmp_path / "bundle", precision="fp32")(texts, top_k=None)
    for ours, other in zip(answers, expected, strict=True):
        assert isinstance(ours, list)
        assert [item["label"] for item in ours] == [item["label"] for item in other]
        assert [item["score"] for item in ours] == pytest.approx([item["score"] for item in other], abs=1e-5)


def test_pairs_are_cut_and_typed_as_transformers_does(tmp_path: Path) -> None:
    checkpoint = tiny.save_checkpoint(tmp_path / "checkpoint", "bert")
    report = export(checkpoint, tmp_path / "bundle", pairs=True)
    assert report.truncated_rows > 0
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    pairs = [row.text for row in tiny.rows(12, pairs=True)]
    encoded = tokenizer(
        [pair[0] for pair in pairs],
        [pair[1] for pair in pairs],
        padding=True,
        truncation=True,
        max_length=tiny.MAX_LENGTH,
        return_tensors="pt",
    )
    with torch.inference_mode():
        expected = model(**encoded).logits.numpy()
    np.testing.assert_allclose(Predictor(tmp_path / "bundle").logits(pairs), expected, atol=1e-5)


def _fails(*_: object) -> None:
    raise RuntimeError("a guard on a shape")


def test_the_older_exporter_stands_in_and_is_checked_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_trace", _fails)
    checkpoint = tiny.save_checkpoint(tmp_path / "checkpoint", "bert")
    report = export(checkpoint, tmp_path / "bundle", precisions=("fp32", "int8"))
    assert report.exporter == "torch-legacy"
    assert report.max_difference["fp32"] <= 1e-4


def test_an_architecture_that_nothing_can_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "_trace", _fails)
    monkeypatch.setattr(graph, "_trace_legacy", _fails)
    checkpoint = tiny.save_checkpoint(tmp_path / "checkpoint", "bert")
    with pytest.raises(ExportError, match="type 'bert' cannot be traced: a guard on a shape"):
        export(checkpoint, tmp_path / "bundle")
