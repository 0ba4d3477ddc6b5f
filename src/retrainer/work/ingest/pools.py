"""All rows of a split before they are judged: the files of its source, one after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrainer.artifacts.snapshot import QuarantineReason, SplitName
from retrainer.formats import FORMATS
from retrainer.sources.columns import Wanted
from retrainer.sources.files import expand
from retrainer.sources.text import readable
from retrainer.spec.dataset import HubSource
from retrainer.spec.delimited import Csv
from retrainer.work.ingest.rows import RawRows
from retrainer.work.ingest.tables import read_hub
from retrainer.work.near.text import normalise
from retrainer.work.reporter import Reporter

# Less is read before anybody could read that it is being read.
WORTH_SAYING_BYTES = 5_000_000
BATCH_ROWS = 20_000
# White space, so that no normalised text holds it: ("a b", "c") and ("a", "b c") stay apart.
_BETWEEN = "\x1f"


def read_pool(
    source: HubSource | tuple[str, ...],
    wanted: Wanted,
    split: SplitName,
    folder: Path,
    reporter: Reporter,
    csv: Csv | None = None,
) -> list[RawRows]:
    """Every file of a source.

    :param csv: what the pipeline says of files of rows and fields.
    :param folder: where files from S3 are kept for the moment in which they are read.
    :raises DataError: a file is not what the pipeline says it is.
    """
    if isinstance(source, HubSource):
        name = f"{source.hub.path}/{source.hub.name}" if source.hub.name else source.hub.path
        return [read_hub(source.hub, f"{split}/{Path(name).name}", wanted)]
    files = expand(source, csv)
    total = sum(file.size for file in files)
    done = 0
    pool: list[RawRows] = []
    for file in files:
        with readable(file, folder) as path:
            pool.append(FORMATS[file.format].read_rows(path, file, f"{split}/{file.name}", wanted))
        if pool[-1].reading:
            reporter.log(f"{pool[-1].name}: {pool[-1].reading}")
        done += file.size
        if total >= WORTH_SAYING_BYTES:
            reporter.progress(f"reading {split}", done=round(done / 1e6, 1), total=round(total / 1e6, 1), unit="MB")
    return pool


def row_keys(texts: Sequence[pa.Array]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """A 64-bit BLAKE2b of each row's normalised text or pair, and whether a text of it is null or blank.

    Two different texts of a million share a key by accident with a chance of one in 37 million.

    :param texts: one or two columns of equal length.
    :return: keys, uint64, 0 where text is missing; missing, bool.
    """
    rows = len(texts[0])
    keys = np.zeros(rows, dtype=np.uint64)
    missing = np.zeros(rows, dtype=np.bool_)
    for start in range(0, rows, BATCH_ROWS):
        columns = [column[start : start + BATCH_ROWS].to_pylist() for column in texts]
        for at, row in enumerate(zip(*columns, strict=True), start=start):
            parts = ["" if text is None else normalise(text) for text in row]
            if all(parts):
                keys[at] = _key(parts)
            else:
                missing[at] = True
    return keys, missing


def exact_keys(texts: Sequence[pa.Array]) -> npt.NDArray[np.uint64]:
    """A 64-bit BLAKE2b of each row's text or pair as it is: where text is written, case and white space matter."""
    keys = np.zeros(len(texts[0]), dtype=np.uint64)
    for start in range(0, len(keys), BATCH_ROWS):
        columns = [column[start : start + BATCH_ROWS].to_pylist() for column in texts]
        for at, row in enumerate(zip(*columns, strict=True), start=start):
            keys[at] = _key([text or "" for text in row])
    return keys


def _key(parts: Sequence[str]) -> int:
    return int.from_bytes(hashlib.blake2b(_BETWEEN.join(parts).encode(), digest_size=8).digest(), "big")


