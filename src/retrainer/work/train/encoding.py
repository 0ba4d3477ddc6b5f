"""Token ids of a split, packed in two arrays instead of a Python list a row; and what a model answers to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerFast

from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.artifacts.training import CutRows
from retrainer.spec.model import Model
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import label_matrix, read_split
from retrainer.work.train.loading import Base

BATCH_ROWS = 2_000


class EncodedRows(torch.utils.data.Dataset):  # type: ignore[misc]
    """Rows of token ids without padding.

    :param columns: model input name to the concatenated values of all rows, int32.
    :param offsets: row ``i`` is ``[offsets[i], offsets[i + 1])`` of each column, int64, length rows + 1.
    :param labels: label index of each row, int64; where a row has any number of labels which of all it has, as 0 and 1,
        float32 ``[rows, labels]``.
    :cvar cut: not counted.
    """

    cut: CutRows | None = None

    def __init__(
        self,
        columns: dict[str, npt.NDArray[np.int32]],
        offsets: npt.NDArray[np.int64],
        labels: npt.NDArray[Any],
    ) -> None:
        self.columns = columns
        self.offsets = offsets
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = self.offsets[index], self.offsets[index + 1]
        row: dict[str, Any] = {name: values[start:end].tolist() for name, values in self.columns.items()}
        row["labels"] = self.labels[index].tolist()
        return row

    def first(self, count: int) -> EncodedRows:
        """The first rows alone."""
        return EncodedRows(self.columns, self.offsets[: count + 1], self.labels[:count])


def encode(split: Path, tokenizer: PreTrainedTokenizerFast, model: Model) -> EncodedRows:
    """Tokenise a split of a snapshot; pairs where it has a second text."""
    table = read_split(split)
    column = table.column("label")
    if pa.types.is_list(column.type):
        known = SnapshotStatistics.load(split.parent).labels
        labels = label_matrix(column, len(known)).astype(np.float32)
    else:
        labels = column.to_numpy()
    parts: dict[str, list[npt.NDArray[np.int32]]] = {}
    lengths: list[int] = []
    for texts, pairs in _batches(table):
        encoded = tokenizer(texts, pairs, truncation=True, max_length=model.max_length)
        lengths += [len(row) for row in encoded["input_ids"]]
        for name, rows in encoded.items():
            parts.setdefault(name, []).append(np.fromiter((v for row in rows for v in row), dtype=np.int32))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return EncodedRows({name: np.concatenate(blocks) for name, blocks in parts.items()}, offsets, labels)


def say_what_was_cut(rows: Mapping[str, Any], model: Model, reporter: Reporter) -> dict[str, CutRows]:
    """Warn of rows that are longer than the model reads or writes.

    :return: split to how many there are, of those where they are counted.
    """
    cut = {split: part.cut for split, part in rows.items() if part.cut is not None}
    for split, counts in cut.items():
        for what, count, key, most in (
            ("inputs", counts.inputs, "max_length", model.max_length),
            ("outputs", counts.outputs, "max_new_tokens", model.max_new_tokens),
        ):
            if count:
                text = f"{count:,} of {len(rows[split]):,} {split} {what} are longer than {most:,} tokens and were cut"
                reporter.log(f"{text} (model.{key})", level="warning")
    return cut


def collate(base: Base, *, pad_to_multiple_of: int | None) -> DataCollatorWithPadding:
    """Makes a padded batch of rows."""
    return DataCollatorWithPadding(base.tokenizer, pad_to_multiple_of=pad_to_multiple_of)


def _batches(table: Any) -> Iterator[tuple[list[str], list[str] | None]]:
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        if batch.num_rows:
            pairs = batch.column("text_pair").to_pylist() if "text_pair" in batch.schema.names else None
            yield batch.column("text").to_pylist(), pairs


def logits_of(
    model: PreTrainedModel, rows: EncodedRows, collate: Callable[[list[dict[str, Any]]], Any], batch_rows: int
) -> npt.NDArray[np.float32]:
    """What a model answers to each row, float32 ``[rows, labels]``. It is left in evaluation mode.

    By itself, where the Trainer's own loop would wait for the other processes of a distributed training.
    """
    read = inspect.signature(model.forward).parameters.keys() - {"labels"}
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    answers: list[npt.NDArray[np.float32]] = []
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), batch_rows):
            batch = collate([rows[int(at)] for at in by_length[start : start + batch_rows]])
            fed = {name: values.to(model.device) for name, values in batch.items() if name in read}
            answers.append(model(**fed).logits.float().cpu().numpy())
    result = np.empty((len(rows), answers[0].shape[1]), dtype=np.float32)
    result[by_length] = np.concatenate(answers)
    return result
