"""Tokens that come one by one: their pieces together are the text of all of them, whatever the tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from retrainer.errors import Stopped
from retrainer.serve.generation import Generated, GenerationPredictor, GenerationSettings
from retrainer.serve.pieces import Pieces, special_ids
from tests.export.tiny_writers import MAX_NEW_TOKENS
from tests.export.writer_bundles import writer

SPECIAL = ["<pad>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in (0x0A, 0x20, 0x61, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xEF, 0xBF, 0xBD, 0xFF)]
PARTS = ["a", "▁", "▁a", "▁▁", "é", "�", "b</w>", "##c", ".", "'", "n't"]
# As Llama's, Mistral's and Gemma's tokenizers have it.
LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def tokenizer(decoder: decoders.Decoder, parts: list[str]) -> Tokenizer:
    vocabulary = {part: place for place, part in enumerate(dict.fromkeys([*SPECIAL, *parts]))}
    made = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    made.decoder = decoder
    return made


def id_of(made: Tokenizer, name: str) -> int:
    token = made.token_to_id(name)
    assert token is not None
    return token


TOKENIZERS = {
    "llama": tokenizer(LLAMA, BYTES + PARTS),
    "bytes": tokenizer(decoders.ByteLevel(), sorted(pre_tokenizers.ByteLevel.alphabet())),
    "metaspace": tokenizer(decoders.Metaspace(), PARTS),
    "wordpiece": tokenizer(decoders.WordPiece(), PARTS),
    "bpe": tokenizer(decoders.BPEDecoder(), PARTS),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_pieces_make_the_text(name: str, data: st.DataObject) -> None:
    made = TOKENIZERS[name]
    tokens = data.draw(st.lists(st.integers(0, made.get_vocab_size()), max_size=20))  # one that is none among them
    pieces = Pieces(made, special_ids(made))
    given_out = ""
    for place, token in enumerate(tokens):
        piece = pieces.add(token)
        given_out += piece
        if piece:  # nothing is held back without need
            assert given_out == made.decode(tokens[: place + 1], skip_special_tokens=True)
    assert made.decode(tokens, skip_special_tokens=True).startswith(given_out)


def test_a_piece_comes_with_its_last_token() -> None:
    made = TOKENIZERS["llama"]
    pieces = Pieces(made, special_ids(made))
    names = ["▁a", "▁a", "<0xC3>", "</s>", "<0xA9>", "a", "<0x0A>", "<0xC3>", "a", "é"]
    found = [pieces.add(id_of(made, name)) for name in names]
    assert found == ["a", " a", "", "", "", "éa", "", "", "��a", "é"]


def test_what_is_kept_does_not_grow() -> None:
    """A long answer costs as much a token as a short one."""
    made = TOKENIZERS["llama"]
    pieces = Pieces(made, special_ids(made))
    for _ in range(200):
        pieces.add(id_of(made, "▁a"))
        assert len(pieces._tokens) <= 2


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> GenerationPredictor:
    """A model with Llama's kind of tokenizer."""
    folder: Path = tmp_path_factory.mktemp("llama") / "bundle"
    shutil.copytree(writer(tmp_path_factory, "gpt2").bundle, folder)
    TOKENIZERS["llama"].save(str(folder / "tokenizer.json"))
    return GenerationPredictor(folder)


@given(data=st.data())
def test_streams_of_bytes(llama: GenerationPredictor, data: st.DataObject) -> None:
    size = llama._tokenizer.get_vocab_size()
    wanted = data.draw(st.lists(st.integers(2, size - 1), min_size=MAX_NEW_TOKENS, max_size=MAX_NEW_TOKENS))
    coming = iter(wanted)
    (encoded,) = llama._encode(["a"], 0)
    *pieces, answer = llama._pieces("a", encoded, llama._ending(GenerationSettings()), lambda row, given: next(coming))
    assert isinstance(answer, Generated)
    assert answer.text == llama._tokenizer.decode(wanted) == "".join(map(str, pieces))


def test_a_stream_stops_where_no_piece_comes(llama: GenerationPredictor) -> None:
    (encoded,) = llama._encode(["a"], 0)
    chosen: list[int] = []

    def choose(row: int, given: object) -> int:
        chosen.append(id_of(llama._tokenizer, "<0xC3>"))
        return chosen[-1]

    ending = llama._ending(GenerationSettings(), lambda: len(chosen) >= 3)
    with pytest.raises(Stopped):
        next(llama._pieces("a", encoded, ending, choose))
    assert len(chosen) == 3
