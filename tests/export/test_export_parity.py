"""The parity check: it measures real rows at several batch sizes, and it notices what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from retrainer.artifacts.parity import ParityReport
from retrainer.errors import ExportError, IntegrityError
from retrainer.serve.encoding import load_tokenizer
from retrainer.serve.predictor import load_info
from retrainer.work.export import parity
from retrainer.work.export.checkpoint import load_checkpoint, reference_logits
from retrainer.work.export.parity import ROWS, TOLERANCE
from retrainer.work.export.sample import Sample, choose
from tests.export import tiny
from tests.export.bundles import Exported


@pytest.fixture(scope="session")
def sample(exported: Exported) -> Sample:
    return choose(exported.rows, load_tokenizer(exported.bundle, None), max_length=tiny.MAX_LENGTH, count=256)


@pytest.fixture(scope="session")
def reference(exported: Exported, sample: Sample) -> npt.NDArray[np.float32]:
    checkpoint = load_checkpoint(exported.checkpoint, tiny.LABELS, "text-classification")
    return reference_logits(checkpoint, sample.texts, tiny.MAX_LENGTH)


@pytest.fixture
def tampered(exported: Exported, tmp_path: Path) -> Path:
    return shutil.copytree(exported.bundle, tmp_path / "bundle")


def check(
    bundle: Path, sample: Sample, reference: npt.NDArray[np.float32], tolerance: float = TOLERANCE
) -> ParityReport:
    parity.check_reference(bundle, sample, reference, tiny.LABELS)
    graphs = {
        name: parity.measure(bundle, name, sample, reference, tolerance=tolerance)
        for name in load_info(bundle).precisions
    }
    return parity.compare_labels(bundle, sample, reference, graphs, exporter="transformers", tolerance=tolerance)


def test_report_of_a_sound_export(exported: Exported) -> None:
    report = exported.report
    assert report.exporter == "transformers"
    assert report.rows == 60
    assert report.batch_sizes == (1, 32)
    assert report.max_difference["fp32"] <= report.tolerance == 1e-4
    assert report.max_difference["int8"] > report.max_difference["fp32"]
    assert report.label_agreement["fp32"] == 1.0
    assert report.tie_margin == 1e-3
    assert 0 <= report.ties < 5
    assert report.truncated_rows > 0
    assert report.longest_tokens > tiny.MAX_LENGTH


def test_answers_depend_on_the_text(reference: npt.NDArray[np.float32]) -> None:
    """Else the checks below would prove nothing."""
    assert reference.std(axis=0).max() > 0.1


def test_perturbed_weight_is_caught_and_the_row_named(
    tampered: Path, sample: Sample, reference: npt.NDArray[np.float32]
) -> None:
    path = tampered / "onnx" / "model.onnx"
    model = onnx.load(str(path))
    weight = max(
        (tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT),
        key=lambda tensor: int(np.prod(tensor.dims)),
    )
    values = numpy_helper.to_array(weight).copy()
    values += np.random.default_rng(0).normal(scale=1e-2, size=values.shape).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, str(path))
    with pytest.raises(ExportError, match=r"at row [0-9a-f]{16} \('.+'\), \d+ tokens, logits differ by"):
        check(tampered, sample, reference)


def _initializers(path: Path) -> list[str]:
    """The weights of a graph that are numbers of their own, and not a scale or a shape."""
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    return [tensor.name for tensor in tensors if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 0]


def test_any_one_perturbed_weight_is_caught(
    exported: Exported, tmp_path: Path, sample: Sample, reference: npt.NDArray[np.float32]
) -> None:
    """Each in turn, the others as they were, in a bundle of the fp32 graph alone."""
    bundle = shutil.copytree(exported.bundle, tmp_path / "bundle")
    info = json.loads((bundle / "bundle.json").read_text())
    del info["precisions"]["int8"]
    (bundle / "bundle.json").write_text(json.dumps(info))
    path = bundle / "onnx" / "model.onnx"
    names = _initializers(path)
    assert len(names) >= 20
    unnoticed = []
    for name in names:
        model = onnx.load(str(exported.bundle / "onnx" / "model.onnx"))
        (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(weight).copy()
        values += np.random.default_rng(0).normal(scale=2e-2, size=values.shape).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, str(path))
        try:
            check(bundle, sample, reference)
        except ExportError:
            continue
        unnoticed.append(name)
    assert unnoticed == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("attention_mask", "token_type_ids"), ("input_ids", "token_type_ids"), ("input_ids", "attention_mask")],
)
def test_swapped_inputs_are_caught(
    tampered: Path, sample: Sample, reference: npt.NDArray[np.float32], one: str, other: str
) -> None:
    path = tampered / "onnx" / "model.onnx"
    model = onnx.load(str(path))
    swap = {one: other, other: one}
    for node in model.graph.node:
        node.input[:] = [swap.get(name, name) for name in node.input]
    onnx.save(model, str(path))
    # Token ids are no types of tokens: the graph then fails on them instead of giving a wrong answer.
    with pytest.raises((ExportError, IntegrityError), match=r"does not compute what the checkpoint|the graph fails on"):
        check(tampered, sample, reference)


def test_permuted_logits_are_caught(tampered: Path, sample: Sample, reference: npt.NDArray[np.float32]) -> None:
    """The names in the bundle are right, and the classifier's rows stand in another order."""
    path = tampered / "onnx" / "model.onnx"
    model = onnx.load(str(path))
    rolled = 0
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tiny.LABELS) in values.shape:
            axis = values.shape.index(len(tiny.LABELS))
            tensor.CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=axis), tensor.name))
            rolled += 1
    assert rolled >= 1  # a bias of zeros is not kept
    onnx.save(model, str(path))
    with pytest.raises(ExportError, match="does not compute what the checkpoint computes"):
        check(tampered, sample, reference)


