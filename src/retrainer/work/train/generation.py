"""Training of models that write text: their rows, their batches, their scores, and what a base model of them needs.

Rows are tokenised in two parts, input and output, each cut to its own length. A model with an encoder reads the one and
writes the other; a model without reads both in one row, and only the output counts for the loss. Not here: the training
itself (``trainer.py``), which is that of classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

from retrainer.artifacts.training import CutRows
from retrainer.errors import ModelError, first_line
from retrainer.spec.model import Model, Pipeline
from retrainer.work.snapshot_texts import read_split
from retrainer.work.train.encoding import BATCH_ROWS
from retrainer.work.train.loading import Base
from retrainer.work.train.metrics import Scores
from retrainer.work.train.shares import IGNORED
from retrainer.work.train.trainer import diverged

# Of a difference, so much may come from rounding.
_ROUNDING = 1e-4


class Sequences:
    """Token ids of many rows, packed in one array.

    :param ids: of all rows, int32.
    :param offsets: row ``i`` is ``[offsets[i], offsets[i + 1])``, int64, length rows + 1.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.ids = np.fromiter((token for row in rows for token in row), dtype=np.int32)
        self.offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[int]:
        row: list[int] = self.ids[self.offsets[index] : self.offsets[index + 1]].tolist()
        return row


class WrittenRows(torch.utils.data.Dataset):  # type: ignore[misc]
    """Rows of token ids without padding: what is read, and what is to be written.

    :param joined: one row of both, for a model without an encoder.
    :param cut: how many of them were too long.
    """

    def __init__(self, inputs: Sequences, outputs: Sequences, *, joined: bool, cut: CutRows) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.joined = joined
        self.cut = cut

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        read, written = self.inputs[index], self.outputs[index]
        labels = written
        if self.joined:
            labels = [IGNORED] * len(read) + written
            read = read + written
        return {"input_ids": read, "attention_mask": [1] * len(read), "labels": labels}


def encode_for_encoder(split: Path, tokenizer: PreTrainedTokenizerFast, model: Model) -> WrittenRows:
    """Tokenise a split of a snapshot for a model that has an encoder: two rows each, with its own special tokens."""
    return _encode(split, tokenizer, model, joined=False)


def encode_for_decoder(split: Path, tokenizer: PreTrainedTokenizerFast, model: Model) -> WrittenRows:
    """Tokenise a split of a snapshot for a model that continues what it reads: one row of input, output and its end."""
    return _encode(split, tokenizer, model, joined=True)


def _encode(split: Path, tokenizer: PreTrainedTokenizerFast, model: Model, *, joined: bool) -> WrittenRows:
    read: list[list[int]] = []
    written: list[list[int]] = []
    cut_inputs = cut_outputs = 0
    for batch in read_split(split, ["text", "target"]).to_batches(max_chunksize=BATCH_ROWS):
        texts, targets = (batch.column(name).to_pylist() for name in ("text", "target"))
        inputs = tokenizer(texts, truncation=True, max_length=model.max_length)
        read += inputs["input_ids"]
        cut_inputs += sum(bool(row.overflowing) for row in inputs.encodings)
        for ids in tokenizer(text_target=targets, add_special_tokens=not joined, verbose=False)["input_ids"]:
            whole = ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]
            cut_outputs += len(whole) > model.max_new_tokens
            # One that was cut has no end, or the model would learn to stop there.
            written.append(whole[: model.max_new_tokens])
    cut = CutRows(inputs=cut_inputs, outputs=cut_outputs)
    return WrittenRows(Sequences(read), Sequences(written), joined=joined, cut=cut)


def collate(base: Base, *, pad_to_multiple_of: int | None) -> DataCollatorForSeq2Seq:
    """Makes a padded batch of rows. Padding is not learnt, also where its token is the one that ends an output."""
    return DataCollatorForSeq2Seq(
        base.tokenizer, model=base.model, pad_to_multiple_of=pad_to_multiple_of, label_pad_token_id=IGNORED
    )


def scores_with_encoder(names: tuple[str, ...], *, positive: int, where: str) -> Scores:
    """What a training measures on validation rows."""
    return Scores(partial(_scores, names, where), of_batch=_written_exactly)


