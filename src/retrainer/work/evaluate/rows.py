"""The frozen test rows that both models are scored on, and the file of one model's predictions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

TRAIN_ROWS = "train_rows.bin"


@dataclass(frozen=True, slots=True)
class HeldOutRows:
    """Test rows of a snapshot.

    :param labels: index of the true label of each row.
    :param columns: what groups rows into slices: ``characters``, ``slice_<name>`` and ``pattern_<position>``.
    """

    row_ids: tuple[str, ...]
    texts: tuple[str | tuple[str, str], ...]
    labels: npt.NDArray[np.int64]
    columns: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(self.row_ids)

    def where(self, keep: npt.NDArray[np.bool_]) -> HeldOutRows:
        """The rows to keep, in their order."""
        indices = np.flatnonzero(keep)
        return HeldOutRows(
            row_ids=tuple(self.row_ids[i] for i in indices),
            texts=tuple(self.texts[i] for i in indices),
            labels=self.labels[keep],
            columns={name: column.filter(pa.array(keep)) for name, column in self.columns.items()},
        )


def read_rows(split: Path, patterns: Sequence[str] = ()) -> HeldOutRows:
    """Read a split of a snapshot.

    :param patterns: regular expressions that the texts are searched for; either text of a pair.
    """
    table = pq.read_table(split)
    first = table.column("text").to_pylist()
    second = table.column("text_pair").to_pylist() if "text_pair" in table.column_names else None
    texts = tuple(zip(first, second, strict=True)) if second is not None else tuple(first)
    characters = [len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts]
    slices = [name for name in table.column_names if name.startswith("slice_")]
    return HeldOutRows(
        row_ids=tuple(table.column("row_id").to_pylist()),
        texts=texts,
        labels=table.column("label").to_numpy().astype(np.int64),
        columns={
            "characters": pa.array(characters, pa.int64()),
            **{name: table.column(name).combine_chunks() for name in slices},
            **{f"pattern_{position}": _found(pattern, texts) for position, pattern in enumerate(patterns)},
        },
    )


def _found(pattern: str, texts: Sequence[str | tuple[str, str]]) -> pa.Array:
    search = re.compile(pattern).search
    found = [any(search(part) for part in ((text,) if isinstance(text, str) else text)) for text in texts]
    return pa.array(found, pa.bool_())


def trained_on(rows: HeldOutRows, bundle: Path) -> npt.NDArray[np.bool_]:
    """Which rows the model of a bundle was trained on, ``[rows]``: it may have learnt them by heart."""
    trained = np.fromfile(bundle / TRAIN_ROWS, dtype=">u8")
    ids = np.array([int(row_id, 16) for row_id in rows.row_ids], dtype=np.uint64)
    known: npt.NDArray[np.bool_] = np.isin(ids, trained.astype(np.uint64))
    return known


def write_predictions(
    path: Path, rows: HeldOutRows, predictions: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]
) -> None:
    """Write one model's answer to each row.

    :param predictions: index of the predicted label; -1 for a label that this snapshot does not have.
    :param scores: probabilities, ``[rows, labels]``.
    """
    path.parent.mkdir(exist_ok=True)
    values = pa.array(scores.reshape(-1), pa.float64())
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * scores.shape[1])
    table = pa.table(
        {
            "row_id": pa.array(rows.row_ids, pa.string()),
            "label": pa.array(rows.labels, pa.int64()),
            "prediction": pa.array(predictions, pa.int64()),
            "scores": pa.ListArray.from_arrays(offsets, values),
            **rows.columns,
        }
    )
    pq.write_table(table, path, compression="zstd")
