"""Temperature scaling: it makes an over-confident model honest on rows it has not seen, and never runs off."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.artifacts.calibration import CalibrationReport
from retrainer.errors import DataError
from retrainer.gate.metrics import METRICS
from retrainer.serve import Classifier
from retrainer.serve.golden import agreement, read_golden
from retrainer.serve.predictor import Predictor, load_info, softmax
from retrainer.work.export.bundle import export_bundle
from retrainer.work.export.calibrate import (
    BOUNDS,
    DECIMALS,
    FEWEST_ROWS,
    _choose,
    _log_loss,
    calibrate,
    fit_temperature,
)
from retrainer.work.export.sample import Row
from tests.export import tiny
from tests.export.bundles import Exported


def drawn(
    rows: int, labels: int, *, sharpness: float, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Logits that are too large by a factor: the labels are drawn from them as they were before."""
    source = np.random.default_rng(seed)
    honest = source.normal(scale=1.5, size=(rows, labels)).astype(np.float32)
    cumulated = softmax(honest).cumsum(axis=1)
    answers = (source.random((rows, 1)) > cumulated).sum(axis=1).clip(max=labels - 1).astype(np.int64)
    return honest * np.float32(sharpness), answers


def metric(name: str, labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> float:
    return float(METRICS[name].compute(labels, probabilities, probabilities.argmax(axis=1)))


@settings(max_examples=25, deadline=None)
@given(sharpness=st.floats(0.4, 6.0), labels=st.integers(2, 8), seed=st.integers(0, 2**16))
def test_finds_by_how_much_the_logits_are_too_large(sharpness: float, labels: int, seed: int) -> None:
    logits, answers = drawn(4000, labels, sharpness=sharpness, seed=seed)
    fit = fit_temperature(logits, answers)
    assert fit.why_not is None
    assert fit.temperature == pytest.approx(sharpness, rel=0.15)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 120),
    labels=st.integers(2, 4),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 2**16),
)
def test_is_always_a_number_within_the_bounds_and_never_does_harm(
    rows: int, labels: int, scale: float, seed: int
) -> None:
    source = np.random.default_rng(seed)
    logits = (source.normal(size=(rows, labels)) * scale).astype(np.float32)
    answers = source.integers(0, labels, rows)
    fit = fit_temperature(logits, answers)
    if fit.why_not is not None:
        assert fit.temperature == 1.0
    else:
        assert BOUNDS[0] < fit.temperature < BOUNDS[1]
        before, after = (_log_loss(logits, answers, value) for value in (1.0, fit.temperature))
        assert after <= before + 1e-6
        assert np.array_equal(softmax(logits, fit.temperature).argmax(axis=1), softmax(logits).argmax(axis=1))


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        (np.tile([0, 1], 50), "all 100 validation rows are right"),
        (np.zeros(100, dtype=np.int64), "the same label"),
        (np.tile([1, 0], 50), "the best temperature is not between 0.05 and 20"),  # always wrong: it would be infinite
        (np.array([0, 0]), f"2 validation rows are too few, it takes {FEWEST_ROWS}"),
    ],
)
def test_rows_that_cannot_tell_keep_1(answers: npt.NDArray[np.int64], why: str) -> None:
    logits = np.tile(np.array([[2.0, -1.0], [-1.0, 2.0]], dtype=np.float32), (len(answers) // 2, 1))
    fit = fit_temperature(logits, answers)
    assert fit.temperature == 1.0
    assert fit.why_not is not None
    assert why in fit.why_not


@pytest.fixture(scope="module")
def calibrated(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CalibrationReport]:
    """A copy of the tiny bundle, made honest on rows of which every third label is drawn at random."""
    bundle = shutil.copytree(exported.bundle, tmp_path_factory.mktemp("calibrated") / "bundle")
    return bundle, calibrate(bundle, tiny.labelled(300, exported.checkpoint, noise=0.5))


def test_the_report_says_what_changed(calibrated: tuple[Path, CalibrationReport]) -> None:
    bundle, report = calibrated
    assert report.rows == 300
    assert set(report.graphs) == {"fp32", "int8"}
    info = load_info(bundle)
    for precision, graph in report.graphs.items():
        assert graph.why_not_fitted is None
        assert info.precisions[precision].temperature == graph.temperature != 1.0
        assert None not in (graph.log_loss, graph.log_loss_after, graph.ece, graph.ece_after)
        assert graph.log_loss_after < graph.log_loss  # type: ignore[operator]
        assert Predictor(bundle, precision=precision).temperature == graph.temperature
    assert CalibrationReport.from_json(report.to_json(), where="here") == report


def test_scores_change_but_neither_labels_nor_logits_nor_golden_rows(
    exported: Exported, calibrated: tuple[Path, CalibrationReport]
) -> None:
    bundle, report = calibrated
    texts = [row.text for row in exported.rows]
    before, after = Predictor(exported.bundle), Predictor(bundle)
    assert np.array_equal(before.logits(texts), after.logits(texts))
    scores = after.probabilities(texts)
    np.testing.assert_allclose(scores, softmax(after.logits(texts) / report.graphs["fp32"].temperature), atol=1e-6)
    assert not np.allclose(scores, before.probabilities(texts), atol=0.01)
    assert np.array_equal(scores.argmax(axis=1), before.probabilities(texts).argmax(axis=1))
    assert agreement(after, read_golden(bundle)).max_difference == 0.0
    assert Classifier.from_folder(bundle, precision="fp32")(str(texts[3]))[0]["score"] == pytest.approx(scores[3].max())


def test_the_same_rows_in_another_order_give_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    rows = tiny.labelled(60, exported.checkpoint, noise=0.4)
    written = []
    for number, order in enumerate((rows, rows[::-1])):
        bundle = shutil.copytree(exported.bundle, tmp_path / str(number))
        calibrate(bundle, order)
        calibrate(bundle, order)  # a bundle that has a temperature is fitted on its raw logits again
        written.append((bundle / "bundle.json").read_bytes())
    assert written[0] == written[1]
    temperature = json.loads(written[0])["precisions"]["fp32"]["temperature"]
    assert temperature == round(temperature, DECIMALS)


def test_of_many_rows_some_are_chosen(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_choose.__globals__, "MOST_ROWS", 50)
    bundle = shutil.copytree(exported.bundle, tmp_path / "bundle")
    rows = tiny.labelled(120, exported.checkpoint, noise=0.4)
    assert calibrate(bundle, rows).rows == 50
    chosen = _choose(rows, 50)
    assert _choose(rows[::-1], 50) == chosen
    assert {row.row_id for row in chosen} < {row.row_id for row in rows}


def test_where_nothing_can_be_fitted_nothing_is_written(exported: Exported, tmp_path: Path) -> None:
    bundle = shutil.copytree(exported.bundle, tmp_path / "bundle")
    for rows in ([], tiny.labelled(FEWEST_ROWS - 1, exported.checkpoint, noise=0.5)):
        report = calibrate(bundle, rows)
        assert report.rows == len(rows)
        for graph in report.graphs.values():
            assert graph.temperature == 1.0
            assert graph.why_not_fitted == f"{len(rows)} validation rows are too few, it takes {FEWEST_ROWS}"
            assert graph.ece_after == graph.ece
            assert (graph.ece is None) is not bool(rows)
    assert (bundle / "bundle.json").read_bytes() == (exported.bundle / "bundle.json").read_bytes()


def test_rows_need_labels(exported: Exported, tmp_path: Path) -> None:
    bundle = shutil.copytree(exported.bundle, tmp_path / "bundle")
    with pytest.raises(DataError, match="a row without a label"):
        calibrate(bundle, exported.rows)


@pytest.mark.slow
@pytest.mark.data
def test_an_over_confident_model_becomes_honest_on_rows_it_has_not_seen(
    public_data: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    """A small BERT that learns a few hundred rows of AG News by heart says 1.0 far more often than it is right."""
    labels, rows = _news(public_data / "ag_news" / "train.csv", 1000)
    fitted_on, validation, held_out = rows[:200], rows[200:600], rows[600:]
    checkpoint = _overfitted(tiny_bert, fitted_on, labels, tmp_path / "checkpoint")
    bundle = tmp_path / "bundle"
    export_bundle(
        checkpoint,
        validation[:64],
        bundle,
        task="text-classification",
        labels=labels,
        max_length=32,
        precisions=("fp32", "int8"),
    )
    answers = np.array([row.label for row in held_out])
    texts = [row.text for row in held_out]
    before = {precision: Predictor(bundle, precision=precision).probabilities(texts) for precision in ("fp32", "int8")}
    report = calibrate(bundle, validation)
    for precision, raw in before.items():
        honest = Predictor(bundle, precision=precision).probabilities(texts)
        assert report.graphs[precision].temperature > 1.2
        assert metric("ece", answers, honest) < 0.6 * metric("ece", answers, raw)
        assert metric("log_loss", answers, honest) < metric("log_loss", answers, raw)
        assert metric("accuracy", answers, honest) == metric("accuracy", answers, raw)


def _news(path: Path, count: int) -> tuple[tuple[str, ...], list[Row]]:
    with path.open(newline="", encoding="utf-8") as stream:
        read = [row for row, _ in zip(csv.DictReader(stream), range(count), strict=False)]
    labels = tuple(sorted({row["label"] for row in read}))
    return labels, [Row(f"{i:016x}", row["text"], labels.index(row["label"])) for i, row in enumerate(read)]


def _overfitted(base: Path, rows: list[Row], labels: tuple[str, ...], folder: Path) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    encoded = tokenizer([row.text for row in rows], padding=True, truncation=True, max_length=32, return_tensors="pt")
    answers = torch.tensor([row.label for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    loss = torch.tensor(1.0)
    # How many epochs it takes to know the rows by heart differs between processors.
    for _ in range(150):
        for positions in torch.randperm(len(rows)).split(32):
            batch = {name: values[positions] for name, values in encoded.items()}
            loss = model(**batch, labels=answers[positions]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        if loss.item() < 0.1:
            break
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
