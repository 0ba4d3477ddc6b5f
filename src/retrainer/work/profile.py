"""Training rows to their profile, in batches and whatever the order of the rows. Not here: comparing profiles."""

from __future__ import annotations

import sys
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from retrainer.artifacts.profile import (
    BUCKETS,
    EDGES,
    LEAST_ROWS,
    LONGEST_WORD,
    MOST_WORDS,
    ONLY_PAIRS,
    SHARE_UNIT,
    SQUARE_UNIT,
    Measure,
    TrainingProfile,
    Vocabulary,
)
from retrainer.errors import DataError
from retrainer.work.snapshot_texts import read_split, read_text_keys, text_columns, trained_on

BATCH_ROWS = 5_000
# Rows whose covariance is looked at pair by pair: 2,000 rows are two million pairs.
COVARIANCE_ROWS = 2_000
# Shares of a row are summed as integers of this unit: sums of integers do not depend on the order of the rows.
UNIT = 1 << 20
SHORT = 3

# Words are runs of letters, marks and digits. Where scripts put no space between words, each character is one.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_BETWEEN = r"[^\p{L}\p{M}\p{N}]+"

Ints = npt.NDArray[np.int64]

# Kinds of character, and what stands for one that was not met yet.
_OTHER, _UPPER, _LETTER, _DIGIT, _PUNCTUATION, _SPACE = range(6)
_KINDS = 6
_UNKNOWN = 255
_KIND_OF_CATEGORY = {"Lu": _UPPER, "Lt": _UPPER, "L": _LETTER, "Nd": _DIGIT, "P": _PUNCTUATION, "S": _PUNCTUATION}


@lru_cache(maxsize=1)
def _known_kinds() -> npt.NDArray[np.uint8]:
    """The kind of every code point met so far: texts hold a few hundred of the million that there are."""
    return np.full(sys.maxunicode + 1, _UNKNOWN, dtype=np.uint8)


def _kinds_of(points: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """The kind of each code point."""
    known = _known_kinds()
    kinds = known[points]
    if len(new := np.unique(points[kinds == _UNKNOWN])):
        known[new] = [_kind_of(chr(point)) for point in new.tolist()]
        kinds = known[points]
    return kinds


def _kind_of(character: str) -> int:
    if character.isspace():
        return _SPACE
    category = unicodedata.category(character)
    return _KIND_OF_CATEGORY.get(category, _KIND_OF_CATEGORY.get(category[0], _OTHER))


@dataclass(slots=True)
class _Words:
    """All words met so far; the position in the lists is the word's number."""

    numbers: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=list)
    rows: Ints = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))

    def numbers_of(self, words: list[str]) -> Ints:
        """The numbers of words, new ones are given the next."""
        found = np.empty(len(words), dtype=np.int64)
        for at, word in enumerate(words):
            number = found[at] = self.numbers.setdefault(word, len(self.numbers))
            if number == len(self.buckets):
                self.buckets.append(zlib.crc32(word.encode()) % BUCKETS)
        if len(self.rows) < len(self.numbers):
            self.rows = np.concatenate([self.rows, np.zeros(len(self.numbers), dtype=np.int64)])
        return found

    def commonest(self) -> dict[str, int]:
        """The words that may be shown, those in most rows first."""
        common = [
            (-int(self.rows[number]), word)
            for word, number in self.numbers.items()
            if self.rows[number] >= LEAST_ROWS and _may_be_shown(word)
        ]
        return {word: -rows for rows, word in sorted(common)[:MOST_WORDS]}


def _may_be_shown(word: str) -> bool:
    """Letters, and the marks on them, throughout; single Latin letters mostly are the rests of ``don't``."""
    if len(word) > LONGEST_WORD or (len(word) == 1 and word.isascii()):
        return False
    return all(unicodedata.category(character)[0] in "LM" for character in word)


