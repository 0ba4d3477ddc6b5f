"""Rows that have any number of labels: how they are read, and what their sets are.

A row's labels are one value, the code of their set, so that whatever compares rows by their label compares the sets.
Not here: what a spelling means, and the order of the labels (``labels.py``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrainer.errors import DataError
from retrainer.label_names import canonical, means_no_label, members, members_of, spelled

Ints = npt.NDArray[np.int64]

_HAS = {"1": True, "true": True, "0": False, "false": False}


def as_list(value: Any, where: str, row: int, column: str, *, separator: str | None) -> str | None:
    """A cell of a column of labels as a JSON list of them; ``None`` where they are missing.

    :param separator: what stands between labels in text; ``None`` where text is such a list.
    :raises DataError: the cell is something else; a member is not a label.
    """
    place = f"{where}, row {row}, column '{column}'"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | tuple):
        return _written(members_of(value, where=place))
    if not isinstance(value, str):
        raise DataError(f"expected a list of labels, found {value!r}", where=place, hint='such as ["toxic", "obscene"]')
    text = value.strip()
    if means_no_label(text):
        return None
    if separator is None or text.startswith("["):
        return _written(_read(text, place))
    between = separator.strip() or separator  # parts are stripped anyway
    return _written(members_of([part for part in map(str.strip, text.split(between)) if part], where=place))


def _read(text: str, place: str) -> list[str]:
    try:
        return members(text, where=place)
    except DataError as error:
        if text.startswith("["):
            raise
        hint = f"{error.hint}; or say in dataset.label_separator what stands between them"
        raise DataError(error.message, where=error.where, hint=hint) from None


def from_flags(columns: Mapping[str, pa.Array], where: str) -> pa.Array:
    """The same of columns that hold whether a row has a label: as JSON lists of their names, null where one is empty.

    :param columns: column to its values, large_string.
    :raises DataError: a value is neither true nor false, in any spelling.
    """
    flags = [_flags(column, values, where) for column, values in columns.items()]
    known: dict[tuple[bool | None, ...], str | None] = {}
    lists = []
    for row in zip(*flags, strict=True):
        if row not in known:
            names = [column for column, has in zip(columns, row, strict=True) if has]
            known[row] = None if None in row else _written(names)
        lists.append(known[row])
    return pa.array(lists, pa.large_string())


def _flags(column: str, values: pa.Array, where: str) -> list[bool | None]:
    encoded = values.dictionary_encode()
    meant = [_HAS.get(canonical(spelling)) for spelling in encoded.dictionary.to_pylist()]
    if None in meant:
        at = meant.index(None)
        row = encoded.indices.to_pylist().index(at) + 1
        value = spelled(encoded.dictionary[at].as_py())
        raise DataError(
            f"column '{column}' holds {value}, where 0 or 1 says whether a row has that label",
            where=f"{where}, row {row}",
        )
    return [None if index is None else meant[index] for index in encoded.indices.to_pylist()]


def _written(names: Sequence[str]) -> str:
    return json.dumps(names, ensure_ascii=False)


@dataclass
class LabelSets:
    """The sets of labels that rows have, each with a code.

    :param labels: how many labels there are.
    :ivar members: of each code the indices of its labels, ascending.
    """

    labels: int
    members: list[tuple[int, ...]] = field(default_factory=list)
    _codes: dict[tuple[int, ...], int] = field(default_factory=dict)

    def code(self, indices: Iterable[int]) -> int:
        """The code of a set, a new one where it is new."""
        members = tuple(sorted({*indices}))
        if members not in self._codes:
            self._codes[members] = len(self.members)
            self.members.append(members)
        return self._codes[members]

    def counts(self, codes: Ints) -> Ints:
        """Rows of each label.

        :param codes: of the rows.
        """
        rows = np.bincount(codes, minlength=len(self.members))
        return np.bincount(self._flat(), weights=np.repeat(rows, self._sizes()), minlength=self.labels).astype(np.int64)

    def sizes(self, codes: Ints) -> Ints:
        """How many labels each row has."""
        return self._sizes()[codes]

    def rarest(self, codes: Ints) -> Ints:
        """Of each row its label that the fewest of these rows have, and of those the first; after the last for none."""
        counts = self.counts(codes)
        rarest = [min(members, key=lambda at: (counts[at], at), default=self.labels) for members in self.members]
        return np.array(rarest, dtype=np.int64)[codes]

    def column(self, codes: Ints) -> pa.Array:
        """The indices of each row, ascending, ``list<int64>``."""
        lists = pa.array([list(members) for members in self.members], pa.list_(pa.int64()))
        return lists.take(pa.array(codes, pa.int64()))

    def _sizes(self) -> Ints:
        return np.array([len(members) for members in self.members], dtype=np.int64)

    def _flat(self) -> Ints:
        return np.array([at for members in self.members for at in members], dtype=np.int64)