def scores_without_encoder(names: tuple[str, ...], *, positive: int, where: str) -> Scores:
    """The same of rows in which each token answers to the one before it."""
    return Scores(partial(_scores, names, where), of_batch=_continued_exactly)


def _continued_exactly(logits: Any, labels: Any) -> Any:
    logits = logits[0] if isinstance(logits, tuple) else logits
    return _written_exactly(logits[:, :-1], labels[:, 1:])


def _written_exactly(logits: Any, labels: Any) -> Any:
    """For each row 1 if its output is what a greedy search would write, else 0; NaN where the logits are not numbers.

    Nothing has to be written for that: each token is the likeliest after the right ones before it, exactly if all of
    them are what the search would choose.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    exact = ((logits.argmax(dim=-1) == labels) | (labels == IGNORED)).all(dim=1).float()
    return torch.where(torch.isfinite(logits).flatten(1).all(dim=1), exact, torch.nan)


def _scores(names: tuple[str, ...], where: str, prediction: Any) -> dict[str, float]:
    exact = prediction.predictions
    if np.isnan(exact).any():
        raise diverged(where, "the model's answers on validation rows are not numbers")
    return {"exact_match": float(exact.mean())} if "exact_match" in names else {}


def no_head(labels: tuple[str, ...]) -> dict[str, Any]:
    """What the configuration has to know of labels: there are none."""
    return {}


def ready_with_encoder(base: Base, loaded: dict[str, Any], pipeline: Pipeline) -> None:
    """Make a model with an encoder, and its tokenizer, ready for this training.

    :param loaded: what transformers says of the weights.
    :raises ModelError: they cannot be.
    """
    _ready(base, loaded, pipeline)
    config = base.model.generation_config
    if config.decoder_start_token_id is None and config.bos_token_id is None:
        raise ModelError(
            "its configuration does not say with which token the decoder starts",
            where=_where(pipeline),
            hint="set decoder_start_token_id in its config.json; of T5 it is that of the padding token",
        )


def ready_without_encoder(base: Base, loaded: dict[str, Any], pipeline: Pipeline) -> None:
    """The same of a model that continues what it reads.

    :raises ModelError: it also looks at what comes after a token, and so would have the answer before its eyes.
    """
    _ready(base, loaded, pipeline)
    row = torch.full((1, 4), base.tokenizer.eos_token_id)
    other = row.clone()
    other[0, -1] = 0 if base.tokenizer.eos_token_id else 1
    with torch.inference_mode():
        logits = [base.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0] for ids in (row, other)]
    *before, last = (logits[0] - logits[1]).abs().amax(dim=-1).tolist()
    if max(before) > last * _ROUNDING:
        raise ModelError(
            f"a {base.model.config.model_type} reads in both directions, so it cannot continue a text",
            where=_where(pipeline),
            hint="choose a base that was trained to continue text, such as GPT-2",
        )


def _ready(base: Base, loaded: dict[str, Any], pipeline: Pipeline) -> None:
    tokenizer, model = base.tokenizer, base.model
    absent = sorted([*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"{len(absent)} weights are not in it, or have another shape, first {absent[0]}; a model that writes text "
            "needs all of them",
            where=_where(pipeline),
            hint=f"name a base that was trained for {pipeline.task}",
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "its tokenizer has no token that ends a text, so no output would end",
            where=_where(pipeline),
            hint="set eos_token in its tokenizer_config.json",
        )
    # Behind the text, where it does not move positions; whoever generates in batches pads in front.
    tokenizer.padding_side = "right"
    settings = model.generation_config
    settings.max_new_tokens, settings.max_length = pipeline.model.max_new_tokens, None
    settings.pad_token_id = tokenizer.pad_token_id
    ends = settings.eos_token_id
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if tokenizer.eos_token_id not in ends:
        ends = [tokenizer.eos_token_id, *ends]
    settings.eos_token_id = ends if len(ends) > 1 else ends[0]
    try:
        settings.validate(strict=True)  # else it is found when the first checkpoint is saved
    except ValueError as error:
        raise ModelError(
            f"its generation_config.json contradicts itself: {first_line(error)}",
            where=_where(pipeline),
            hint="correct it there",
        ) from None


def _where(pipeline: Pipeline) -> str:
    return f"model.base: {pipeline.model.base}"
