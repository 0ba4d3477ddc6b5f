"""Which of its candidates a text is nearly, decided on the texts themselves.

Where rows are made from templates, hundreds of candidates come near the threshold and none reaches it. So five-grams
are first counted by 16 bits of their hashes, of all candidates at once. Two that are different may count as one, never
the other way round: that bounds the similarity from above, for texts of some hundred characters to less than a
hundredth. Only what may reach the threshold is compared gram by gram, in the order of the bounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from retrainer.work.near.features import U16, gram_codes
from retrainer.work.near.sketches import Floats, Ints
from retrainer.work.near.text import grams, jaccard, simplify
from retrainer.work.snapshot_texts import Text, parts

_SETS_KEPT = 2000
# Bytes; in templated data the same rows come near again and again. A code has two, a text an array and its entry.
_CODES_KEPT = 100_000_000
_CODE, _ENTRY = 2, 171
# Should two grams of one text have the same 48 bits, they count as one: with a chance of one in ten thousand million.
_SLACK = 1

# Of a text, or of both texts of a pair.
_Codes = tuple[U16, ...]


class Verifier:
    """Compares texts with those of a set.

    :param texts: the set, by position.
    :param similarity: from which on texts are nearly the same.
    """

    def __init__(self, texts: Sequence[Text], similarity: float) -> None:
        self._texts = texts
        self._similarity = similarity
        # Rows that many come near are verified many times.
        self._sets = lru_cache(maxsize=_SETS_KEPT)(lambda row: gram_sets(texts[row]))
        self._codes: dict[int, _Codes] = {}
        self._codes_size = 0
        self._marks = np.zeros(1 << 16, dtype=np.bool_)

    def nearest(self, asked: Sequence[tuple[Text, Ints]]) -> Iterator[tuple[int, float]]:
        """For each text the most similar of its candidates and its similarity; -1 and 0 where none is near.

        :param asked: texts, each with positions in the set.
        """
        for some in self._in_parts(asked):
            codes = _codes([text for text, _ in some])
            known = self._codes_of({row for _, rows in some for row in rows.tolist()})
            for (text, rows), own in zip(some, codes, strict=True):
                yield self._nearest(text, rows, self._bounds(own, [known[row] for row in rows.tolist()]))

    def _in_parts(self, asked: Sequence[tuple[Text, Ints]]) -> Iterator[Sequence[tuple[Text, Ints]]]:
        """As many at once as have candidates whose codes may be kept together; at least one."""
        begin, size, rows_of_part = 0, 0, set[int]()
        for at, (_, rows) in enumerate(asked):
            more = {row for row in rows.tolist() if row not in rows_of_part}
            added = sum(_size(map(len, parts(self._texts[row]))) for row in more)
            if at > begin and size + added > _CODES_KEPT:
                yield asked[begin:at]
                begin, more = at, set(rows.tolist())
                rows_of_part, size = set(), 0
                added = sum(_size(map(len, parts(self._texts[row]))) for row in more)
            rows_of_part |= more
            size += added
        yield asked[begin:]

    def _nearest(self, text: Text, rows: Ints, bounds: Floats) -> tuple[int, float]:
        found, best, place = -1, 0.0, -1
        own: Sequence[frozenset[str]] | None = None
        for at in np.argsort(-bounds, kind="stable").tolist():
            if bounds[at] < self._similarity or bounds[at] < best:
                break
            if bounds[at] == best and at > place:
                continue
            own = own or gram_sets(text)
            similarity = similar(own, self._sets(int(rows[at])))
            # Of equal ones the first.
            if similarity >= self._similarity and (similarity, -at) > (best, -place):
                found, best, place = int(rows[at]), similarity, at
        return found, best

    def _bounds(self, own: _Codes, others: Sequence[_Codes]) -> Floats:
        """What the similarity to each of the others is at most."""
        bounds = [self._bounds_of(code, [other[at] for other in others]) for at, code in enumerate(own)]
        result: Floats = np.min(bounds, axis=0)
        return result

    def _bounds_of(self, own: U16, others: Sequence[U16]) -> Floats:
        sizes = np.array([len(other) for other in others])
        self._marks[own] = True
        hits = self._marks[np.concatenate(others)]
        self._marks[own] = False
        both = np.add.reduceat(hits, np.cumsum(sizes) - sizes, dtype=np.int64) + _SLACK
        both = np.minimum(both, np.minimum(sizes, len(own)))
        result: Floats = both / (len(own) + sizes - both)
        return result

    def _codes_of(self, rows: set[int]) -> dict[int, _Codes]:
        """Of rows of the set, at least these."""
        missing = [row for row in rows if row not in self._codes]
        if self._codes_size + sum(_size(map(len, parts(self._texts[row]))) for row in missing) > _CODES_KEPT:
            self._codes, self._codes_size, missing = {}, 0, [*rows]
        for row, codes in zip(missing, _codes([self._texts[row] for row in missing]), strict=True):
            self._codes[row] = codes
            self._codes_size += _size(map(len, codes))
        return self._codes


def _size(lengths: Iterable[int]) -> int:
    """Bytes that the codes of a text take, or of a pair; of texts of so many characters, at most."""
    return sum(_CODE * length + _ENTRY for length in lengths)


def _codes(texts: Sequence[Text]) -> list[_Codes]:
    return list(zip(*(gram_codes(column) for column in zip(*map(parts, texts), strict=True)), strict=True))


def gram_sets(text: Text) -> tuple[frozenset[str], ...]:
    """The five-grams of a text, or of both texts of a pair."""
    return tuple(grams(simplify(part)) for part in parts(text))


def similar(first: Sequence[frozenset[str]], second: Sequence[frozenset[str]]) -> float:
    """Jaccard similarity of two texts; of two pairs the lower of their texts'."""
    return min(jaccard(one, other) for one, other in zip(first, second, strict=True))
