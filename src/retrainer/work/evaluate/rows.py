"""The frozen test rows that both models are scored on, and the file of one model's predictions."""

from __future__ import annotations

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
    :param columns: what groups rows into slices: ``characters`` and ``slice_<name>``.
    """

    row_ids: tuple[str, ...]
    texts: tuple[str | tuple[str, str], ...]
    labels: npt.NDArray[np.int64]
    columns: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(self.row_ids)


def read_test_rows(split: Path) -> HeldOutRows:
    """Read a split of a snapshot."""
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
        },
    )


def without_trained_on(rows: HeldOutRows, bundle: Path) -> tuple[HeldOutRows, int]:
    """Drop the rows that the model of a bundle was trained on: it may have learnt them by heart.

    :return: the other rows, and how many were dropped.
    """
    trained = np.fromfile(bundle / TRAIN_ROWS, dtype=">u8")
    ids = np.array([int(row_id, 16) for row_id in rows.row_ids], dtype=np.uint64)
    keep = ~np.isin(ids, trained.astype(np.uint64))
    indices = np.flatnonzero(keep)
    kept = HeldOutRows(
        row_ids=tuple(rows.row_ids[i] for i in indices),
        texts=tuple(rows.texts[i] for i in indices),
        labels=rows.labels[keep],
        columns={name: column.filter(pa.array(keep)) for name, column in rows.columns.items()},
    )
    return kept, len(rows) - len(kept)


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
