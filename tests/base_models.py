"""Small random base models of the types that a pipeline may name, each with the tokenizer class of its type.

As on the hub: a pretrained model without a classifier's head, and the type's own special tokens, template, token types
and padding side. The tokenizers are trained on a few lines of made-up text.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

MAX_LENGTH = 32
_ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_POSITIONS = {"max_position_embeddings": 64}
_ROBERTA = {"max_position_embeddings": 64, "type_vocab_size": 1}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "pooler_hidden_size": 16}
_DEBERTA_V2 = {**_DEBERTA, "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
_DECODER = {**_ENCODER, "max_position_embeddings": 64}

_SUBJECTS = (
    "the trail",
    "the upper loop",
    "Blankets Creek",
    "rope mill",
    "every bridge",
    "naïve café",
    "the lower lot",
)
_STATES = {
    "open": ("is open", "reopened today!", "has dry dirt, ride on", "is clear"),
    "closed": ("is closed", "is muddy; stay off", "shut after the storm", "has a washed-out bridge"),
}
_TIMES = ("until Monday", "this morning", "at 10:30", "after 2.5 inches of rain", "all week", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """One type.

    :param model: class of the pretrained model.
    :param config: what is small about it.
    :param tokenizer: writes the files of the type's tokenizer, made from lines of text, and gives it back.
    """

    model: str
    config: Mapping[str, Any]
    tokenizer: Callable[[list[str], Path], Any]


def _trained(name: str, **options: Any) -> Callable[[list[str], Path], Any]:
    """Of that class, saved with its ``tokenizer.json``."""

    def write(lines: list[str], folder: Path) -> Any:
        tokenizer = getattr(transformers, name)(**options).train_new_from_iterator(lines, 300)
        tokenizer.save_pretrained(folder)
        return tokenizer

    return write


def _sentencepiece(name: str, file: str, **options: Any) -> Callable[[list[str], Path], Any]:
    """Of that class, with SentencePiece's file alone, as microsoft/deberta-v3-base is on the hub.

    :param file: what the class calls it.
    :param options: of SentencePiece: which ids and pieces are special.
    """

    def write(lines: list[str], folder: Path) -> Any:
        made = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=made,
            vocab_size=200,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
            **options,
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(made.getvalue())
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        return getattr(transformers, name).from_pretrained(folder)

    return write


def _modernbert(lines: list[str], folder: Path) -> Any:
    """ModernBERT has no class of its own: bytes in pairs, and a template for special tokens."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


BASE_MODELS: Mapping[str, BaseModel] = {
    "bert": BaseModel(model="BertModel", config={**_ENCODER, **_POSITIONS}, tokenizer=_trained("BertTokenizer")),
    "distilbert": BaseModel(
        model="DistilBertModel",
        config={"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, **_POSITIONS},
        tokenizer=_trained("BertTokenizer"),
    ),
    "roberta": BaseModel(model="RobertaModel", config={**_ENCODER, **_ROBERTA}, tokenizer=_trained("RobertaTokenizer")),
    "xlnet": BaseModel(
        model="XLNetModel",
        config={"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
        tokenizer=_sentencepiece(
            "XLNetTokenizer",
            "spiece.model",
            **{"unk_id": 0, "bos_id": 1, "eos_id": 2},
            control_symbols=["<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"],
        ),
    ),
    "deberta": BaseModel(
        model="DebertaModel", config={**_ENCODER, **_DEBERTA, **_POSITIONS}, tokenizer=_trained("DebertaTokenizer")
    ),
    "deberta-v2": BaseModel(
        model="DebertaV2Model",
        config={**_ENCODER, **_DEBERTA_V2, **_POSITIONS, "conv_kernel_size": 3, "conv_act": "gelu"},
        tokenizer=_trained("DebertaV2Tokenizer"),
    ),
    "deberta-v3": BaseModel(
        model="DebertaV2Model",
        config={**_ENCODER, **_DEBERTA_V2, **_POSITIONS, "position_biased_input": False},
        tokenizer=_sentencepiece(
            "DebertaV2Tokenizer",
            "spm.model",
            **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
            **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
        ),
    ),
    "electra": BaseModel(
        model="ElectraModel",
        config={**_ENCODER, **_POSITIONS, "embedding_size": 8},
        tokenizer=_trained("BertTokenizer"),
    ),
    "albert": BaseModel(
        model="AlbertModel",
        config={**_ENCODER, **_POSITIONS, "embedding_size": 8},
        tokenizer=_sentencepiece(
            "AlbertTokenizer",
            "spiece.model",
            **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1},
            control_symbols=["[CLS]", "[SEP]"],
            user_defined_symbols=["[MASK]"],
        ),
    ),
    "mpnet": BaseModel(model="MPNetModel", config={**_ENCODER, **_POSITIONS}, tokenizer=_trained("MPNetTokenizer")),
    "modernbert": BaseModel(
        model="ModernBertModel",
        config={**_ENCODER, **_POSITIONS, "local_attention": 8, "global_attn_every_n_layers": 2},
        tokenizer=_modernbert,
    ),
    "gpt2": BaseModel(
        model="GPT2Model",
        config={"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
        tokenizer=_trained("GPT2Tokenizer"),
    ),
    "gpt_neox": BaseModel(model="GPTNeoXModel", config=_DECODER, tokenizer=_trained("GPTNeoXTokenizer")),
    "qwen2": BaseModel(
        model="Qwen2Model",
        config={**_DECODER, "num_key_value_heads": 1},
        tokenizer=_trained("Qwen2Tokenizer", padding_side="left"),
    ),
}


def save_base_model(folder: Path, kind: str) -> Path:
    """A base model of a type, as its authors would have saved it."""
    made = BASE_MODELS[kind]
    tokenizer = made.tokenizer([text for text, _ in statuses(200)], folder)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    model_class = getattr(transformers, made.model)
    transformers.set_seed(3)
    # Wide enough a start for answers that depend on the text.
    model_class(
        model_class.config_class(vocab_size=len(tokenizer), initializer_range=0.3, **special, **made.config)
    ).save_pretrained(folder)
    return folder


def statuses(count: int, *, seed: int = 1) -> Iterator[tuple[str, str]]:
    """Made-up texts with their labels, some longer than a model reads."""
    chance = random.Random(seed)
    for number in range(count):
        label = chance.choice(sorted(_STATES))
        parts = [
            f"{chance.choice(_SUBJECTS)} {chance.choice(_STATES[label])} {chance.choice(_TIMES)}".strip()
            for _ in range(chance.choice((1, 1, 2, 12)))
        ]
        yield f"{', '.join(parts)} #{number}", label
