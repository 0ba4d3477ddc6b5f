"""The texts of a snapshot's rows as Python sees them, one text or a pair; and which rows a bundle was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Text = str | tuple[str, str]

TRAIN_ROWS = "train_rows.bin"
# Of a train artifact, the folder of what is known about the rows of the champion that is part of the weights.
BLENDED_WITH = "blended_with"


def parts(text: Text) -> tuple[str, ...]:
    """The one text, or both of a pair."""
    return (text,) if isinstance(text, str) else text


def characters(text: Text) -> int:
    """The length of a text, of both of a pair."""
    return sum(map(len, parts(text)))


def evenly(size: int, count: int) -> list[int]:
    """At most ``count`` positions from 0 to the last of ``size``, evenly: of texts in order, some of every length."""
    return [int(position) for position in np.unique(np.linspace(0, size - 1, min(count, size)).round())]


def text_columns(names: Iterable[str]) -> list[str]:
    """Those columns of a split that hold text: one, or two for pairs."""
    present = set(names)
    return [name for name in ("text", "text_pair") if name in present]


def texts_of(table: Any) -> list[Text]:
    """The text or pair of each row.

    :param table: rows of a split, as an Arrow table or a batch of one.
    """
    columns = [table.column(name).to_pylist() for name in text_columns(table.schema.names)]
    return list(zip(*columns, strict=True)) if len(columns) == 2 else columns[0]


def pack_row_ids(row_ids: Iterable[str]) -> bytes:
    """The content of a bundle's ``train_rows.bin``: row ids as big-endian uint64, sorted, each once."""
    return np.unique(_numbers(list(row_ids))).astype(">u8").tobytes()


def trained_on(row_ids: Sequence[str], bundle: Path) -> npt.NDArray[np.bool_]:
    """Which rows the model of a bundle was trained on, ``[rows]``: it may have learnt them by heart."""
    known: npt.NDArray[np.bool_] = np.isin(_numbers(row_ids), _packed(bundle))
    return known


def row_ids_of(bundle: Path) -> list[str]:
    """The rows the model of a bundle was trained on, as 16 hex digits each."""
    return [f"{number:016x}" for number in _packed(bundle).tolist()]


def _packed(bundle: Path) -> npt.NDArray[np.uint64]:
    return np.fromfile(bundle / TRAIN_ROWS, dtype=">u8").astype(np.uint64)


def _numbers(row_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(row_id, 16) for row_id in row_ids], dtype=np.uint64)
