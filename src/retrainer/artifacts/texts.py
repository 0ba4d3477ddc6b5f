"""Texts of the rows of a snapshot, from its parquet files. The one module of this package that reads parquet.

Not here: what a snapshot's files hold (``snapshot.py``), who may see the texts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retrainer.artifacts.snapshot import QuarantineReason

_BETWEEN = " | "


def texts_of_rows(split: Path | bytes, row_ids: Collection[str]) -> dict[str, str]:
    """Row id to text, both of a pair with a bar between them.

    :param split: the file, or what is in it.
    """
    table = _read(split)
    table = table.filter(pc.is_in(table.column("row_id"), pa.array(list(row_ids), pa.string())))
    return dict(zip(table.column("row_id").to_pylist(), _texts(table), strict=True))


def quarantined_rows(file: Path | bytes, most: int) -> Mapping[QuarantineReason, list[dict[str, Any]]]:
    """Some rows that were set aside: reason to the first ones, each with ``source``, ``row``, ``text`` and ``label``.

    :param most: rows of each reason.
    """
    table = _read(file)
    found: dict[QuarantineReason, list[dict[str, Any]]] = {}
    for reason in sorted(pc.unique(table.column("reason")).to_pylist()):
        some = table.filter(pc.equal(table.column("reason"), reason)).slice(0, most)
        rows = some.select(["source", "row", "label"]).to_pylist()
        found[reason] = [{**row, "text": text} for row, text in zip(rows, _texts(some), strict=True)]
    return found


def _read(file: Path | bytes) -> Any:
    with pq.ParquetFile(BytesIO(file) if isinstance(file, bytes) else file) as opened:
        return opened.read()


def _texts(table: Any) -> list[str]:
    columns = [table.column(name).to_pylist() for name in ("text", "text_pair") if name in table.column_names]
    return [_BETWEEN.join(part for part in parts if part is not None) for parts in zip(*columns, strict=True)]
