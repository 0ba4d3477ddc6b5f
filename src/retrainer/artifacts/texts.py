"""Texts of the rows of a snapshot, from its parquet files. The one module of this package that reads parquet.

Not here: what a snapshot's files hold (``snapshot.py``), who may see the texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrainer.artifacts.snapshot import QuarantineReason

_BETWEEN = " | "
_TEXTS = ("text", "text_pair")
_ROWS_AT_ONCE = 8192


def texts_of_rows(split: Path | bytes, row_ids: Collection[str]) -> dict[str, str]:
    """Row id to text, both of a pair with a bar between them.

    :param split: the file, or what is in it.
    """
    wanted = pa.array(list(row_ids), pa.string())
    found: dict[str, str] = {}
    for rows in _batches(split, "row_id", *_TEXTS):
        some = rows.filter(pc.is_in(rows.column("row_id"), wanted))
        found |= dict(zip(some.column("row_id").to_pylist(), _texts(some), strict=True))
    return found


def quarantined_rows(file: Path | bytes, most: int) -> Mapping[QuarantineReason, list[dict[str, Any]]]:
    """Some rows that were set aside: reason to the first ones, each with ``source``, ``row``, ``text`` and ``label``.

    :param most: rows of each reason.
    """
    found: dict[QuarantineReason, list[dict[str, Any]]] = {}
    for rows in _batches(file, "reason", "source", "row", "label", *_TEXTS):
        for reason in pc.unique(rows.column("reason")).to_pylist():
            known = found.setdefault(reason, [])
            some = rows.filter(pc.equal(rows.column("reason"), reason)).slice(0, most - len(known))
            said = some.select(["source", "row", "label"]).to_pylist()
            known += [{**row, "text": text} for row, text in zip(said, _texts(some), strict=True)]
    return {reason: found[reason] for reason in sorted(found)}


def _batches(file: Path | bytes, *columns: str) -> Iterator[Any]:
    """Those of the columns that there are, some thousand rows at a time: a split may be larger than memory."""
    with pq.ParquetFile(BytesIO(file) if isinstance(file, bytes) else file) as opened:
        there = [name for name in columns if name in opened.schema_arrow.names]
        yield from opened.iter_batches(_ROWS_AT_ONCE, columns=there)


def _texts(table: Any) -> list[str]:
    columns = [table.column(name).to_pylist() for name in _TEXTS if name in table.schema.names]
    return [_BETWEEN.join(part for part in parts if part is not None) for parts in zip(*columns, strict=True)]
