"""Which rows are near duplicates of a row in another set, each verified on the texts themselves.

The sets are compared by word keys and by locality-sensitive hashing of sketches (``features.py``): rows whose
sketches agree in 16 consecutive bits, at one of 16 places, are looked at. Two texts with a similarity of 0.8 miss each
other with a chance of 0.7 %, at 0.85 of 0.04 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrainer.work.near.features import PERMUTATIONS, SKETCH_BYTES, U64, Bytes, Features, Ints, features
from retrainer.work.near.features import fewest_words as words_for
from retrainer.work.near.text import grams, jaccard, simplify
from retrainer.work.snapshot_texts import Text

Floats = npt.NDArray[np.float64]
Progress = Callable[[int], None]

BATCH_ROWS = 4096
# What is looked at of one place of a sketch: where thousands agree, those that agree in what follows too.
_WINDOW = 64
# Texts verified for one row, the most similar sketches first: in templated data hundreds come near the threshold.
_VERIFIED = 16
_SETS_KEPT = 2000
# Standard errors by which a sketch may underrate a pair that is then verified.
_ERRORS_ALLOWED = 4.0


@dataclass(frozen=True, slots=True)
class Near:
    """For each row the row it is nearly, and how nearly.

    :param row: position in the other set, -1 for none, int64 [rows].
    :param similarity: Jaccard similarity of the five-grams, of pairs the lower of the two, float64 [rows]; by the rule
        about words it can be below the threshold.
    """

    row: Ints
    similarity: Floats


class Texts:
    """Rows in which near duplicates are looked for.

    :param texts: all of them, by position.
    :param labels: int64 [rows].
    :param within: whether similar texts have to have the same label; those that differ in one word always have to.
    """

    def __init__(
        self,
        texts: Sequence[Text],
        labels: Ints,
        similarity: float,
        progress: Progress | None = None,
        within: Literal["label", "all"] = "label",
    ) -> None:
        self._within = within
        self._texts = texts
        # Rows that many come near are verified many times.
        self._sets = lru_cache(maxsize=_SETS_KEPT)(lambda row: gram_sets(texts[row]))
        self._similarity = similarity
        self._fewest = words_for(similarity)
        keys, rows, sketches = [], [], []
        for start in range(0, len(texts), BATCH_ROWS):
            part = features(texts[start : start + BATCH_ROWS])
            key, row = part.to_store(labels[start : start + BATCH_ROWS].astype(np.uint64), self._fewest)
            keys.append(key)
            rows.append(row + start)
            sketches.append(part.sketches)
            if progress:
                progress(start + len(part.whole))
        key = np.concatenate(keys) if keys else np.zeros(0, np.uint64)
        row = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        order = np.lexsort((row, key))
        self._keys, self._key_rows = key[order], row[order]
        self._sketches = np.concatenate(sketches) if sketches else np.zeros((0, SKETCH_BYTES), np.uint8)
        self._by_label = {
            int(label): SketchIndex(self._sketches[rows], rows)
            for groups in [self._groups(labels)]
            for label in np.unique(groups)
            for rows in [np.flatnonzero(groups == label)]
        }

    def _groups(self, labels: Ints) -> Ints:
        return labels if self._within == "label" else np.zeros_like(labels)

    def near(self, texts: Sequence[Text], labels: Ints, progress: Progress | None = None) -> Near:
        """The nearest of these rows to each of the given, where one is near."""
        found = Near(np.full(len(texts), -1, dtype=np.int64), np.zeros(len(texts)))
        for start in range(0, len(texts), BATCH_ROWS):
            batch = slice(start, start + BATCH_ROWS)
            self._near(texts[batch], labels[batch], Near(found.row[batch], found.similarity[batch]))
            if progress:
                progress(min(start + BATCH_ROWS, len(texts)))
        return found

    def _near(self, texts: Sequence[Text], labels: Ints, found: Near) -> None:
        asked = features(texts)
        self._by_words(asked, labels, found)
        for row in np.flatnonzero(found.row >= 0).tolist():
            found.similarity[row] = similar(gram_sets(texts[row]), self._sets(int(found.row[row])))
        least = self._similarity - _ERRORS_ALLOWED * standard_error(self._similarity)
        groups = self._groups(labels)
        for label in np.unique(groups):
            index = self._by_label.get(int(label))
            rows = np.flatnonzero((groups == label) & (found.row < 0))
            if index is None or not len(rows):
                continue
            for row, others, _ in index.candidates(asked.sketches[rows], least):
                self._verify(texts[rows[row]], int(rows[row]), others, found)

    def _by_words(self, asked: Features, labels: Ints, found: Near) -> None:
        if not len(self._keys):
            return
        keys, rows = asked.to_ask(labels.astype(np.uint64), self._fewest)
        at = np.searchsorted(self._keys, keys)
        at[at == len(self._keys)] = 0
        hit = self._keys[at] == keys
        # The first of these rows, whichever key found it.
        partner = np.full(len(found.row), len(self._texts), dtype=np.int64)
        np.minimum.at(partner, rows[hit], self._key_rows[at[hit]])
        found.row[:] = np.where(partner < len(self._texts), partner, -1)

    def _verify(self, text: Text, row: int, others: Ints, found: Near) -> None:
        own = gram_sets(text)
        for other in others[:_VERIFIED]:
            similarity = similar(own, self._sets(int(other)))
            if similarity >= self._similarity and similarity > found.similarity[row]:
                found.row[row], found.similarity[row] = other, similarity


def gram_sets(text: Text) -> tuple[frozenset[str], ...]:
    """The five-grams of a text, or of both texts of a pair."""
    return tuple(grams(simplify(part)) for part in ((text,) if isinstance(text, str) else text))


def similar(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> float:
    """Jaccard similarity of two texts; of two pairs the lower of their texts'."""
    return min(jaccard(one, other) for one, other in zip(first, second, strict=True))


