"""Versions that make a library raise what it never said: refused like any other, and nothing escapes.

What such a version does to a caller's texts, once it serves, is here as well.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retrainer.errors import DataError, IntegrityError, ResourceError
from retrainer.serve import Classifier
from retrainer.serve.errands import GivenUp, Patience
from retrainer.serve.file_locks import take
from retrainer.serve.predictor import Predictor
from retrainer.serve.retention import use_lock
from tests.serve.conftest import PublishedStore, eventually, load, relabelled

GRAPHS = ("onnx/model.onnx", "onnx/model_int8.onnx")


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_graphs(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    for name in GRAPHS:
        model = onnx.load(str(folder / name))
        change(model)
        onnx.save(model, str(folder / name))


def edit_golden(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = folder / "golden.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def with_a_logit_too_few(folder: Path) -> None:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[1]["logits"] = {name: values[:-1] for name, values in rows[1]["logits"].items()}

    edit_golden(folder, change)


def forget_the_unknown(folder: Path) -> None:
    """The tokenizer says what it has for words that it does not know, and has it not; and it does not know 'open'."""

    def change(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        for word in ("[UNK]", "open"):
            vocabulary.pop(word)
        content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]

    edit_json(folder / "tokenizer.json", change)


def with_a_tokenizer_that_panics(folder: Path) -> None:
    edit_json(
        folder / "tokenizer.json",
        lambda content: content.update(pre_tokenizer={"type": "FixedLength", "length": 0}),
    )


def with_a_token_beyond_all_numbers(folder: Path) -> None:
    edit_json(folder / "bundle.json", lambda content: content.update(pad_token_id=10**30))


def with_one_row_for_all(model: onnx.ModelProto) -> None:
    """The logits of the first row of a batch only."""
    for node in model.graph.node:
        node.output[:] = ["every" if name == "logits" else name for name in node.output]
    zero, one = (numpy_helper.from_array(np.array([value], dtype=np.int64), f"row{value}") for value in (0, 1))
    model.graph.initializer.extend([zero, one])
    model.graph.node.append(helper.make_node("Slice", ["every", "row0", "row1", "row0"], ["logits"]))


def with_a_loss(model: onnx.ModelProto) -> None:
    """Another output, a single number."""
    model.graph.node.append(helper.make_node("ReduceSum", ["logits"], ["loss"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))


def without_numbers_for_long_texts(model: onnx.ModelProto) -> None:
    """The square root of what is below 0 from twenty tokens on is added to each logit, else its 0-fold."""
    for node in model.graph.node:
        node.output[:] = ["every" if name == "logits" else name for name in node.output]
    for name, value in (("most", 20.0), ("nothing", 0.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "along"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["attention_mask"], ["counted"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["counted", "along"], ["tokens"], keepdims=1),
            helper.make_node("Sub", ["most", "tokens"], ["left"]),
            helper.make_node("Sqrt", ["left"], ["root"]),
            helper.make_node("Mul", ["root", "nothing"], ["void"]),
            helper.make_node("Add", ["every", "void"], ["logits"]),
        ]
    )


def with_a_normaliser_that_multiplies(folder: Path) -> None:
    """What is in no golden row, a million times."""
    step = {"type": "Replace", "pattern": {"String": "#"}, "content": "##"}
    edit_json(
        folder / "tokenizer.json",
        lambda content: content.update(normalizer={"type": "Sequence", "normalizers": [step] * 20}),
    )


def with_more_tokens_than_are_read(folder: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        first = content["post_processor"]["single"]
        content["post_processor"]["single"] = [first[0]] * 30 + first

    edit_json(folder / "tokenizer.json", change)


BAD = {
    "a normaliser that multiplies": (with_a_normaliser_that_multiplies, "can make 1,048,576 characters of one"),
    "more tokens than are read": (with_more_tokens_than_are_read, "it adds 32 tokens to each text, and 24 are read"),
    "a golden row is short": (with_a_logit_too_few, "golden rows have 2, 3 logits for 3 labels"),
    "no unknown token": (forget_the_unknown, "golden rows cannot be asked"),
    "a panic": (with_a_tokenizer_that_panics, "golden rows cannot be asked"),
    "no such token": (with_a_token_beyond_all_numbers, "cannot be loaded: OverflowError"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_version_is_refused(store: PublishedStore, cache: Path, tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    classify = load(store, cache)
    good = classify.version
    folder = shutil.copytree(store.bundle, tmp_path / "bad")
    spoil(folder)
    with pytest.raises(IntegrityError, match=message):
        Classifier.from_folder(folder)
    bad = store.publish(bundle=folder)
    for number in (1, 2):
        assert not classify.refresh()
        status = classify.status
        assert (status.version, status.refused_version, status.refusals) == (good, bad, 1)
        assert (status.failures_in_a_row, status.offline) == (number, False)
        assert not classify._look(patient=True)  # not at each look
        assert classify.status.failures_in_a_row == number
    with pytest.raises(IntegrityError, match=message) as caught:
        load(store, cache)
    assert caught.value is not None  # with all its frames, and yet:
    hold = take(use_lock(cache / "trails", bad), "exclusive", wait=False)
    assert hold is not None, "somebody still holds the refused version"
    hold.release()
    assert classify("the trail is open")


def that_loops(model: onnx.ModelProto) -> None:
    """Each logit is handed on for some thousand years."""
    for node in model.graph.node:
        node.output[:] = ["every" if name == "logits" else name for name in node.output]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Identity", ["value"], ["next"])],
        "body",
        [
            value("turn", TensorProto.INT64, []),
            value("on", TensorProto.BOOL, []),
            value("value", TensorProto.FLOAT, None),
        ],
        [value("still", TensorProto.BOOL, []), value("next", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62, dtype=np.int64), "turns"))
    model.graph.node.append(helper.make_node("Loop", ["turns", "", "every"], ["logits"], body=body))


# Each takes some hundredths of a second: all of them several times as long as the test waits for a load.
PRODUCTS = 60


def that_is_long_to_load(model: onnx.ModelProto) -> None:
    """Some seconds of constants that are computed when it is loaded, which nothing ends."""
    for node in model.graph.node:
        node.output[:] = ["every" if name == "logits" else name for name in node.output]
    side = numpy_helper.from_array(np.array([1500, 1500], dtype=np.int64), "side")
    model.graph.initializer.append(side)
    tiny = helper.make_tensor("tiny", TensorProto.FLOAT, [1], [1e-4])
    model.graph.node.append(helper.make_node("ConstantOfShape", ["side"], ["product0"], value=tiny))
    for number in range(PRODUCTS):
        product = f"product{number}"
        model.graph.node.append(helper.make_node("MatMul", [product, product], [f"product{number + 1}"]))
    model.graph.node.append(helper.make_node("ReduceMax", [f"product{PRODUCTS}"], ["largest"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["every", "largest"], ["logits"]))


def loading() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("retrainer-load")]


def test_a_version_that_never_answers_does_not_stop_the_watching(
    store: PublishedStore, cache: Path, tmp_path: Path
) -> None:
    with load(store, cache, load_timeout=3) as classify:
        first = classify.version
        folder = shutil.copytree(store.bundle, tmp_path / "bad")
        edit_graphs(folder, that_loops)
        bad = store.publish(bundle=folder)
        classify.watch(0.05)
        eventually(lambda: classify.status.looking_since is not None, "nobody looked")
        eventually(lambda: classify.status.refused_version == bad, "it is not refused")
        assert "fp32 was not loaded and did not answer its golden rows within 3 s" in str(classify.status.problem)
        assert classify.version == first
        assert classify("the trail is open")
        third = store.publish(bundle=relabelled(store.bundle, tmp_path / "third", "3"))
        eventually(lambda: classify.version == third, "the watching stopped")
    eventually(lambda: not loading(), "the graph still computes")


def test_a_version_that_is_long_to_load(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    """A thread that nothing ends is left to itself. A second one is not begun beside it, but when it has ended; who
    cannot wait for that hears why, and the version is not blamed."""
    with load(store, cache, load_timeout=0.5) as classify:
        folder = shutil.copytree(store.bundle, tmp_path / "long")
        edit_graphs(folder, that_is_long_to_load)
        version = store.publish(bundle=folder)
        with pytest.raises(IntegrityError, match=r"int8 was not loaded.*within 0.5 s.*load_timeout"):
            load(store, cache, version=version, precision="int8", load_timeout=0.5)
        begun = time.monotonic()
        assert not classify.refresh()
        assert time.monotonic() - begun >= 0.5
        assert "an earlier load of int8 was given up, and has not ended" in str(classify.status.problem)
        assert (classify.status.refused_version, classify.status.refusals) == (None, 0)
        assert len(loading()) == 1
    with load(store, cache, load_timeout=60) as patient:
        assert (patient.version, patient.precision) == (version, "int8")
    assert not loading()


def test_the_time_for_an_earlier_load_is_not_taken_from_the_next() -> None:
    over = threading.Event()
    with pytest.raises(GivenUp):
        Patience(0.1, most=1).wait_for("one", over.wait)
    threading.Timer(0.6, over.set).start()
    Patience(1, most=1).wait_for("one", partial(time.sleep, 0.7))


@pytest.mark.parametrize("name", ["bundle.json", "golden.jsonl", "tokenizer.json", "onnx/model.onnx", "manifest.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(bundle: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bad")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(IntegrityError) as caught:
        Classifier.from_folder(folder, precision="fp32")
    assert caught.value.where == str(folder / name)


def test_the_watching_thread_outlives_a_panic(
    store: PublishedStore,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever it is: what is no Exception would end the thread without a word."""

    class Panic(BaseException):
        pass

    def panics(*_: object, **__: object) -> None:
        raise Panic("on a wednesday")

    with load(store, cache) as classify, caplog.at_level(logging.ERROR):
        assert classify._follower is not None
        with monkeypatch.context() as patch:
            patch.setattr(classify._follower, "look", panics)
            classify.watch(0.05)
            eventually(lambda: classify.status.problem is not None, "the status never said it")
        eventually(lambda: classify.status.problem is None, "the thread did not go on")
        assert classify.status.watching
    assert "not foreseen" in caplog.text