def profile_of(split: Path, labels: tuple[str, ...], only: frozenset[str] | None = None) -> TrainingProfile:
    """Profile a split of a snapshot. The same rows in any order give the same profile.

    :param split: the parquet file.
    :param labels: names in the order that the label column, or each of its lists, indexes; none where rows have none.
    :param only: ids of the rows to profile; ``None`` for all.
    :raises DataError: it has no rows, or labels out of range.
    """
    file = pq.ParquetFile(split)
    columns = text_columns(file.schema_arrow.names)
    ids = _row_ids(split)
    ids = ids if only is None else ids[[row_id in only for row_id in ids]]
    total = len(ids)
    if total == 0:
        raise DataError("no row to profile", where=str(split))
    histograms = {
        measure: np.zeros(len(edges), dtype=np.int64)
        for measure, edges in EDGES.items()
        if len(columns) == 2 or measure not in ONLY_PAIRS
    }
    label_counts = np.zeros(len(labels), dtype=np.int64)
    sets = bool(labels) and pa.types.is_list(file.schema_arrow.field("label").type)
    set_sizes = np.zeros(len(labels) + 1, dtype=np.int64)
    sums, squares = np.zeros(BUCKETS + 1, dtype=np.int64), np.zeros(BUCKETS + 1, dtype=np.int64)
    # Ids are hashes: those with the least are a sample, the same one in any order.
    chosen = frozenset(np.sort(ids)[:COVARIANCE_ROWS].tolist())
    kept: list[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
    words = _Words()
    for batch in _batches(file, columns, only):
        if labels:
            column = batch.column("label")
            label = (column.flatten() if sets else column).to_numpy()
            if label.size and (label.min() < 0 or label.max() >= len(labels)):
                raise DataError(f"a label is none of the {len(labels)}", where=str(split))
            label_counts += np.bincount(label, minlength=len(labels))
            if sets:
                set_sizes += np.bincount(pc.list_value_length(column), minlength=len(set_sizes))
        texts = [batch.column(name) for name in columns]
        shares, measured = _words_of(texts, words)
        measured |= _characters_of(texts)
        for measure in histograms:
            edges = np.array(EDGES[measure])
            bins = np.searchsorted(edges, measured[measure], side="right") - 1
            histograms[measure] += np.bincount(bins, minlength=len(edges))
        sums += np.asarray(shares.sum(axis=0), dtype=np.int64).ravel()
        squares += _squares(shares)
        for at, row_id in enumerate(batch.column("row_id").to_pylist()):
            if row_id in chosen:
                begin, end = shares.indptr[at], shares.indptr[at + 1]
                kept.append((row_id, shares.indices[begin:end], shares.data[begin:end] / UNIT))
    means = sums / sums.sum()
    second, third, spread = _covariance(kept, means)
    return TrainingProfile(
        rows=total,
        label_counts={name: int(count) for name, count in zip(labels, label_counts, strict=True)},
        set_sizes=tuple(set_sizes.tolist()) if sets else None,
        histograms={measure: tuple(histogram.tolist()) for measure, histogram in histograms.items()},
        vocabulary=Vocabulary(
            means=tuple(np.rint(means * SHARE_UNIT).astype(np.int64).tolist()),
            squares=tuple(np.rint(squares / UNIT**2 / total * SQUARE_UNIT).astype(np.int64).tolist()),
            second=float(f"{second:.6g}"),
            third=float(f"{third:.6g}"),
            spread=float(f"{spread:.6g}"),
            words=words.commonest(),
        ),
    )


def shared_rows(split: Path, bundle: Path) -> frozenset[str]:
    """Ids of those rows of a split that a bundle's model was trained on too."""
    return frozenset(_row_ids(split)[trained_on(read_text_keys(split), bundle)].tolist())


def _row_ids(split: Path) -> npt.NDArray[np.object_]:
    ids: npt.NDArray[np.object_] = read_split(split, ["row_id"]).column("row_id").to_numpy()
    return ids


def _batches(file: pq.ParquetFile, texts: list[str], only: frozenset[str] | None) -> Iterator[pa.RecordBatch]:
    wanted = None if only is None else pa.array(sorted(only), pa.string())
    wanted_columns = [name for name in ("row_id", *texts, "label") if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted_columns):
        yield batch if wanted is None else batch.filter(pc.is_in(batch.column("row_id"), value_set=wanted))


def _squares(shares: Any) -> Ints:
    """Sum of the squared shares of each bucket, in units of ``UNIT`` squared; of one batch, so that it is exact."""
    squared = shares.data.astype(np.float64) ** 2
    return np.bincount(shares.indices, weights=squared, minlength=BUCKETS + 1).astype(np.int64)


def _words_of(texts: list[pa.Array], words: _Words) -> tuple[Any, dict[Measure, npt.NDArray[np.float64]]]:
    """Words of each row, counted into buckets.

    :return: shares of the buckets in units of ``UNIT``, sparse ``[rows, BUCKETS + 1]``; and measures of words.
    """
    rows = len(texts[0])
    flat, row_of = [], []
    for text in texts:
        lower = pc.utf8_lower(text.cast(pa.large_string()))
        spaced = pc.replace_substring_regex(lower, _UNSPACED, r" \1 ")
        pieces = pc.split_pattern_regex(spaced, pattern=_BETWEEN)
        row_of.append(pc.list_parent_indices(pieces).to_numpy())
        flat.append(pieces.flatten())
    every = pa.concat_arrays(flat)
    row = np.concatenate(row_of).astype(np.int64)
    filled = pc.not_equal(every, "")
    every, row = every.filter(filled), row[filled.to_numpy(zero_copy_only=False)]
    length = pc.utf8_length(every).to_numpy().astype(np.int64)
    counts = np.bincount(row, minlength=rows)
    some = np.maximum(counts, 1)
    measured: dict[Measure, npt.NDArray[np.float64]] = {
        "words": counts.astype(np.float64),
        "word length": np.bincount(row, weights=length, minlength=rows) / some,
        "short words": np.bincount(row[length <= SHORT], minlength=rows) / some,
    }
    encoded = every.dictionary_encode()
    number = words.numbers_of(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]
    # Not np.unique, which hashes where no counts are asked for, and takes ten times as long.
    standing = np.sort(row * len(words.numbers) + number)
    distinct = standing[np.diff(standing, prepend=-1) > 0]
    if distinct.size:
        words.rows[: len(words.numbers)] += np.bincount(distinct % len(words.numbers), minlength=len(words.numbers))
    bucket = np.array(words.buckets, dtype=np.int64)[number] if number.size else number
    silent = np.flatnonzero(counts == 0)
    cells, times = np.unique(
        np.concatenate([row * (BUCKETS + 1) + bucket, silent * (BUCKETS + 1) + BUCKETS]), return_counts=True
    )
    at, column = np.divmod(cells, BUCKETS + 1)
    share = np.rint(times * UNIT / some[at]).astype(np.int64)
    return sparse.csr_matrix((share, (at, column)), shape=(rows, BUCKETS + 1)), measured


def _characters_of(texts: list[pa.Array]) -> dict[Measure, npt.NDArray[np.float64]]:
    """Measures of the characters of each row."""
    rows = len(texts[0])
    kinds = np.zeros((rows, _KINDS), dtype=np.int64)
    foreign = np.zeros(rows, dtype=np.int64)
    lengths = []
    for text in texts:
        length = pc.utf8_length(text).to_numpy().astype(np.int64)
        points = np.frombuffer("".join(text.to_pylist()).encode("utf-32-le"), dtype="<u4")
        row = np.repeat(np.arange(rows), length)
        cells = row * _KINDS + _kinds_of(points)
        kinds += np.bincount(cells, minlength=rows * _KINDS).reshape(rows, _KINDS)
        foreign += np.bincount(row[points > 127], minlength=rows)
        lengths.append(length)
    total = np.sum(lengths, axis=0)
    some = np.maximum(total, 1)
    letters = kinds[:, _UPPER] + kinds[:, _LETTER]
    return {
        "characters": total.astype(np.float64),
        "first text's share": lengths[0] / some,
        "upper case": kinds[:, _UPPER] / np.maximum(letters, 1),
        "digits": kinds[:, _DIGIT] / some,
        "punctuation": kinds[:, _PUNCTUATION] / some,
        "white space": kinds[:, _SPACE] / some,
        "non-ASCII": foreign / some,
    }


def _covariance(
    kept: list[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.float64]]], means: npt.NDArray[np.float64]
) -> tuple[float, float, float]:
    """Second and third moment of ``Vocabulary``, over pairs and triples of different rows, so without bias; spread."""
    kept = sorted(kept, key=lambda row: row[0])
    n = len(kept)
    if n < 3:
        return 0.0, 0.0, 0.0
    data = np.concatenate([share / np.sqrt(means[bucket]) for _, bucket, share in kept])
    bounds = np.cumsum([0, *(len(bucket) for _, bucket, _ in kept)])
    rows = sparse.csr_matrix((data, np.concatenate([bucket for _, bucket, _ in kept]), bounds), (n, BUCKETS + 1))
    products = (rows @ rows.T).toarray() - 1
    spread = float(np.var(np.diagonal(products), ddof=1))
    np.fill_diagonal(products, 0.0)
    squared = products @ products
    second = float(np.trace(squared)) / (n * (n - 1))
    third = float(np.sum(squared * products)) / (n * (n - 1) * (n - 2))
    return max(second, 0.0), third, spread