def standard_error(similarity: float) -> float:
    """Of an estimated similarity (Li and Koenig 2010, equation 9, for sets much smaller than that of all grams)."""
    agree = similarity + (1.0 - similarity) / 4.0
    return float(np.sqrt(agree * (1.0 - agree) / PERMUTATIONS) / 0.75)


class SketchIndex:
    """Sketches in the order of each of their bands.

    :param sketches: uint8 [rows, 32 or 64].
    :param rows: what to call them.
    """

    def __init__(self, sketches: Bytes, rows: Ints) -> None:
        # In an order of their own, so that the order in which rows came decides nothing.
        order = np.lexsort(sketches.T[::-1])
        self._sketches = np.ascontiguousarray(sketches[order])
        self._rows = rows[order]
        self._bands = []
        for band in _bands(self._sketches):
            at = np.argsort(band, kind="stable").astype(np.int32)
            self._bands.append((band[at], at))

    def candidates(self, sketches: Bytes, least: float) -> Iterator[tuple[int, Ints, Floats]]:
        """For each sketch the rows whose estimated similarity is at least that, the most similar first, and it."""
        mine, theirs, estimates = [], [], []
        for band, (values, order) in zip(_bands(sketches), self._bands, strict=True):
            prefix = band >> np.uint64(48) << np.uint64(48)
            low = np.searchsorted(values, prefix)
            high = np.searchsorted(values, prefix | np.uint64(0xFFFFFFFFFFFF), side="right")
            middle = np.searchsorted(values, band)
            low = np.maximum(low, np.minimum(middle - _WINDOW // 2, high - _WINDOW))
            count = np.minimum(high - low, _WINDOW)
            one = np.repeat(np.arange(len(sketches)), count)
            other = order[np.repeat(low - (np.cumsum(count) - count), count) + np.arange(len(one))]
            estimate = estimated(sketches[one], self._sketches[other])
            wanted = estimate >= least
            mine.append(one[wanted])
            theirs.append(other[wanted].astype(np.int64))
            estimates.append(estimate[wanted])
        pairs = np.concatenate(mine) * len(self._sketches) + np.concatenate(theirs)
        pairs, first = np.unique(pairs, return_index=True)
        one, other = np.divmod(pairs, max(len(self._sketches), 1))
        estimate = np.concatenate(estimates)[first]
        best = np.lexsort((other, -estimate, one))
        mine_ordered, rows, estimate = one[best], self._rows[other[best]], estimate[best]
        starts = np.flatnonzero(np.diff(mine_ordered, prepend=-1))
        for group in np.split(np.arange(len(best)), starts[1:]):
            if len(group):
                yield int(mine_ordered[group[0]]), rows[group], estimate[group]


def _bands(sketches: Bytes) -> Iterator[U64]:
    """From each second byte on eight bytes, as one number: the first two are the band, the others sort within it."""
    width = sketches.shape[1]
    around = np.concatenate([sketches, sketches[:, :8]], axis=1)
    for start in range(0, width, 2):
        yield np.ascontiguousarray(around[:, start : start + 8]).view(">u8").reshape(-1).astype(np.uint64)


def estimated(first: Bytes, second: Bytes) -> Floats:
    """Similarity by sketches, row by row; of pairs the lower of the two."""
    if not len(first):
        return np.zeros(0)
    parts = first.shape[1] // SKETCH_BYTES
    different = np.bitwise_xor(first, second)
    different = (different | different >> 1) & 0x55
    counts = np.bitwise_count(different).reshape(len(first), SKETCH_BYTES, parts).sum(axis=1, dtype=np.int64)
    agree = 1.0 - counts.max(axis=1) / PERMUTATIONS
    result: Floats = (agree - 0.25) / 0.75
    return result
