"""Rows as they were read: columns of text, before anything is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from retrainer.errors import DataError
from retrainer.label_names import means_no_label
from retrainer.sources.columns import HALF, Wanted
from retrainer.spec.problems import found, listed, nearest
from retrainer.tasks import that_writes
from retrainer.work.ingest.label_sets import as_list, from_flags


@dataclass(frozen=True)
class RawRows:
    """The rows of one file, as columns of equal length.

    :param name: the file, for messages and the quarantine.
    :param where: its full address, for errors.
    :param texts: one column for each text, large_string, null where there is none.
    :param labels: large_string, null where there is none: labels as they are spelled, stripped; or outputs as they are;
        where a row has any number of labels, a JSON list of them.
    :param slices: column of the data to its values, large_string without nulls.
    :param label_names: what the numbers 0..n-1 in ``labels`` mean, where the file itself says so.
    :param reading: how its fields were told apart, where that is not what its suffix says.
    """

    name: str
    where: str
    format: str
    size: int | None
    texts: tuple[pa.Array, ...]
    labels: pa.Array
    slices: dict[str, pa.Array]
    label_names: tuple[str, ...] | None = None
    reading: str | None = None

    def __len__(self) -> int:
        return len(self.labels)


def positions(columns: Sequence[str], wanted: Wanted, where: str) -> dict[str, int]:
    """Where each wanted column is among a file's columns; slices that are missing and may be are left out.

    :raises DataError: a column is missing, or is there twice.
    """
    found_at: dict[str, int] = {}
    for name in (*wanted.texts, *wanted.label_columns, *wanted.slices):
        count = columns.count(name)
        if count == 1:
            found_at[name] = columns.index(name)
        elif count > 1:
            raise DataError(f"column '{name}' is in the header {count} times", where=where)
        elif name not in wanted.slices or wanted.slices_required:
            raise missing_column(name, columns, where)
    return found_at


def missing_column(name: str, columns: Sequence[str], where: str) -> DataError:
    """The error about a column that a file does not have."""
    near = nearest(name, columns)
    hint = f"did you mean '{near}'? " if near else ""
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        hint = "the columns seem to be separated by something other than commas (see dataset.csv.delimiter); "
    return DataError(f"no column '{name}'", where=where, hint=f"{hint}columns: {listed(columns)}")


def raw_rows(
    values_of: Callable[[str], Sequence[Any]],
    present: Collection[str],
    wanted: Wanted,
    *,
    name: str,
    where: str,
    format: str,
    size: int | None,
    label_names: tuple[str, ...] | None = None,
    reading: str | None = None,
) -> RawRows:
    """The wanted columns as text: values of any plain type, labels as they are spelled, without white space around.

    Of labels that are not text 1.0 is ``1``, true is ``true``, NaN is none; outputs are kept as they are. A slice
    column that is missing is empty.

    :param values_of: the values of a column, asked for one column at a time.
    :param present: the columns that the file has.
    :raises DataError: there is no row; a value is a list or an object, or is not text that can be written.
    """

    def texts(column: str) -> pa.Array:
        return _column(values_of(column), _as_text, where, column)

    if isinstance(wanted.label, tuple):
        labels = from_flags({name: _column(values_of(name), _as_label, where, name) for name in wanted.label}, where)
    else:
        of_sets = partial(as_list, separator=wanted.separator)
        as_wanted = of_sets if wanted.sets else _as_output if wanted.outputs else _as_label
        labels = _column(values_of(wanted.label), as_wanted, where, wanted.label)
    if not len(labels):
        raise DataError("no data row, only a header", where=where)
    missing = pa.array([""] * len(labels), pa.large_string())
    return RawRows(
        name=name,
        where=where,
        format=format,
        size=size,
        texts=tuple(texts(column) for column in wanted.texts),
        labels=labels,
        slices={column: texts(column).fill_null("") if column in present else missing for column in wanted.slices},
        label_names=label_names,
        reading=reading,
    )


def _as_text(value: Any, where: str, row: int, column: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, (list, dict, tuple)):
        raise DataError(f"column '{column}' holds {found(value)} where text is expected", where=f"{where}, row {row}")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"column '{column}' holds bytes that are not UTF-8", where=f"{where}, row {row}") from None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_label(value: Any, where: str, row: int, column: str) -> str | None:
    if isinstance(value, list):
        hint = f"rows with any number of labels are for task {that_writes('labels')}"
        raise DataError(f"column '{column}' holds a list", where=f"{where}, row {row}", hint=hint)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = _as_text(value, where, row, column)
    if text is None:
        return None
    return None if means_no_label(text) else text.strip()


def _as_output(value: Any, where: str, row: int, column: str) -> str | None:
    text = _as_text(value, where, row, column)
    return text if text and not text.isspace() else None


def _column(
    values: Sequence[Any], convert: Callable[[Any, str, int, str], str | None], where: str, column: str
) -> pa.Array:
    texts = [convert(value, where, row, column) for row, value in enumerate(values, start=1)]
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        row = next(at for at, value in enumerate(texts, 1) if value is not None and HALF.search(value))
        raise DataError(
            f"column '{column}' holds half of a surrogate pair, which is not a character", where=f"{where}, row {row}"
        ) from None
