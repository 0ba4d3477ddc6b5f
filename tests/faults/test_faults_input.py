"""Bad data, and base models that are not what they seem: said before anything of it is kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from retrainer.errors import DataError, ModelError, PipelineError
from retrainer.spec import load_pipeline, parse_pipeline
from retrainer.work.reporter import Reporter
from retrainer.work.train.loading import load_base
from retrainer.work.train.trainer import all_finite
from tests.faults.conftest import Bench


def add(line: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data + line


# The file, what happens to it, and what the error says.
DATA: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "missing column": ("train.csv", lambda data: data.replace(b"text,label", b"txt,label"), "line 1: no column 'text'"),
    "empty": ("train.csv", lambda _: b"", "train.csv: the file is empty"),
    "only a header": ("train.csv", lambda _: b"text,label\n", "train.csv: no data row"),
    "one label": ("train.csv", lambda _: b"text,label\n" + b"".join(b"row %d,open\n" % i for i in range(50)), "'open'"),
    "unknown label": ("test.csv", add(b"a road,halfopen\n"), "row 121: unknown label 'halfopen' in test"),
    "not UTF-8": ("train.csv", add(b"caf\xe9,open\n"), "line 402: not UTF-8: byte 0xe9"),
    "NaN labels": ("train.csv", add(b"road a,nan\nroad b,NaN\n"), "row 401: of 402 train rows, 2 without label"),
}


@pytest.mark.parametrize("fault", DATA)
def test_bad_data(bench: Bench, unharmed: Callable[[Bench], None], fault: str) -> None:
    name, change, said = DATA[fault]
    file = bench.folder / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError) as caught:
        bench.run()
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    unharmed(bench)


def test_data_that_is_no_file(bench: Bench) -> None:
    file = bench.folder / "train.csv"
    file.unlink()
    file.symlink_to("nowhere.csv")
    with pytest.raises(DataError) as dangling:
        bench.run()
    assert dangling.value.hint == "it is a link to nowhere.csv, where nothing is"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError) as pipe:
        bench.run()
    assert pipe.value.message == "neither a file nor a folder"


def test_a_pipeline_file_that_links_to_itself(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").symlink_to("pipeline.yaml")
    with pytest.raises(PipelineError, match="symbolic links"):
        load_pipeline(tmp_path / "pipeline.yaml")


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def without_tokenizer(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (base / name).unlink(missing_ok=True)


def other_vocabulary(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    (name,) = [name for name in weights if "word_embeddings" in name]
    save_file({**weights, name: weights[name][:1000].copy()}, base / "model.safetensors", metadata={"format": "pt"})
    edit(base / "config.json", vocab_size=1000)


def other_weights(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    strange = {f"stranger.{name}": values for name, values in weights.items()}
    save_file(strange, base / "model.safetensors", metadata={"format": "pt"})


def cut_short(base: Path) -> None:
    data = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(data[: len(data) // 2])


def broken_config(base: Path) -> None:
    (base / "config.json").write_bytes(b"\xff\x00")


def broken_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").write_text("{}")


BASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tokenizer": (without_tokenizer, "has no tokenizer"),
    "another model's tokenizer": (other_vocabulary, "the model takes 1,000 tokens"),
    "another model's config": (lambda base: edit(base / "config.json", hidden_size=64), "the shape that config.json"),
    "another model's weights": (other_weights, "are not in it, first bert."),
    "weights cut short": (cut_short, "cannot be loaded for text-classification"),
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "no file named model.safetensors"),
    "config of another kind": (broken_config, "not a valid JSON"),
    "broken tokenizer": (broken_tokenizer, "cannot be loaded"),
}


@pytest.mark.parametrize("fault", BASES)
def test_a_base_model_that_is_not_whole(tiny_bert: Path, tmp_path: Path, fault: str) -> None:
    change, said = BASES[fault]
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    change(base)
    content = {
        "name": "m",
        "dataset": {"train": "t.csv"},
        "model": {"base": str(base), "max_length": 32},
        "publish": {"store": "s"},
    }
    with pytest.raises(ModelError, match=said) as caught:
        load_base(parse_pipeline(content), ("a", "b"), Reporter(tmp_path / "messages"))
    assert caught.value.where == f"model.base: {base}"
    assert caught.value.hint


def test_a_whole_base_model_passes(tiny_bert: Path, tmp_path: Path) -> None:
    content = {
        "name": "m",
        "dataset": {"train": "t.csv"},
        "model": {"base": str(tiny_bert), "max_length": 32},
        "publish": {"store": "s"},
    }
    assert all_finite(load_base(parse_pipeline(content), ("a", "b"), Reporter(tmp_path / "messages")).model)
