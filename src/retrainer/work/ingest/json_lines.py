"""Rows of jsonl files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrainer.sources.columns import empty_file, json_row, open_text
from retrainer.sources.files import SourceFile
from retrainer.work.ingest.rows import RawRows, Wanted, positions, raw_rows


def read_json_lines(path: Path, file: SourceFile, name: str, wanted: Wanted) -> RawRows:
    """The wanted keys of every object. A key that some rows lack is null there.

    :raises DataError: empty, a line is not a JSON object, no row has a wanted key.
    """
    columns = (*wanted.texts, wanted.label, *wanted.slices)
    values: dict[str, list[Any]] = {column: [] for column in columns}
    keys: dict[str, None] = {}
    with open_text(path, compressed=file.compressed) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            row = json_row(line, f"{file.url}, line {number}")
            if row.keys() - keys.keys():
                keys.update(dict.fromkeys(row))
            for column in columns:
                values[column].append(row.get(column))
    if not keys:
        raise empty_file(file.url)
    positions(list(keys), wanted, file.url)
    return raw_rows(values.__getitem__, values, wanted, name=name, where=file.url, format=file.format, size=file.size)