def test_memory_that_ran_out_is_not_the_versions_fault(
    store: PublishedStore, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    classify = load(store, cache)
    second = store.publish(0.95)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "logits", exhausted)
        assert not classify.refresh()
        assert (classify.status.refused_version, classify.status.offline) == (None, False)
        assert "memory ran out" in str(classify.status.problem)
        with pytest.raises(ResourceError, match="memory ran out"):
            Classifier.from_folder(store.bundle)
    assert classify.refresh()
    assert classify.version == second


def test_only_the_logits_of_a_graph_matter(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    edit_graphs(folder, with_a_loss)
    assert Classifier.from_folder(folder)("open") == Classifier.from_folder(bundle)("open")


def test_one_row_is_not_the_answer_to_all(bundle: Path, tmp_path: Path) -> None:
    """Golden rows are asked one at a time, and would not show it."""
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    edit_graphs(folder, with_one_row_for_all)
    classify = Classifier.from_folder(folder, precision="fp32")
    assert classify("open") == Classifier.from_folder(bundle, precision="fp32")("open")
    with pytest.raises(IntegrityError, match=r"logits \[1, 3\] for 2 rows and 3 labels") as caught:
        classify(["open", "shut"])
    assert caught.value.where == str(folder / "onnx" / "model.onnx")


def test_what_is_no_number_is_no_answer(bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    edit_graphs(folder, without_numbers_for_long_texts)
    edit_golden(folder, lambda rows: rows.__delitem__(slice(1, None)))  # the shortest only
    classify = Classifier.from_folder(folder, precision="fp32")
    assert classify("open") == Classifier.from_folder(bundle, precision="fp32")("open")
    with pytest.raises(IntegrityError, match=r"not finite numbers for 1 of 2 texts.*roll the channel back") as caught:
        classify(["open", "open " * 60])
    assert caught.value.where == str(folder / "onnx" / "model.onnx")


def test_a_text_that_the_tokenizer_cannot_read(bundle: Path, tmp_path: Path) -> None:
    """The one of many is named, and the others have their answers without it."""
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    forget_the_unknown(folder)
    edit_golden(folder, lambda rows: rows.__delitem__(slice(None)))
    predictor = Predictor(folder)
    with pytest.raises(DataError, match=r"texts\[2\]: the model's tokenizer cannot read it: .*UNK"):
        predictor.logits(["closed", "the trail", "open", "open"])
    assert predictor.logits(["closed", "the trail"]).shape == (2, 3)
