"""Texts that are cut before they are tokenised give the tokens of the whole texts, whatever the tokenizer."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from retrainer.errors import DataError
from retrainer.serve.long_texts import CHARACTERS_PER_TOKEN, MOST_GROWTH, WORTH_CUTTING, Beginnings, growth
from retrainer.serve.predictor import Predictor

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


def normalising(*steps: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(list(steps))
    return tokenizer


some = st.text("ab é中", max_size=4)
EXPRESSIONS = [
    "",
    "a",
    "a*",
    "a+",
    "(?=a)",
    "(?!a)",
    r"\b",
    "^",
    "$",
    "a|",
    r"\s{2,}",
    "a{0,2}",
    "(a)+",
    "[ab]",
    "(?:b)",
    ".",
]
steps = st.one_of(
    st.builds(normalizers.Replace, some, some),
    st.builds(lambda expression, by: normalizers.Replace(Regex(expression), by), st.sampled_from(EXPRESSIONS), some),
    st.builds(normalizers.Prepend, some),
    st.just(normalizers.ByteLevel()),
    st.just(normalizers.Strip()),
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(steps, max_size=4), text=st.text("ab é中", max_size=30))
def test_a_text_grows_no_more_than_is_foreseen(steps: list[Any], text: str) -> None:
    tokenizer = normalising(*steps)
    assert tokenizer.normalizer is not None
    try:
        grown = tokenizer.normalizer.normalize_str(text)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reject()  # tokenizers panics where some expressions match nothing
    # At the end of a text there is one more place for what matches nothing.
    assert len(grown) <= growth(tokenizer) * (len(text) + 1)


def precompiled(*strings: bytes) -> Any:
    """Rules of SentencePiece with these replacements, and a trie that finds none of them."""
    trie = struct.pack("<I", 0)
    return normalizers.Precompiled(struct.pack("<I", len(trie)) + trie + b"".join(text + b"\0" for text in strings))


def test_how_much_a_text_may_grow() -> None:
    assert growth(normalising(precompiled(b"a", "صلى الله عليه وسلم".encode()))) == 18
    assert growth(normalising(precompiled(b"x" * 10**6))) > MOST_GROWTH
    assert growth(normalising(*[normalizers.Replace("a", "aa")] * 7)) > MOST_GROWTH
    bytes_of_bytes = normalising()
    bytes_of_bytes.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(use_regex=False)] * 4)
    assert growth(bytes_of_bytes) > MOST_GROWTH
    tidy = [normalizers.Replace(Regex(r"\s+"), " ")] * 30  # as many tokenizers do it, and nothing grows
    assert growth(normalising(*tidy)) == 1
    for tokenizer, _ in TOKENIZERS:
        assert growth(tokenizer) <= 4


def test_a_text_that_is_too_long_is_refused_and_not_tokenised(bundle: Path) -> None:
    """Where it has a place to cut it at, it never is too long."""
    predictor = Predictor(bundle)
    with pytest.raises(DataError, match=r"texts\[1\]: the text has 5,000,000 characters.*at most 4,194,304"):
        predictor.logits(["open", "x" * 5_000_000])
    assert (predictor.logits(["open " * 2_000_000]) == predictor.logits(["open " * 5_000])).all()


def test_many_texts_are_tokenised_in_portions(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(["open"] * (1 + number % 4)) for number in range(50)]
    expected = Predictor(bundle).logits(texts, batch_size=1)
    monkeypatch.setattr("retrainer.serve.encoding.MOST_CHARACTERS", 20)
    assert (Predictor(bundle).logits(texts, batch_size=1) == expected).all()
