"""Tiny random models that write text, with and without an encoder, saved as the train step saves a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GPT2Config,
    LlamaConfig,
    MT5Config,
    PreTrainedTokenizerFast,
    T5Config,
    UMT5Config,
    set_seed,
)

from tests.export.tiny import WORDS

MAX_LENGTH = 16
MAX_NEW_TOKENS = 12
PAD, EOS = "<pad>", "</s>"

_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "initializer_factor": 2.0}
# Weights are wide apart, so that answers depend on the text and rarely stand level.
ARCHITECTURES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "gpt2": (GPT2Config, {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.5}),
    "llama": (
        LlamaConfig,
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
            "initializer_range": 0.5,
        },
    ),
    "t5": (T5Config, _T5),
    # Its feed-forward layers are gated.
    "mt5": (MT5Config, _T5),
    # Besides, each layer has its own bias for positions.
    "umt5": (UMT5Config, _T5),
}
WITH_ENCODER = ("t5", "mt5", "umt5")
TASKS = {name: "text2text-generation" if name in WITH_ENCODER else "text-generation" for name in ARCHITECTURES}
# Beside the tokenizer's own, tokens that come often: so some answers end early, and at different lengths.
ENDS = {"gpt2": [1, 276, 300], "llama": [1], "t5": [1, 194, 166], "mt5": [1], "umt5": [1]}


def tokenizer(*, ends_texts: bool) -> PreTrainedTokenizerFast:
    """Bytes and what was merged of them. A character outside of ASCII is several tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[PAD, EOS],
        show_progress=False,
    )
    backend.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    if ends_texts:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {EOS}", special_tokens=[(EOS, backend.token_to_id(EOS))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS)


def save_writer(folder: Path, architecture: str, *, seed: int = 11, **generation: Any) -> Path:
    """A random model whose answers depend on the text.

    :param generation: of its generation config.
    """
    kind, options = ARCHITECTURES[architecture]
    names = tokenizer(ends_texts=architecture in WITH_ENCODER)
    set_seed(seed)
    ids = {"pad_token_id": names.pad_token_id, "eos_token_id": names.eos_token_id, "bos_token_id": None}
    if architecture in WITH_ENCODER:
        ids["decoder_start_token_id"] = names.pad_token_id
    config = kind(**options, vocab_size=len(names), **ids)
    auto = AutoModelForSeq2SeqLM if architecture in WITH_ENCODER else AutoModelForCausalLM
    model = auto.from_config(config)
    for key, value in {**ids, "eos_token_id": ENDS[architecture], **generation}.items():
        setattr(model.generation_config, key, value)
    model.save_pretrained(folder)
    names.save_pretrained(folder)
    return folder
