"""Which rows are near duplicates of a row in another set, each verified on the texts themselves.

The sets are compared by word keys and by locality-sensitive hashing of sketches (``features.py``): rows whose
sketches agree in 16 consecutive bits, at one of 16 places, are looked at. Two texts with a similarity of 0.8 miss each
other with a chance of 0.7 %, at 0.85 of 0.04 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from retrainer.work.near.features import Bools, Features, features
from retrainer.work.near.features import fewest_words as words_for
from retrainer.work.near.sketches import SKETCH_BYTES, Floats, Ints, SketchIndex, standard_error
from retrainer.work.near.verify import Verifier, gram_sets, similar
from retrainer.work.snapshot_texts import Text

Progress = Callable[[int], None]

BATCH_ROWS = 4096
# Texts verified for one row, the most similar sketches first: in templated data hundreds come near the threshold.
_VERIFIED = 16
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
        self._similarity = similarity
        self._fewest = words_for(similarity)
        self._verifier = Verifier(texts, similarity)
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
        (found,) = look_for(texts, labels, [self], progress)
        return found

    def look_for(self, texts: Sequence[Text], labels: Ints, asked: Features, skip: Bools, found: Near) -> None:
        """The same for a few rows.

        :param asked: of the texts.
        :param skip: rows that are not looked for.
        :param found: filled.
        """
        self._by_words(asked, labels, skip, found)
        for row in np.flatnonzero(found.row >= 0).tolist():
            found.similarity[row] = similar(gram_sets(texts[row]), gram_sets(self._texts[int(found.row[row])]))
        least = self._similarity - _ERRORS_ALLOWED * standard_error(self._similarity)
        groups = self._groups(labels)
        candidates = []
        for label in np.unique(groups):
            index = self._by_label.get(int(label))
            rows = np.flatnonzero((groups == label) & (found.row < 0) & ~skip)
            if index is None or not len(rows):
                continue
            for row, others, _ in index.candidates(asked.sketches[rows], least):
                candidates.append((int(rows[row]), others[:_VERIFIED]))
        nearest = self._verifier.nearest([(texts[row], others) for row, others in candidates])
        for (row, _), (other, similarity) in zip(candidates, nearest, strict=True):
            found.row[row], found.similarity[row] = other, similarity

    def _by_words(self, asked: Features, labels: Ints, skip: Bools, found: Near) -> None:
        if not len(self._keys):
            return
        keys, rows = asked.to_ask(labels.astype(np.uint64), self._fewest)
        at = np.searchsorted(self._keys, keys)
        at[at == len(self._keys)] = 0
        hit = (self._keys[at] == keys) & ~skip[rows]
        # The first of these rows, whichever key found it.
        partner = np.full(len(found.row), len(self._texts), dtype=np.int64)
        np.minimum.at(partner, rows[hit], self._key_rows[at[hit]])
        found.row[:] = np.where(partner < len(self._texts), partner, -1)


def look_for(
    texts: Sequence[Text], labels: Ints, sets: Sequence[Texts], progress: Progress | None = None
) -> list[Near]:
    """Look for rows in several sets; in each only those that are nearly no row of the sets before it.

    :return: for each set what is near.
    """
    found = [Near(np.full(len(texts), -1, dtype=np.int64), np.zeros(len(texts))) for _ in sets]
    for start in range(0, len(texts), BATCH_ROWS):
        batch = slice(start, start + BATCH_ROWS)
        asking, asked = texts[batch], features(texts[batch])
        skip = np.zeros(len(asking), dtype=np.bool_)
        for one, near in zip(sets, found, strict=True):
            part = Near(near.row[batch], near.similarity[batch])
            one.look_for(asking, labels[batch], asked, skip, part)
            skip |= part.row >= 0
        if progress:
            progress(start + len(asking))
    return found
