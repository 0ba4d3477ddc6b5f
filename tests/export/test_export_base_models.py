"""One word in a pipeline switches the type of the base model: each trains, exports and answers as torch does.

With the tokenizer of its type, its template, token types and padding side; texts and pairs; both exporters; int8.
"""

from __future__ import annotations

import csv
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from retrainer.run.pipeline_run import new_context, run_pipeline
from retrainer.serve import Classifier
from retrainer.serve.encoding import load_tokenizer
from retrainer.serve.predictor import Predictor, load_info
from retrainer.serve.texts import Text
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.export import graph
from retrainer.work.export.bundle import export_bundle
from retrainer.work.export.sample import Row
from retrainer.work.reporter import Reporter
from retrainer.work.train.loading import load_base
from tests.base_models import BASE_MODELS, MAX_LENGTH, save_base_model, statuses

LABELS = ("closed", "open")
SINGLES: list[Text] = [text for text, _ in statuses(24, seed=77)]
PAIRS: list[Text] = list(zip(SINGLES, (text for text, _ in statuses(24, seed=78)), strict=True))  # type: ignore[arg-type]


def pipeline_of(base: Path, folder: Path, **changes: Any) -> Pipeline:
    content = {
        "name": "switch",
        "task": "text-pair-classification",
        "dataset": {"train": str(folder / "rows.csv"), "text": ["first", "second"]},
        "model": {"base": str(base), "max_length": MAX_LENGTH},
        "publish": {"store": str(folder / "store")},
    } | changes
    return parse_pipeline(content, where="test", base_folder=folder)


def in_torch(checkpoint: Path, texts: list[Text]) -> npt.NDArray[np.float32]:
    """What anybody gets who loads the checkpoint with transformers and pads the texts to one batch."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    columns = zip(*([text] if isinstance(text, str) else text for text in texts), strict=True)
    encoded = tokenizer(*map(list, columns), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    assert encoded["input_ids"].shape[1] == MAX_LENGTH, "no text is cut"
    read = inspect.signature(model.forward).parameters
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = model(**{k: v for k, v in encoded.items() if k in read}).logits.numpy()
    return logits


def check_served(bundle: Path, checkpoint: Path, base: Path) -> None:
    """Texts and pairs in one batch and one by one, with the tokens of the base model."""
    predictor = Predictor(bundle)
    tokenizer = AutoTokenizer.from_pretrained(base)
    served_tokens = load_tokenizer(bundle, MAX_LENGTH)
    for texts in (SINGLES, PAIRS):
        expected = in_torch(checkpoint, texts)
        for batch_size in (1, len(texts)):
            served = predictor.logits(texts, batch_size=batch_size)
            np.testing.assert_allclose(served, expected, atol=1e-4)
            assert served.argmax(axis=1).tolist() == expected.argmax(axis=1).tolist()
        assert np.ptp(expected, axis=0).min() > 1e-2, "all texts have one answer"
        for text in texts:
            parts = (text,) if isinstance(text, str) else text
            theirs = tokenizer(*parts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
            assert served_tokens.encode(*parts).ids == theirs


def export_untrained(kind: str, folder: Path) -> tuple[str, Path]:
    """The bundle of a base model with a new head, as a training would begin with it.

    :return: the exporter that made it, and the checkpoint.
    """
    base = save_base_model(folder / "base", kind)
    start = load_base(pipeline_of(base, folder), LABELS, Reporter(folder / "messages.jsonl"))
    start.model.save_pretrained(folder / "checkpoint")
    start.tokenizer.save_pretrained(folder / "checkpoint")
    rows = [Row(f"{at:016x}", text) for at, text in enumerate(PAIRS)]
    task = "text-pair-classification"
    report = export_bundle(
        folder / "checkpoint", rows, folder / "bundle", task=task, labels=LABELS, max_length=MAX_LENGTH
    )
    return report.exporter, folder / "checkpoint"


def _fails(*_: object) -> None:
    raise RuntimeError("a guard on a shape")


@pytest.mark.parametrize("kind", BASE_MODELS)
def test_what_is_served_is_what_torch_computes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's older exporter, which takes a tenth of the time: all around the graph is the same."""
    monkeypatch.setattr(graph, "_trace", _fails)
    exporter, checkpoint = export_untrained(kind, tmp_path)
    assert exporter == "torch-legacy"
    check_served(tmp_path / "bundle", checkpoint, tmp_path / "base")
    # XLNet reads the last place of a row.
    assert load_info(tmp_path / "bundle").padding_side == ("left" if kind == "xlnet" else "right")


# Those whose graphs have least in common.
QUICK = ("xlnet", "deberta-v3", "modernbert")


@pytest.mark.parametrize(
    "kind", [*QUICK, *(pytest.param(kind, marks=pytest.mark.long) for kind in BASE_MODELS if kind not in QUICK)]
)
def test_the_exporter_that_is_tried_first_serves_the_same(kind: str, tmp_path: Path) -> None:
    exporter, checkpoint = export_untrained(kind, tmp_path)
    assert exporter == "transformers"
    check_served(tmp_path / "bundle", checkpoint, tmp_path / "base")


@pytest.mark.long
@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
@pytest.mark.parametrize("kind", BASE_MODELS)
def test_the_whole_chain(kind: str, pairs: bool, tmp_path: Path) -> None:
    """Data to store and back, where nothing of the pipeline but ``model.base`` is of the type."""
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["first", "second", "label"])
        for (first, label), (second, _) in zip(statuses(300), statuses(300, seed=9), strict=True):
            writer.writerow([first, second, label])
    base = save_base_model(tmp_path / "base", kind)
    pipeline = pipeline_of(
        base,
        tmp_path,
        task="text-pair-classification" if pairs else "text-classification",
        dataset={"train": str(tmp_path / "rows.csv"), "text": ["first", "second"] if pairs else "first"},
        training={"max_steps": 4, "learning_rate": 1e-3},
        gate={"floors": {"accuracy": 0.0}, "baseline": "report"},
        export={"precisions": ["fp32", "int8"]},
        publish={"store": str(tmp_path / "store"), "include_checkpoint": True},
    )
    run_pipeline(pipeline, context=new_context(str(tmp_path / "artifacts"), actor="tester"))
    texts = PAIRS if pairs else SINGLES
    with Classifier.from_store(
        tmp_path / "store", "switch", precision="fp32", cache_dir=tmp_path / "cache"
    ) as classifier:
        answers: Any = classifier(list[Any](texts))
        version = next((tmp_path / "cache").rglob("bundle.json")).parent
    checkpoint = next((tmp_path / "store").rglob("checkpoint/config.json")).parent
    expected = in_torch(checkpoint, texts)
    np.testing.assert_allclose(Predictor(version).logits(texts), expected, atol=1e-4)
    assert [answer["label"] for answer in answers] == [LABELS[at] for at in expected.argmax(axis=1)]
    # The gate holds int8 back where a random model's labels change; what was exported answers all the same.
    exported = next((tmp_path / "artifacts" / "export").glob("*/bundle"))
    int8 = Predictor(exported, precision="int8").logits(texts)
    assert np.mean(int8.argmax(axis=1) == expected.argmax(axis=1)) > 0.7
