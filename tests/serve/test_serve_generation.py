"""Answers in text: the same alone and among others, drawn as asked, in whole characters where they are streamed."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from retrainer.cli.move_commands import _loads
from retrainer.errors import DataError, IntegrityError, UserError, WrongTask
from retrainer.serve import Classifier, GenerationSettings, Generator
from retrainer.serve.decoding import Sampler, greedy
from retrainer.serve.generation import Generated, GenerationPredictor
from retrainer.serve.loading import load_checked
from retrainer.serve.predictor import load_info
from retrainer.store import Store
from retrainer.store.bundle import BundleInfo, GoldenRow
from tests.export.tiny_writers import MAX_LENGTH, MAX_NEW_TOKENS
from tests.export.writer_bundles import BOTH, ROWS, writer
from tests.serve.conftest import manifest_of

TEXTS = [str(row.text) for row in ROWS]
DRAWN = GenerationSettings(temperature=1.5, seed=3)


@pytest.fixture(scope="module", params=BOTH)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory, request.param).bundle


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer(tmp_path_factory, "gpt2").bundle


@pytest.fixture(scope="module")
def predictor(written: Path) -> GenerationPredictor:
    return GenerationPredictor(written)


@pytest.fixture(scope="module")
def loaded(gpt: Path) -> GenerationPredictor:
    return GenerationPredictor(gpt)


@pytest.mark.parametrize("settings", [GenerationSettings(), DRAWN, GenerationSettings(beams=3)], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_neighbours_and_order_change_nothing(written: Path, settings: GenerationSettings, precision: str) -> None:
    predictor = GenerationPredictor(written, precision=precision)
    texts = TEXTS[::4]
    together = predictor.generate(texts, settings)
    assert [predictor.generate([text], settings)[0] for text in texts] == together
    order = list(range(len(texts)))
    random.Random(4).shuffle(order)
    assert predictor.generate([texts[place] for place in order], settings) == [together[place] for place in order]


def test_the_cache_changes_nothing(predictor: GenerationPredictor) -> None:
    found = [predictor.choose(TEXTS[::5], greedy, batch_size=size, cached=False) for size in (1, 6)]
    expected = [list(answer.tokens) for answer in predictor.generate(TEXTS[::5])]
    assert found == [expected, expected]


def test_the_same_seed_draws_the_same(predictor: GenerationPredictor) -> None:
    def draw(seed: int | None) -> list[Generated]:
        return predictor.generate(TEXTS[:20], GenerationSettings(temperature=2.0, seed=seed))

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert draw(None) != draw(None)


def test_tokens_are_drawn_as_their_scores_say(loaded: GenerationPredictor) -> None:
    """The first token of many draws against the probabilities, within what chance allows."""
    scores: list[np.ndarray] = []

    def note(row: int, given: np.ndarray) -> int:
        scores.append(given)
        return 0

    loaded.choose(TEXTS[:1], note, most=1)
    count = 4000
    for temperature, top_k, top_p in ((1.0, None, None), (0.5, 5, None), (2.0, None, 0.6), (1.0, 6, 0.8)):
        sampler = Sampler([[row] for row in range(count)], seed=1, temperature=temperature, top_k=top_k, top_p=top_p)
        drawn = Counter(sampler(row, scores[0]) for row in range(count))
        expected = _probabilities(scores[0], temperature, top_k, top_p)
        assert set(drawn) <= set(np.flatnonzero(expected))
        for token in np.flatnonzero(expected > 0.01):
            share, spread = expected[token], np.sqrt(expected[token] * (1 - expected[token]) / count)
            assert abs(drawn[int(token)] / count - share) < 5 * spread + 1e-9


def _probabilities(scores: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """As transformers' warpers have it."""
    import torch
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warped = TemperatureLogitsWarper(temperature)(None, torch.tensor(scores)[None])
    if top_k is not None:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p is not None:
        warped = TopPLogitsWarper(top_p)(None, warped)
    return np.asarray(warped.softmax(dim=-1)[0].double())


