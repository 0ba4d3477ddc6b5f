"""Rows of tokens to rectangles: which rows share a batch, and the arrays that a graph reads.

Rows of like length share a batch, so that little is computed for padding. The caller restores the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt


class Encoding(Protocol):
    """One tokenised row, as ``tokenizers`` returns it."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""

    @property
    def type_ids(self) -> list[int]:
        """0 for tokens of the first text, 1 for the second, by the tokenizer's own rule."""


def batches(
    lengths: Sequence[int], *, max_tokens: int, batch_size: int | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of the rows of each batch, longest rows first. Each position occurs once.

    :param lengths: tokens of each row.
    :param max_tokens: most tokens in a batch, padding included. A longer row gets a batch of its own.
    :param batch_size: rows of a batch; ``max_tokens`` then does not count.
    """
    # Longest first: the arena that onnxruntime keeps is sized once instead of growing batch by batch.
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        rows = batch_size if batch_size is not None else max(1, max_tokens // longest)
        yield order[start : start + rows]
        start += rows


def pad(
    rows: Sequence[Encoding],
    names: Sequence[str],
    *,
    pad_token_id: int,
    pad_token_type_id: int,
    side: Literal["right", "left"],
) -> dict[str, npt.NDArray[np.int64]]:
    """The inputs of a graph for one batch, int64 ``[rows, longest]`` each.

    :param names: of ``input_ids``, ``attention_mask`` and ``token_type_ids`` those that the graph reads.
    """
    longest = max(1, *(len(row.ids) for row in rows))
    shape = (len(rows), longest)
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": pad_token_type_id}
    arrays = {name: np.full(shape, fillers[name], dtype=np.int64) for name in names}
    for index, row in enumerate(rows):
        ids = row.ids
        place = slice(0, len(ids)) if side == "right" else slice(longest - len(ids), longest)
        for name, array in arrays.items():
            if name == "input_ids":
                array[index, place] = ids
            elif name == "attention_mask":
                array[index, place] = 1
            else:
                array[index, place] = row.type_ids
    return arrays