def test_another_label_is_caught_where_no_tolerance_would(
    exported: Exported, sample: Sample, reference: npt.NDArray[np.float32]
) -> None:
    """A row that the checkpoint decides must keep its label, one in which two labels stand level need not."""
    index = 7
    answer = int(reference[index].argmax())
    other = (answer + 1) % 3

    def compare(lead_of_the_other: float) -> ParityReport:
        changed = reference.copy()
        changed[index, other] = changed[index, answer] + lead_of_the_other
        return check(exported.bundle, sample, changed, tolerance=100.0)

    row = f"row {sample.rows[index].row_id} .+ becomes '{tiny.LABELS[answer]}', and '{tiny.LABELS[other]}' in the check"
    with pytest.raises(ExportError, match=rf"gives other labels than the checkpoint: {row}point; 1 of 60 rows"):
        compare(0.1)
    report = compare(1e-4)
    assert report.tie_margin == 1e-3
    assert report.ties == exported.report.ties + 1
    assert report.label_agreement["fp32"] == pytest.approx(59 / 60)


def test_256_of_more_rows_are_compared_and_all_of_fewer(exported: Exported) -> None:
    tokenizer = load_tokenizer(exported.bundle, None)
    for count in (255, 256, 300):
        rows = tiny.rows(count)
        assert len(choose(rows, tokenizer, max_length=tiny.MAX_LENGTH, count=ROWS).rows) == min(count, 256)


@pytest.mark.parametrize("name", ["config.json", "bundle.json"])
def test_permuted_labels_are_caught(
    tampered: Path, sample: Sample, reference: npt.NDArray[np.float32], name: str
) -> None:
    path = tampered / name
    content = json.loads(path.read_text())
    if name == "config.json":
        content["id2label"] = {"0": "closed", "1": "open", "2": "partly"}
    else:
        content["labels"] = ["closed", "open", "partly"]
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match="label 0 is 'closed', and 'open' in the data") as caught:
        check(tampered, sample, reference)
    assert caught.value.where == str(path)


def test_padding_on_the_other_side_is_caught(
    tampered: Path, sample: Sample, reference: npt.NDArray[np.float32]
) -> None:
    """Only batches show it: a single row is not padded."""
    path = tampered / "bundle.json"
    path.write_text(path.read_text().replace('"right"', '"left"'))
    with pytest.raises(ExportError, match="batch 32"):
        check(tampered, sample, reference)


def test_another_cut_is_caught(tampered: Path, sample: Sample, reference: npt.NDArray[np.float32]) -> None:
    """Only rows that are cut show it."""
    path = tampered / "bundle.json"
    content = json.loads(path.read_text())
    content["max_length"] -= 1
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match="logits differ"):
        check(tampered, sample, reference)


def test_not_a_number_is_caught(
    exported: Exported, sample: Sample, reference: npt.NDArray[np.float32], tampered: Path
) -> None:
    broken = reference.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ExportError, match="the checkpoint itself gives no number"):
        check(exported.bundle, sample, broken)
    path = tampered / "onnx" / "model_int8.onnx"
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims == [len(tiny.LABELS)]:
            values = np.full(len(tiny.LABELS), np.nan, dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(path))
    with pytest.raises(ExportError, match="int8"):
        check(tampered, sample, reference)


def test_no_rows_is_an_error(exported: Exported, reference: npt.NDArray[np.float32]) -> None:
    with pytest.raises(ExportError, match="no row to compare"):
        check(exported.bundle, Sample((), ()), reference[:0])