@given(st.data())
def test_pieces_are_whole_characters_and_make_the_answer(loaded: GenerationPredictor, data: DataObject) -> None:
    """Whatever tokens come: bytes of characters in any order, special ones, and an end in the middle of one."""
    size = loaded._tokenizer.get_vocab_size()
    wanted = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=MAX_NEW_TOKENS))
    text = data.draw(st.text(max_size=6))
    wanted = [*loaded._tokenizer.encode(text).ids, *wanted][:MAX_NEW_TOKENS]
    coming = iter([*wanted, *[loaded.info.eos_token_ids[0]] * MAX_NEW_TOKENS])
    (encoded,) = loaded._encode(["a"], 0)
    ending = loaded._ending(GenerationSettings())
    *pieces, answer = loaded._pieces("a", encoded, ending, lambda row, given: next(coming))
    assert isinstance(answer, Generated)
    assert "".join(map(str, pieces)) == answer.text
    assert answer.text == loaded._tokenizer.decode(list(answer.tokens), skip_special_tokens=True)
    whole = "".join(map(str, pieces[:-1]))
    # Only the end may be in the middle of a character; a replacement in what came before is one that stays.
    assert answer.text.startswith(whole)


def test_a_stream_stops_with_its_reader(predictor: GenerationPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(predictor._graph)
    steps: list[int] = []
    advance = kind.advance

    def counted(self: Any, *given: Any) -> None:
        steps.append(1)
        advance(self, *given)

    monkeypatch.setattr(kind, "advance", counted)
    text = max(TEXTS, key=lambda text: len(predictor.generate([text])[0].tokens))
    steps.clear()
    for _ in predictor.stream(text):
        break
    assert len(steps) < MAX_NEW_TOKENS - 2


def test_streams_and_answers_are_the_same(predictor: GenerationPredictor) -> None:
    for settings in (GenerationSettings(), DRAWN, GenerationSettings(max_new_tokens=3)):
        for text in TEXTS[::10]:
            *pieces, answer = predictor.stream(text, settings)
            assert answer == predictor.generate([text], settings)[0]
            assert "".join(map(str, pieces)) == answer.text


def test_what_was_not_read_is_told(predictor: GenerationPredictor) -> None:
    long = "the trail is muddy " * 400
    found = predictor.generate(["dry", "the trail is closed today", TEXTS[-1], long])
    assert [answer.truncated for answer in found] == [False, False, True, True]
    assert len(predictor.choose([long], greedy, most=1)[0]) == 1
    assert len(predictor._encode([long], 0)[0].ids) == MAX_LENGTH


def test_settings_that_make_no_sense(predictor: GenerationPredictor) -> None:
    for wrong in (
        {"beams": 5},
        {"beams": 0},
        {"beams": True},
        {"temperature": 0},
        {"temperature": float("nan")},
        {"temperature": 10**400},
        {"temperature": 10**5000},
        {"seed": 0.0},
        {"top_p": 1.5},
        {"top_k": 0},
        {"seed": -1},
        {"max_new_tokens": 0},
        {"beams": 2, "seed": 1},
    ):
        with pytest.raises(UserError):
            GenerationSettings(**wrong)
    with pytest.raises(UserError, match="up to 12 tokens, and 13 are asked for"):
        predictor.generate(["dry"], GenerationSettings(max_new_tokens=13))
    with pytest.raises(UserError, match="beams"):
        predictor.stream("dry", GenerationSettings(beams=2))


def test_a_temperature_as_low_as_can_be_takes_the_best(loaded: GenerationPredictor) -> None:
    best = loaded.generate(TEXTS[:3])
    for temperature in (1e-308, 5e-324):
        more: dict[str, Any]
        for more in ({}, {"top_k": 3}, {"top_p": 1e-300}):
            assert loaded.generate(TEXTS[:3], GenerationSettings(temperature=temperature, seed=1, **more)) == best
    assert loaded.generate(TEXTS[:3], GenerationSettings(temperature=1e308, top_k=1, seed=1)) == best


def test_what_is_not_settings(loaded: GenerationPredictor) -> None:
    generate = Generator.from_folder(loaded.folder, precision="fp32")
    wrong: Any
    for wrong in ({"beams": 2}, None):
        with pytest.raises(UserError, match="settings must be GenerationSettings; got"):
            generate("dry", wrong)
        with pytest.raises(UserError, match="settings must be GenerationSettings; got"):
            generate.stream("dry", wrong)
    with pytest.raises(UserError, match="a number too long to write are asked for"):
        loaded.generate(["dry"], GenerationSettings(max_new_tokens=10**5000))


def test_what_is_not_a_list_of_texts(predictor: GenerationPredictor) -> None:
    many: list[Any] = [[None], [3], ["dry", b"dry"], [("dry", "wet")], "abc", None]
    for texts in many:
        with pytest.raises(DataError, match="expected a"):
            predictor.generate(texts)
    one: list[Any] = [None, 3, ("dry", "wet")]
    for text in one:
        with pytest.raises(DataError, match=r"texts\[0\]: expected a str"):
            predictor.stream(text)
    with pytest.raises(DataError, match="expected a list of texts"):
        predictor.choose("abc", greedy)


def test_a_text_without_tokens(loaded: GenerationPredictor) -> None:
    with pytest.raises(DataError, match=r"texts\[1\]: the text gives no token"):
        loaded.generate(["dry", ""])
    with pytest.raises(DataError, match=r"texts\[0\]: not valid Unicode"):
        loaded.generate(["\ud800"])


def test_a_generator(written: Path, predictor: GenerationPredictor) -> None:
    with Generator.from_folder(written, precision="fp32") as generate:
        expected = predictor.generate(TEXTS[:3])
        assert generate(TEXTS[0]) == expected[0].text
        assert generate(TEXTS[:3]) == [answer.text for answer in expected]
        assert generate(iter(TEXTS[:3])) == [answer.text for answer in expected]  # type: ignore[call-overload]
        assert "".join(generate.stream(TEXTS[0])) == expected[0].text
        response = generate.respond(TEXTS[:3], GenerationSettings(beams=2))
        assert response.answers == tuple(predictor.generate(TEXTS[:3], GenerationSettings(beams=2)))
        assert (response.version, response.precision) == ("unpublished", "fp32")
        assert generate.status.labels == ()
        assert generate.task == load_info(written).task
        with pytest.raises(DataError, match="expected a list of texts"):
            generate({"dry": 1})  # type: ignore[call-overload]
        with pytest.raises(DataError, match="reads single texts"):
            generate([("a", "b")])  # type: ignore[list-item]
    with pytest.raises(UserError, match="this generator was closed"):
        generate("dry")


def test_each_kind_of_model_has_its_client(gpt: Path, bundle: Path) -> None:
    with pytest.raises(WrongTask, match=r"it is a language model, which writes text .*serve\.Generator"):
        Classifier.from_folder(gpt)
    with pytest.raises(WrongTask, match=r"it is a classifier, which gives labels .*serve\.Classifier"):
        Generator.from_folder(bundle)


def test_what_is_promoted_is_loaded_whatever_it_answers_with(written: Path, bundle: Path, tmp_path: Path) -> None:
    _loads(written)
    _loads(bundle)
    shutil.copytree(written, tmp_path / "bundle")
    (tmp_path / "bundle" / "generation_config.json").unlink()
    with pytest.raises(IntegrityError, match="no generation config"):
        _loads(tmp_path / "bundle")


def test_a_channel_that_moves_to_another_kind_is_refused(gpt: Path, bundle: Path, tmp_path: Path) -> None:
    model = Store.open(tmp_path / "store").model("trails")
    told = {"channel": "production", "actor": "test", "reason": "a test", "decision": None}
    first = model.publish(gpt, manifest_of(gpt), **told, expected=None)  # type: ignore[arg-type]
    with Generator.from_store(tmp_path / "store", "trails", cache_dir=tmp_path / "cache") as generate:
        before = generate("the trail is open")
        second = model.publish(bundle, manifest_of(bundle), **told, expected=first.version)  # type: ignore[arg-type]
        assert not generate.refresh()
        assert generate.status.refused_version == second.version
        assert "gives labels" in str(generate.status.problem)
        assert generate("the trail is open") == before
        again = manifest_of(gpt, accuracy=0.95)
        third = model.publish(gpt, again, **told, expected=second.version)  # type: ignore[arg-type]
        assert generate.refresh()
        assert generate.version == third.version
    # All that is read is there, the second graph as well: without the store it starts as a classifier does.
    shutil.rmtree(tmp_path / "store")
    with Generator.from_store(tmp_path / "store", "trails", cache_dir=tmp_path / "cache") as generate:
        assert generate.status.offline
        assert generate("the trail is open") == before


def test_golden_rows_that_are_contradicted(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "bundle")
    path = folder / "golden.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["tokens"] = {name: [7, *tokens[1:]] for name, tokens in rows[3]["tokens"].items()}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(IntegrityError, match="fp32 does not answer here as where it was made: 1 of 16 golden rows"):
        load_checked(folder)
    path.write_text("")
    with pytest.raises(IntegrityError, match="no golden rows"):
        load_checked(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"bad_words_ids": [[1]]}', "asks for bad_words_ids"),
        ('{"repetition_penalty": 0}', "repetition_penalty: Input should be greater than 0"),
    ],
)
def test_rules_that_cannot_be_kept(gpt: Path, tmp_path: Path, content: str, said: str) -> None:
    """A later version may know more of them; this one must not answer as if they were not there."""
    folder = shutil.copytree(gpt, tmp_path / "bundle")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(IntegrityError, match=said):
        GenerationPredictor(folder)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json"])
