"""The texts of a snapshot's rows as Python sees them, one text or a pair; and which rows a bundle was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrainer.artifacts.snapshot import TEXT_KEY

Text = str | tuple[str, str]

TRAIN_ROWS = "train_rows.bin"
# Of a train artifact, the folder of what is known about the rows of the champion that is part of the weights.
BLENDED_WITH = "blended_with"


def read_split(split: Path, columns: Sequence[str] | None = None) -> Any:
    """The rows of a split as an Arrow table.

    Not by ``pyarrow.parquet.read_table``, which can read many files and other formats, and loads pandas for it.

    :param columns: their names; all unless given.
    """
    with pq.ParquetFile(split) as file:
        return file.read(columns)


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


def label_matrix(column: Any, labels: int) -> npt.NDArray[np.bool_]:
    """Which labels each row has, ``[rows, labels]``, of a column of lists of indices.

    :param column: Arrow's.
    :param labels: how many there are.
    """
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    has = np.zeros((len(lists), labels), dtype=np.bool_)
    has[pc.list_parent_indices(lists).to_numpy(), lists.flatten().to_numpy()] = True
    return has


def text_keys(table: Any) -> list[str]:
    """What stands for the normalised text of each row, 16 hex digits: by this, whatever the spelling, rows leak.

    :param table: rows of a split, as an Arrow table.
    """
    keys: list[str] = table.column(_key_column(table.column_names)).to_pylist()
    return keys


def read_text_keys(split: Path) -> list[str]:
    """The same of a split's file."""
    return text_keys(read_split(split, [_key_column(pq.read_schema(split).names)]))


def _key_column(names: Sequence[str]) -> str:
    return TEXT_KEY if TEXT_KEY in names else "row_id"


def pack_row_ids(row_ids: Iterable[str]) -> bytes:
    """Row ids as big-endian uint64, sorted, each once; of text keys, the content of a bundle's ``train_rows.bin``."""
    return np.unique(_numbers(list(row_ids))).astype(">u8").tobytes()


def trained_on(keys: Sequence[str], bundle: Path) -> npt.NDArray[np.bool_]:
    """Which rows the model of a bundle was trained on, ``[rows]``: it may have learnt them by heart.

    :param keys: of the rows' texts, as :func:`text_keys` has them.
    """
    known: npt.NDArray[np.bool_] = np.isin(_numbers(keys), _packed(bundle))
    return known


def row_ids_of(bundle: Path) -> list[str]:
    """The text keys of the rows that the model of a bundle was trained on, 16 hex digits each."""
    return [f"{number:016x}" for number in _packed(bundle).tolist()]


def _packed(bundle: Path) -> npt.NDArray[np.uint64]:
    return np.fromfile(bundle / TRAIN_ROWS, dtype=">u8").astype(np.uint64)


def _numbers(row_ids: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(row_id, 16) for row_id in row_ids], dtype=np.uint64)
