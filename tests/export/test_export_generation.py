"""Checkpoints that write text: the bundle says what the checkpoint says, or there is no bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from transformers import GenerationConfig

from retrainer.errors import ExportError
from retrainer.serve.encoding import load_tokenizer
from retrainer.serve.generation import GenerationPredictor, GenerationSettings
from retrainer.serve.golden import read_golden
from retrainer.serve.predictor import load_info
from retrainer.store.bundle import BundleInfo
from retrainer.work.export import generation_parity as parity
from retrainer.work.export.checkpoint import load_model
from retrainer.work.export.generation import export_bundle
from retrainer.work.export.generation_config import published
from retrainer.work.export.sample import choose
from tests.export import tiny
from tests.export.tiny_writers import ENDS, MAX_LENGTH, MAX_NEW_TOKENS, TASKS, save_writer
from tests.export.writer_bundles import BOTH, ROWS, Writer, torch_answers, writer

TEXTS = [str(row.text) for row in ROWS[::3]]


@pytest.fixture(scope="module", params=BOTH)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    return writer(tmp_path_factory, request.param)


@pytest.mark.parametrize("beams", [1, 2, 3, 4])
def test_the_tokens_are_those_of_transformers(made: Writer, beams: int) -> None:
    found = GenerationPredictor(made.bundle).generate(TEXTS, GenerationSettings(beams=beams))
    expected = torch_answers(made.checkpoint, TEXTS, num_beams=beams)
    assert [answer.tokens for answer in found] == expected
    ended = {len(tokens) for tokens in expected if tokens[-1] in ENDS[made.architecture]}
    assert len({*ended, MAX_NEW_TOKENS}) > 2  # at several lengths, by several tokens


def test_the_report_says_what_was_compared(made: Writer) -> None:
    report = made.report
    assert report.rows >= 64
    assert report.batch_sizes == (1, 32)
    assert report.label_agreement["fp32"] == 1.0
    assert report.max_difference["fp32"] < 1e-2
    assert report.truncated_rows > 0
    assert set(report.max_difference) == {"fp32", "int8"}


def test_the_layout_is_that_of_the_ecosystem(made: Writer) -> None:
    info = load_info(made.bundle)
    assert info.labels == ()
    assert info.eos_token_ids == tuple(ENDS[made.architecture])
    assert info.max_new_tokens == MAX_NEW_TOKENS
    entry = info.precisions["fp32"]
    parts: tuple[str, ...]
    if made.architecture == "t5":
        assert (entry.file, entry.encoder_file) == ("onnx/decoder_model_merged.onnx", "onnx/encoder_model.onnx")
        assert info.precisions["int8"].files == (
            "onnx/decoder_model_merged_int8.onnx",
            "onnx/encoder_model_int8.onnx",
        )
        assert info.decoder_start_token_id == 0
        parts = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
    else:
        assert (entry.file, entry.encoder_file) == ("onnx/model.onnx", None)
        assert "position_ids" in info.inputs
        parts = ("key", "value")
    past = [f"{layer}.{part}" for layer in range(2) for part in parts]
    graph = onnx.load(str(made.bundle / entry.file)).graph
    assert [name for name in info.inputs if name.startswith("past")] == [f"past_key_values.{name}" for name in past]
    assert [value.name for value in graph.output] == ["logits", *(f"present.{name}" for name in past)]
    assert "If" not in {node.op_type for node in graph.node}
    assert json.loads((made.bundle / "generation_config.json").read_text())["eos_token_id"] == ENDS[made.architecture]
    assert str(Path.cwd()).encode() not in (made.bundle / entry.file).read_bytes()


def test_golden_rows_are_beginnings_of_answers(made: Writer) -> None:
    golden = read_golden(made.bundle)
    found = GenerationPredictor(made.bundle).generate([row.text for row in golden])
    for row, answer in zip(golden, found, strict=True):
        assert not row.logits
        assert answer.tokens[: len(row.tokens["fp32"])] == row.tokens["fp32"]
    assert sum(len(row.tokens["fp32"]) for row in golden) > 32
    assert any(row.tokens["int8"] for row in golden)


def test_a_graph_that_writes_something_else_is_refused(made: Writer, tmp_path: Path) -> None:
    """With the row, the place and both tokens."""
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    info = BundleInfo.load(bundle)
    fp32 = info.precisions["fp32"]
    # The int8 graphs in place of the exact ones: near, and not the same.
    swapped = info.precisions["int8"].model_copy(update={"cpu_features": None})
    info.model_copy(update={"precisions": {"fp32": swapped}}).save(bundle)
    assert fp32.file != swapped.file
    model, names = load_model(made.checkpoint, TASKS[made.architecture])
    sample = choose(ROWS, load_tokenizer(bundle, None), max_length=MAX_LENGTH, count=20)
    config = published(model, names, MAX_NEW_TOKENS, made.checkpoint).config
    config = GenerationConfig(**config, return_dict_in_generate=True, output_scores=True)
    answers = parity.reference_answers(model, names, [str(text) for text in sample.texts], config, MAX_LENGTH)
    with pytest.raises(ExportError, match=r"at row .* token \d+ of the answer is \d+ .* and \d+ .* in the checkpoint"):
        parity.check_bundle(bundle, sample, answers, exporter="x")


def test_a_difference_names_the_first_token() -> None:
    """And not one where two tokens stand level."""
    best = np.array([[3, 4], [5, 6], [7, 8]])
    scores = np.array([[2.0, 1.9999], [2.0, 1.0], [2.0, 1.0]], dtype=np.float32)
    led = parity._Led([parity.Answer((3, 5, 7), best, scores)])
    told = np.zeros(10, dtype=np.float32)
    for wrong, expected in ((4, 3), (9, 5), (8, 7)):
        answer = told.copy()
        answer[wrong] = 3
        assert led(0, answer) == expected
    assert led.elsewhere == {0: (1, 9)}
    assert led.changed == {0}


RULES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 2},
    {"min_length": 9},
    {"min_new_tokens": 9},
    {"suppress_tokens": [276, 194, 244]},
    {"forced_eos_token_id": 1},
    {"length_penalty": 2.0, "early_stopping": True},
    {"early_stopping": "never", "length_penalty": -1.0, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: next(iter(rules)))
def test_rules_of_the_checkpoint_are_kept(made: Writer, rules: dict[str, Any], tmp_path: Path) -> None:
    """With the same graphs, whose weights do not change."""
    checkpoint = shutil.copytree(made.checkpoint, tmp_path / "checkpoint")
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    for path in (checkpoint / "generation_config.json", bundle / "generation_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | rules))
    predictor = GenerationPredictor(bundle)
    for beams in (1, 3):
        found = [answer.tokens for answer in predictor.generate(TEXTS[::2], GenerationSettings(beams=beams))]
        assert found == torch_answers(checkpoint, TEXTS[::2], num_beams=beams)


def test_the_first_token_of_a_decoder_may_be_forced(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    made = writer(tmp_path_factory, "t5")
    bundle = shutil.copytree(made.bundle, tmp_path / "bundle")
    path = bundle / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"forced_bos_token_id": 40}))
    assert {answer.tokens[0] for answer in GenerationPredictor(bundle).generate(TEXTS[:5])} == {40}


@pytest.mark.parametrize(
    "unknown",
    [{"bad_words_ids": [[5]]}, {"encoder_no_repeat_ngram_size": 2}, {"begin_suppress_tokens": [4]}],
    ids=lambda unknown: next(iter(unknown)),
)
def test_a_rule_that_is_not_kept_is_refused(unknown: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = save_writer(tmp_path / "checkpoint", "gpt2", **unknown)
    with pytest.raises(ExportError, match=f"{next(iter(unknown))}: .* and what is served does not do that"):
        export_bundle(checkpoint, ROWS, tmp_path / "bundle", task="text-generation", max_length=16, max_new_tokens=4)
    assert not (tmp_path / "bundle").exists()


def test_how_an_answer_is_chosen_is_left_to_whoever_asks(tmp_path: Path) -> None:
    """What the published file says is what is done where nobody asks for more."""
    checkpoint = save_writer(tmp_path, "t5", num_beams=4, length_penalty=0.5)
    model, names = load_model(checkpoint, "text2text-generation")
    generation = published(model, names, 7, checkpoint)
    assert generation.dropped == ("num_beams",)
    assert generation.config["num_beams"] == 1
    assert generation.config["length_penalty"] == 0.5
    assert generation.config["max_new_tokens"] == 7


def test_more_tokens_than_the_model_has_places_for(tmp_path: Path) -> None:
    checkpoint = save_writer(tmp_path / "checkpoint", "gpt2")
    with pytest.raises(ExportError, match="up to 70 tokens, and the model reads 64"):
        export_bundle(checkpoint, ROWS, tmp_path / "bundle", task="text-generation", max_length=60, max_new_tokens=10)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["llama", "mt5", "umt5"])
def test_other_kinds_of_models(kind: str, tmp_path: Path) -> None:
    """Grouped heads, rotary positions; other kinds of T5."""
    report = export_bundle(
        save_writer(tmp_path / "checkpoint", kind),
        tiny.rows(64, longest=10),
        tmp_path / "bundle",
        task=TASKS[kind],
        max_length=MAX_LENGTH,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    assert report.label_agreement["fp32"] == 1.0
    found = GenerationPredictor(tmp_path / "bundle").generate(TEXTS, GenerationSettings(beams=2))
    assert [answer.tokens for answer in found] == torch_answers(tmp_path / "checkpoint", TEXTS, num_beams=2)