def test_a_bundle_that_lacks_a_file(gpt: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(gpt, tmp_path / "bundle")
    (folder / name).unlink()
    with pytest.raises(IntegrityError):
        GenerationPredictor(folder)


def test_both_graphs_are_verified(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """The encoder is a file like the decoder: it is fetched, counted, and compared with the manifest."""
    source = writer(tmp_path_factory, "t5").bundle
    folder = shutil.copytree(source, tmp_path / "bundle")
    manifest = manifest_of(folder)
    (folder / "manifest.json").write_bytes(manifest.to_json())
    assert Generator.from_folder(folder).version == manifest.version
    encoder = folder / "onnx" / "encoder_model.onnx"
    encoder.write_bytes(encoder.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match=r"encoder_model\.onnx: not the file that the manifest beside it names"):
        Generator.from_folder(folder, precision="fp32")


def test_records_of_classifiers_keep_their_bytes(bundle: Path) -> None:
    """Versions are named by them."""
    path = bundle / "bundle.json"
    assert not {"max_new_tokens", "decoder_start_token_id", "eos_token_ids"} & json.loads(path.read_text()).keys()
    assert "encoder_file" not in path.read_text()
    assert BundleInfo.load(bundle).to_pretty_json() == path.read_text()
    for line in (bundle / "golden.jsonl").read_bytes().splitlines():
        assert b"tokens" not in line
        assert GoldenRow.from_json(line, where="golden.jsonl").to_json() == line


def test_a_record_is_of_one_kind(bundle: Path, gpt: Path) -> None:
    for folder, wrong in ((bundle, {"labels": []}), (gpt, {"labels": ["a"]}), (gpt, {"max_new_tokens": None})):
        content = json.loads((folder / "bundle.json").read_text()) | wrong
        with pytest.raises(IntegrityError, match="either has labels or writes text"):
            BundleInfo.from_json(json.dumps(content), where="bundle.json")
