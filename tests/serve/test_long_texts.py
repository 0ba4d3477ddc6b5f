"""Texts that are cut before they are tokenised give the tokens of the whole texts, whatever the tokenizer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from retrainer.serve.long_texts import CHARACTERS_PER_TOKEN, WORTH_CUTTING, Beginnings

CORPUS = [
    "the trail is open",
    "rain fell and the trail is closed",
    "naïve café déjà vu",
    "1,234 words; they're 'fine'",
] * 5
SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTHS = (8, 9)


def _trained(model: Any, trainer: Any, normalizer: Any, pre_tokenizer: Any, max_length: int) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True), *SPECIAL[1:3]])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    tokenizer.enable_truncation(max_length, strategy="longest_first", direction="right")
    return tokenizer


def word_piece(max_length: int) -> Tokenizer:
    """As BERT's."""
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    model = models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20)
    return _trained(model, trainer, normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), max_length)


def byte_pairs(max_length: int) -> Tokenizer:
    """As RoBERTa's."""
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    return _trained(models.BPE(), trainer, None, pre_tokenizers.ByteLevel(add_prefix_space=False), max_length)


def sentence_pieces(max_length: int) -> Tokenizer:
    """As XLNet's and DeBERTa's."""
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)
    normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return _trained(models.Unigram(), trainer, normalizer, pre_tokenizer, max_length)


def pieces_of_a_line(max_length: int) -> Tokenizer:
    """As T5's: one step that splits at spaces and marks them."""
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)
    return _trained(models.Unigram(), trainer, normalizers.NFKC(), pre_tokenizers.Metaspace(), max_length)


MAKERS = (word_piece, byte_pairs, sentence_pieces, pieces_of_a_line)
TOKENIZERS = [(make(length), length) for make, length in itertools.product(MAKERS, LENGTHS)]

pieces = st.one_of(
    st.sampled_from(
        ["the", "trail", "open", "'s", "they're", "12", ",", "x" * 30, "é", "e\u0301", "Σ", "中文", "``", "[MASK]"]
    ),
    st.sampled_from(
        [" ", "  ", "\n", "\t ", "\u00a0", "\u3000 ", "\u200b", "\x00", "[SEP]", "\u0301 ", "▁", "\u0d4e "]
    ),
    st.text(max_size=4),
)
# Long enough to be cut, and often: the same pieces again and again, with something at the end.
long_texts = st.builds(
    lambda parts, times, end: "".join(parts) * times + end,
    st.lists(pieces, min_size=1, max_size=25),
    st.integers(1, 15),
    st.text("ab .\u0301'", max_size=5),
)


@settings(max_examples=250, deadline=None)
@given(text=st.one_of(long_texts, st.tuples(long_texts, long_texts)), which=st.sampled_from(range(len(TOKENIZERS))))
def test_the_tokens_are_those_of_the_whole_text(text: Any, which: int) -> None:
    tokenizer, max_length = TOKENIZERS[which]
    short = Beginnings(tokenizer, max_length).of(text)
    (whole,), (cut,) = tokenizer.encode_batch_fast([text]), tokenizer.encode_batch_fast([short])
    assert (cut.ids, cut.type_ids) == (whole.ids, whole.type_ids)


@pytest.mark.parametrize("which", range(len(TOKENIZERS)))
def test_long_texts_are_cut(which: int) -> None:
    tokenizer, max_length = TOKENIZERS[which]
    beginnings = Beginnings(tokenizer, max_length)
    text = "the trail is open and " * 1000
    short = beginnings.of(text)
    assert text.startswith(str(short))
    assert len(short) <= CHARACTERS_PER_TOKEN * max_length
    just_too_short = text[: WORTH_CUTTING * CHARACTERS_PER_TOKEN * max_length - 1]
    assert beginnings.of(just_too_short) is just_too_short
    assert beginnings.of(("yes", text)) == ("yes", short)


def test_a_beginning_with_too_few_tokens_is_not_enough() -> None:
    tokenizer, max_length = TOKENIZERS[0]
    text = "a " + "\u200b\n" * 500 + "b " * 4000
    short = Beginnings(tokenizer, max_length).of(text)
    assert len(text) > len(short) > 1000
    assert tokenizer.encode(short).ids == tokenizer.encode(text).ids


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("normalizer", normalizers.Replace(Regex(r"\w \w"), "x")),
        ("normalizer", normalizers.Replace("n a", "x")),
        ("normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Prepend("x")])),
        ("pre_tokenizer", pre_tokenizers.Metaspace(split=False)),
        ("pre_tokenizer", pre_tokenizers.ByteLevel(use_regex=False)),
        ("pre_tokenizer", pre_tokenizers.CharDelimiterSplit("n")),
        ("pre_tokenizer", None),
    ],
)
def test_a_tokenizer_that_may_look_further_gets_the_whole_text(part: str, step: Any) -> None:
    tokenizer = word_piece(8)
    setattr(tokenizer, part, step)
    text = "the trail is open and " * 1000
    assert Beginnings(tokenizer, 8).of(text) is text


def test_what_is_cut_from_the_left_or_not_at_all_is_left_alone() -> None:
    tokenizer = word_piece(8)
    tokenizer.enable_truncation(8, strategy="longest_first", direction="left")
    text = "the trail is open and " * 1000
    assert Beginnings(tokenizer, 8).of(text) is text
    assert Beginnings(word_piece(8), None).of(text) is text
    spaced = word_piece(8)
    spaced.add_tokens(["open and"])
    assert Beginnings(spaced, 8).of(text) is text
