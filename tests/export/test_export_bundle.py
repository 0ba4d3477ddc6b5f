"""What the export writes: the layout, the graphs' interface, golden rows, the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from transformers import AutoTokenizer

from retrainer.errors import ExportError, ModelError
from retrainer.records import sha256_file
from retrainer.serve.golden import read_golden
from retrainer.serve.predictor import load_info
from retrainer.work.export.bundle import export_bundle
from retrainer.work.portable import make_portable, portable
from retrainer.work.snapshot_texts import pack_row_ids
from tests.export import tiny
from tests.export.bundles import Exported


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def test_layout(exported: Exported) -> None:
    assert set(files(exported.bundle)) == {
        "bundle.json",
        "config.json",
        "golden.jsonl",
        "onnx/model.onnx",
        "onnx/model_int8.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_rows.bin",
    }


def test_bundle_says_how_to_feed_it(exported: Exported) -> None:
    info = load_info(exported.bundle)
    assert info.task == "text-classification"
    assert info.labels == tiny.LABELS
    assert info.max_length == tiny.MAX_LENGTH
    assert set(info.inputs) == {"input_ids", "attention_mask", "token_type_ids"}
    assert info.pad_token_id == 0
    assert info.padding_side == "right"
    assert "INT8" not in info.precisions["fp32"].weight_types
    assert info.precisions["int8"].weight_types["INT8"] > 0


@pytest.mark.parametrize("name", ["model.onnx", "model_int8.onnx"])
def test_graph_has_named_dimensions_and_no_trace_of_its_making(exported: Exported, name: str) -> None:
    path = exported.bundle / "onnx" / name
    graph = onnx.load(str(path)).graph
    for value in graph.input:
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    (output,) = graph.output
    assert output.name == "logits"
    assert output.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert output.type.tensor_type.shape.dim[1].dim_value == len(tiny.LABELS)
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_configs_name_the_labels_and_the_cut(exported: Exported) -> None:
    config = json.loads((exported.bundle / "config.json").read_text())
    assert config["id2label"] == {"0": "open", "1": "closed", "2": "partly"}
    assert config["label2id"] == {"open": 0, "closed": 1, "partly": 2}
    assert config["architectures"] == ["BertForSequenceClassification"]
    tokenizer = AutoTokenizer.from_pretrained(exported.bundle)
    assert tokenizer.model_max_length == tiny.MAX_LENGTH
    truncation = json.loads((exported.bundle / "tokenizer.json").read_text())["truncation"]
    assert truncation["max_length"] == tiny.MAX_LENGTH


def test_no_configuration_names_code_that_is_not_published(tmp_path: Path) -> None:
    """Else transformers asks to trust it, and does not find it."""
    checkpoint = tiny.save_checkpoint(tmp_path / "checkpoint")
    code = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModelForSequenceClassification": "modeling_tiny.Tiny"}
    for name, auto_map in (("config.json", code), ("tokenizer_config.json", {"AutoTokenizer": ["tiny.Tiny", None]})):
        path = checkpoint / name
        added = {"auto_map": auto_map, "custom_pipelines": {"tiny": {"impl": "tiny.Pipeline"}}}
        path.write_text(json.dumps(json.loads(path.read_text()) | added))
    export_bundle(
        checkpoint,
        tiny.rows(40),
        tmp_path / "bundle",
        task="text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
    )
    for name in ("config.json", "tokenizer_config.json"):
        assert not {"auto_map", "custom_pipelines"} & json.loads((tmp_path / "bundle" / name).read_text()).keys()
    assert AutoTokenizer.from_pretrained(tmp_path / "bundle").model_max_length == tiny.MAX_LENGTH


def test_what_is_taken_out_of_a_configuration(tmp_path: Path) -> None:
    within = {"model_type": "bert", "auto_map": {}, "hidden_size": 16}
    label2id = {"auto_map": 0, "other": 1}  # names of labels
    config = {"auto_map": {}, "label2id": label2id, "text_config": within, "transformers_version": "5", "vocab_size": 3}
    rest = {"label2id": label2id, "text_config": {"model_type": "bert", "hidden_size": 16}, "vocab_size": 3}
    assert portable(config) == rest
    path = tmp_path / "config.json"
    make_portable(path)  # a checkpoint need not have it
    path.write_text(json.dumps(config))
    make_portable(path)
    assert json.loads(path.read_text()) == rest


def test_golden_rows_are_real_rows_of_all_lengths(exported: Exported) -> None:
    golden = read_golden(exported.bundle)
    assert len(golden) == 16
    real = {row.text for row in exported.rows}
    assert all(row.text in real for row in golden)
    assert all(set(row.logits) == {"fp32", "int8"} for row in golden)
    lengths = [len(row.text.split()) for row in golden]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1
    assert lengths[-1] == max(len(str(row.text).split()) for row in exported.rows)


def test_train_rows_are_sorted_big_endian(exported: Exported) -> None:
    stored = np.fromfile(exported.bundle / "train_rows.bin", dtype=">u8")
    assert stored.tolist() == sorted({int(row.row_id, 16) for row in exported.rows})
    assert pack_row_ids(["00000000000000ff", "0000000000000001", "00000000000000ff"]) == bytes(
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 255]
    )


def test_same_checkpoint_gives_the_same_bytes_without_a_word(
    exported: Exported, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_bundle(
        exported.checkpoint,
        exported.rows,
        tmp_path / "again",
        task="text-classification",
        labels=tiny.LABELS,
        max_length=tiny.MAX_LENGTH,
        precisions=("int8", "fp32"),
        train_row_ids=[row.row_id for row in exported.rows],
    )
    assert files(tmp_path / "again") == files(exported.bundle)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_labels_in_another_order_are_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="label 0 is 'open', and 'closed' in the data"):
        export_bundle(
            exported.checkpoint,
            exported.rows,
            tmp_path / "bundle",
            task="text-classification",
            labels=("closed", "open", "partly"),
            max_length=tiny.MAX_LENGTH,
        )


def test_unreadable_checkpoint_is_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded"):
        export_bundle(
            tmp_path / "checkpoint",
            exported.rows,
            tmp_path / "bundle",
            task="text-classification",
            labels=tiny.LABELS,
            max_length=tiny.MAX_LENGTH,
        )