class RowTexts(Sequence[str | tuple[str, str]]):
    """Rows of text columns as Python sees them; only those asked for become Python's.

    :param columns: one or two, without nulls.
    """

    def __init__(self, columns: Sequence[pa.Array]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, at: int) -> str | tuple[str, str]: ...
    @overload
    def __getitem__(self, at: slice) -> list[str | tuple[str, str]]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, str] | list[str | tuple[str, str]]:
        if isinstance(at, slice):
            values = [column[at].to_pylist() for column in self._columns]
            return list(zip(*values, strict=True)) if len(values) == 2 else values[0]
        first, *second = (column[int(at)].as_py() for column in self._columns)
        return (first, second[0]) if second else first


@dataclass
class Pool:
    """The rows of a source as columns, and what becomes of each.

    :param label: index of the label, -1 for none, int64 [rows].
    :param key: what identifies the normalised text, uint64 [rows]: by it rows are split, and leak.
    :param row_id: what identifies the row's input, uint64 [rows]: the key, or where text is written the exact text.
    :param kept: still in; rows leave through :meth:`quarantine` and :meth:`drop_repeated`.
    """

    split: SplitName
    files: Sequence[RawRows]
    label: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint64]
    row_id: npt.NDArray[np.uint64]
    blank: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]
    quarantined: dict[QuarantineReason, npt.NDArray[np.int64]] = field(default_factory=dict)
    repeated: int = 0

    @classmethod
    def of(cls, split: SplitName, files: Sequence[RawRows], label: npt.NDArray[np.int64], *, exact: bool) -> Pool:
        """A pool in which every row is still in.

        :param exact: whether texts that differ only in case, white space or width are different inputs.
        """
        keys = [row_keys(rows.texts) for rows in files]
        key = np.concatenate([key for key, _ in keys])
        return cls(
            split=split,
            files=files,
            label=label,
            key=key,
            row_id=np.concatenate([exact_keys(rows.texts) for rows in files]) if exact else key,
            blank=np.concatenate([blank for _, blank in keys]),
            kept=np.ones(len(label), dtype=np.bool_),
        )

    def __len__(self) -> int:
        return len(self.label)

    @property
    def remaining(self) -> npt.NDArray[np.int64]:
        """Positions of the rows that are still in, in source order."""
        return np.flatnonzero(self.kept)

    def quarantine(self, rows: npt.NDArray[np.int64], reason: QuarantineReason) -> None:
        """Take rows out for a reason."""
        if len(rows):
            self.kept[rows] = False
            before = self.quarantined.get(reason)
            self.quarantined[reason] = rows if before is None else np.concatenate([before, rows])

    def drop_repeated(self, rows: npt.NDArray[np.int64]) -> None:
        """Take rows out that only repeat another."""
        self.kept[rows] = False
        self.repeated += len(rows)

    def place(self, row: int) -> str:
        """``FILE, row N`` of a position; N is the data row in that file, from 1."""
        for rows in self.files:
            if row < len(rows):
                return f"{rows.where}, row {row + 1}"
            row -= len(rows)
        raise IndexError(row)

    def text(self, at: int = 0) -> pa.ChunkedArray:
        """The column of the first or second text."""
        return pa.chunked_array([rows.texts[at] for rows in self.files], pa.large_string())

    def texts(self, rows: npt.NDArray[np.int64]) -> RowTexts:
        """The text, or the pair of texts, of each of these rows."""
        return RowTexts([self.text(at).take(rows).combine_chunks() for at in range(len(self.files[0].texts))])

    def raw_labels(self) -> pa.ChunkedArray:
        """The label column as it was read."""
        return pa.chunked_array([rows.labels for rows in self.files], pa.large_string())

    def slices(self, column: str) -> pa.ChunkedArray:
        """A column of the data that the gate groups by."""
        return pa.chunked_array([rows.slices[column] for rows in self.files], pa.large_string())

    def file_names(self) -> pa.Array:
        """For each row the file it is in."""
        return pa.concat_arrays([pa.array([rows.name] * len(rows), pa.large_string()) for rows in self.files])

    def file_rows(self) -> npt.NDArray[np.int64]:
        """For each row its number in that file, from 1."""
        return np.concatenate([np.arange(1, len(rows) + 1, dtype=np.int64) for rows in self.files])
