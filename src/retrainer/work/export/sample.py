"""The rows on which a graph is compared with its checkpoint, and those that travel as golden rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrainer.work.snapshot_texts import Text, characters, evenly, parts, read_split, texts_of

# Rows whose tokens are counted to choose from; a larger split is thinned evenly by length first.
CANDIDATES = 20_000


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a snapshot's split.

    :param row_id: 16 hex digits; names the row in errors.
    :param label: index of its label, or of each where a row has any number of them; ``None`` for a row that was
        made up, and where rows have a text in its place.
    """

    row_id: str
    text: Text
    label: int | Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows from shortest to longest.

    :param tokens: tokens of each row, special ones included, before it is cut.
    """

    rows: tuple[Row, ...]
    tokens: tuple[int, ...]

    @property
    def texts(self) -> list[Text]:
        """The text or pair of each row."""
        return [row.text for row in self.rows]


def read_rows(split: Path) -> list[Row]:
    """All rows of a split."""
    table = read_split(split)
    ids = table.column("row_id").to_pylist()
    labels = table.column("label").to_pylist() if "label" in table.column_names else [None] * len(ids)
    return [Row(*row) for row in zip(ids, texts_of(table), labels, strict=True)]


def choose(rows: Sequence[Row], tokenizer: Any, *, max_length: int, count: int) -> Sample:
    """Rows spread evenly from the shortest to the longest, and at least one that is cut.

    Where no row is longer than ``max_length``, one made of real rows in a row is added.

    :param tokenizer: a ``tokenizers.Tokenizer`` that does not cut.
    :param count: rows to choose; all where there are fewer.
    """
    if not rows:
        return Sample((), ())
    ordered = sorted(rows, key=lambda row: characters(row.text))
    candidates = [ordered[position] for position in evenly(len(ordered), CANDIDATES)]
    tokens = _count(tokenizer, candidates)
    order = np.argsort(tokens, kind="stable")
    chosen = [int(order[position]) for position in evenly(len(order), count)]
    picked = [candidates[position] for position in chosen]
    lengths = [int(tokens[position]) for position in chosen]
    if lengths[-1] <= max_length:
        long_row = _concatenated(picked, tokenizer, max_length)
        picked.append(long_row)
        lengths.append(int(_count(tokenizer, [long_row])[0]))
    return Sample(tuple(picked), tuple(lengths))


def thin(sample: Sample, count: int) -> list[int]:
    """Positions of ``count`` rows, evenly from the shortest to the longest."""
    return evenly(len(sample.rows), count)


def _count(tokenizer: Any, rows: Sequence[Row]) -> npt.NDArray[np.int64]:
    encoded = tokenizer.encode_batch_fast([row.text for row in rows])
    return np.array([len(row.ids) for row in encoded], dtype=np.int64)


def _concatenated(rows: Sequence[Row], tokenizer: Any, max_length: int) -> Row:
    """Real rows, longest first, joined until they have to be cut."""
    joined: list[list[str]] = [[] for _ in parts(rows[-1].text)]
    # A row of only white space adds no token; the bound ends the search where all are like that.
    for turn in range(8 * max_length):
        for pieces, part in zip(joined, parts(rows[-1 - turn % len(rows)].text), strict=True):
            pieces.append(part)
        first, *second = map(" ".join, joined)
        row = Row("several rows joined", (first, second[0]) if second else first)
        if _count(tokenizer, [row])[0] > max_length:
            break
    return row
