"""A precision is one entry: made by what the entry names, judged as it says, and served where its golden rows agree."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from retrainer.errors import ExportError
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.serve.loading import Loading, load_checked
from retrainer.work.export.bundle import export_bundle
from tests.export import tiny


def copied(source: Path, target: Path) -> None:
    """The maker of a precision that changes nothing."""
    shutil.copy(source, target)


def shifted(source: Path, target: Path) -> None:
    """The maker of one that is wrong: every matrix is a little larger."""
    graph = onnx.load(str(source))
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            values = onnx.numpy_helper.to_array(tensor) * 1.05
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float32"), tensor.name))
    onnx.save(graph, str(target))


def entered(monkeypatch: pytest.MonkeyPatch, maker: str, *, exact: bool) -> None:
    toy = replace(PRECISIONS["int8"], name="toy", file="onnx/model_toy.onnx", made_by=f"{__name__}:{maker}")
    monkeypatch.setitem(PRECISIONS, "toy", replace(toy, exact=exact, depends_on_processor=False))


def export(folder: Path) -> Path:
    export_bundle(
        tiny.save_checkpoint(folder / "checkpoint"),
        tiny.rows(40),
        folder / "bundle",
        task="text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
        precisions=(REFERENCE, "toy"),
    )
    return folder / "bundle"


def test_every_maker_is_where_its_entry_says() -> None:
    assert [name for name, entry in PRECISIONS.items() if entry.made_by is None] == [REFERENCE]
    assert all(callable(entry.maker()) for name, entry in PRECISIONS.items() if name != REFERENCE)


def test_a_new_precision_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered(monkeypatch, "copied", exact=True)
    bundle = export(tmp_path)
    entry = json.loads((bundle / "bundle.json").read_text())["precisions"]["toy"]
    assert entry["file"] == "onnx/model_toy.onnx"
    assert entry.get("cpu_features") is None
    assert load_checked(bundle).precision == "toy"
    assert load_checked(bundle, Loading(REFERENCE)).precision == REFERENCE


def test_one_that_must_be_exact_is_held_to_the_tolerance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered(monkeypatch, "shifted", exact=True)
    with pytest.raises(ExportError, match=r"does not compute what the checkpoint computes.*toy, batch 1"):
        export(tmp_path / "exact")
    entered(monkeypatch, "shifted", exact=False)
    assert (export(tmp_path / "judged later") / "onnx/model_toy.onnx").is_file()
