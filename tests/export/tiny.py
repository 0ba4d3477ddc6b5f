"""Tiny random classifiers of several architectures, saved as the train step saves a checkpoint."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    set_seed,
)

from retrainer.serve.texts import Text
from retrainer.work.export.sample import Row

LABELS = ("open", "closed", "partly")
MAX_LENGTH = 24
_TEXT = """the trail is open closed muddy dry today until monday rain fell all night stay off please enjoy lower upper
loop bridge out crews working no yes not never north south ride walk now again"""
WORDS = tuple(_TEXT.split())
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WIDTH = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": MAX_LENGTH + 4,
}

ARCHITECTURES: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "bert": (BertConfig, _WIDTH),
    "distilbert": (
        DistilBertConfig,
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": MAX_LENGTH},
    ),
    "roberta": (RobertaConfig, {**_WIDTH, "type_vocab_size": 1}),
    "electra": (ElectraConfig, {**_WIDTH, "embedding_size": 16}),
    "deberta-v2": (
        DebertaV2Config,
        {
            **_WIDTH,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pooler_hidden_size": 16,
            "type_vocab_size": 0,
        },
    ),
}


def tokenizer(*, types: bool = True) -> PreTrainedTokenizerFast:
    """Whole words, [CLS] a [SEP] b [SEP]."""
    vocabulary = {word: index for index, word in enumerate([*_SPECIAL, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1" if types else "[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask", *(["token_type_ids"] if types else [])],
    )


def save_checkpoint(folder: Path, architecture: str = "bert", *, labels: Sequence[str] = LABELS) -> Path:
    """A random classifier whose answers depend on the text enough to be told apart."""
    kind, options = ARCHITECTURES[architecture]
    names = tokenizer(types=architecture not in {"distilbert", "roberta"})
    set_seed(7)
    config = kind(
        **options,
        vocab_size=len(names),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        pad_token_id=names.pad_token_id,
        initializer_range=0.4,
    )
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    names.save_pretrained(folder)
    return folder


def sentence(source: random.Random, words: int) -> str:
    return " ".join(source.choice(WORDS) for _ in range(words))


def rows(count: int, *, pairs: bool = False, longest: int = 40) -> list[Row]:
    """Rows of every length up to ``longest`` words, some of which are cut."""
    source = random.Random(3)
    found = []
    for index in range(count):
        words = 1 + index * longest // count
        text: Text = sentence(source, words)
        if pairs:
            text = (sentence(source, words), sentence(source, 1 + source.randrange(words)))
        found.append(Row(hashlib.blake2b(repr(text).encode(), digest_size=8).hexdigest(), text))
    return found


def labelled(count: int, checkpoint: Path, *, noise: float, seed: int = 5) -> list[Row]:
    """Rows whose labels are the checkpoint's own answers, but for some that are drawn at random.

    :param noise: share of rows whose label is drawn.
    """
    source = random.Random(seed)
    texts = [sentence(source, 1 + source.randrange(20)) for _ in range(count)]
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    names = AutoTokenizer.from_pretrained(checkpoint)
    with torch.inference_mode():
        encoded = names(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        answers = model(**encoded).logits.argmax(dim=1).tolist()
    return [
        Row(f"{index:016x}", text, source.randrange(len(LABELS)) if source.random() < noise else answer)
        for index, (text, answer) in enumerate(zip(texts, answers, strict=True))
    ]
