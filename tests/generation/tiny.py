"""Tiny models that write text, and rows that they can learn: T5 with an encoder, GPT-2 without."""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
    set_seed,
)

WORDS = tuple("a red blue green old new small large car house tree river is was here there".split())  # noqa: SIM905
# The task to learn: each word to its answer, in order.
ANSWERS = {word: WORDS[::-1][at] for at, word in enumerate(WORDS)}
POSITIONS = 64


def tokenizer(*, ends: bool) -> PreTrainedTokenizerFast:
    """Whole words.

    :param ends: T5's special tokens, with ``</s>`` after each text; else GPT-2's only one, and none for padding.
    """
    special = ["<pad>", "</s>", "<unk>"] if ends else ["<|endoftext|>"]
    vocabulary = {word: at for at, word in enumerate([*special, *(f"▁{word}" for word in WORDS), "▁", "\n"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>" if ends else "▁"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    if not ends:
        return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def save_t5(folder: Path, *, layers: int = 1, kind: str = "t5") -> Path:
    """An encoder of so many layers, and a decoder of one."""
    words = tokenizer(ends=True)
    set_seed(7)
    config_class, model_class = {
        "t5": (T5Config, T5ForConditionalGeneration),
        "umt5": (UMT5Config, UMT5ForConditionalGeneration),
    }[kind]
    config = config_class(
        vocab_size=len(words),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=layers,
        num_decoder_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    model_class(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_gpt2(folder: Path) -> Path:
    """A decoder of two layers."""
    words = tokenizer(ends=False)
    set_seed(7)
    config = GPT2Config(
        vocab_size=len(words),
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=POSITIONS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def rows(count: int, *, longest: int = 3, seed: int = 3) -> list[tuple[str, str]]:
    """Inputs, all different, and their outputs."""
    source = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        words = [source.choice(WORDS) for _ in range(source.randint(1, longest))]
        found[" ".join(words)] = " ".join(ANSWERS[word] for word in words)
    return list(found.items())
