"""Numbers that stand for texts, so that a million of them can be compared: MinHash sketches and word keys.

*Sketches* find texts with many five-grams in common (``sketches.py``).

*Word keys* find texts that are the same but for one word, which in short texts changes most five-grams: a hash of the
text, and one with each of its words left out. Two texts with a key in common become the same when at most one word
is left out of each.

Nothing here depends on the order of rows, on the
process or on PYTHONHASHSEED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from retrainer.work.near.sketches import U64, Bytes, Ints, distinct, sketches_of
from retrainer.work.near.text import FEWEST_CHARACTERS, GRAM, simplify
from retrainer.work.snapshot_texts import Text, parts

U16 = npt.NDArray[np.uint16]
Bools = npt.NDArray[np.bool_]

# Fewer, and one word is too much of the text.
FEWEST_WORDS = 5
# More, and one word changes so few five-grams that sketches find it.
MOST_WORDS = 32

_SPACE = 32
# Looked at together: what is worked out of so many stays in the processor's cache.
_BLOCK_CHARACTERS = 1 << 16
_WHOLE = np.uint64(0x9E3779B97F4A7C15)
_NUMBER = np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True, slots=True)
class Features:
    """What stands for some texts.

    :param sketches: uint8 [rows, 32] or, for pairs, [rows, 64]: bytes of the first and the second text in turn.
    :param whole: hash of all words, uint64 [rows].
    :param longest: words of the text, for pairs of the longer one, int64 [rows].
    :param left_out: hash of all words but one, uint64 [any number].
    :param left_out_row: whose it is.
    :param left_out_words: how many words the text has that one was left out of.
    :param left_out_number: whether a digit is in the word left out.
    """

    sketches: Bytes
    whole: U64
    longest: Ints
    left_out: U64
    left_out_row: Ints
    left_out_words: Ints
    left_out_number: Bools

    def to_store(self, labels: U64, fewest_words: int = FEWEST_WORDS) -> tuple[U64, Ints]:
        """Word keys by which these texts are found, and the row of each.

        :param labels: hash of the label of each row; texts with different labels have no key in common.
        :param fewest_words: a word is left out only where there are so many.
        """
        words, word_rows, numbers, number_rows = self._left_out(fewest_words)
        rows = np.concatenate([np.arange(len(self.whole)), word_rows, number_rows])
        keys = np.concatenate([mix(self.whole ^ _WHOLE), words, mix(numbers ^ _NUMBER)])
        return mix(keys ^ labels[rows]), rows

    def to_ask(self, labels: U64, fewest_words: int = FEWEST_WORDS) -> tuple[U64, Ints]:
        """Word keys that find stored texts like these, and the row of each.

        All against all: whole texts and texts with a word left out. Only a number left out of one and a number left out
        of the other do not match: "trail 3 is open today" is no copy of "trail 4 is open today".
        """
        words, word_rows, numbers, number_rows = self._left_out(fewest_words)
        longer = np.flatnonzero(self.longest + 1 >= fewest_words)
        wholes = self.whole[longer]
        rows = [np.arange(len(self.whole)), longer, longer, word_rows, word_rows, word_rows, number_rows, number_rows]
        keys = [
            *(mix(self.whole ^ _WHOLE), wholes, mix(wholes ^ _NUMBER)),
            *(mix(words ^ _WHOLE), words, mix(words ^ _NUMBER)),
            *(mix(numbers ^ _WHOLE), numbers),
        ]
        row = np.concatenate(rows)
        return mix(np.concatenate(keys) ^ labels[row]), row

    def _left_out(self, fewest: int) -> tuple[U64, Ints, U64, Ints]:
        word = (self.left_out_words >= fewest) & ~self.left_out_number
        number = (self.left_out_words >= fewest) & self.left_out_number
        return self.left_out[word], self.left_out_row[word], self.left_out[number], self.left_out_row[number]


def fewest_words(similarity: float) -> int:
    """In how long a text one changed word still leaves so much of it the same: five words at 0.8, ten at 0.9."""
    share = 1.0 - similarity
    return max(FEWEST_WORDS, int(np.ceil(1.0 / share - 1e-9))) if share > 0 else MOST_WORDS + 1


def mix(values: U64) -> U64:
    """The finaliser of SplitMix64: a bijection that turns a difference in any bit into one in every bit.

    Sketches in bundles and carved splits are made with it: it must never change.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def features(texts: Sequence[Text]) -> Features:
    """The numbers of some texts, or of some pairs, at least one.

    A few thousand at a time need little memory.
    """
    rows = [tuple(map(simplify, parts(text))) for text in texts]
    borders = _borders([sum(map(len, row)) for row in rows])
    starts = [start for start, _ in borders]
    blocks = [_block(rows[start:end]) for start, end in borders]
    return Features(
        sketches=np.concatenate([block.sketches for block in blocks]),
        whole=np.concatenate([block.whole for block in blocks]),
        longest=np.concatenate([block.longest for block in blocks]),
        left_out=np.concatenate([block.left_out for block in blocks]),
        left_out_row=np.concatenate([block.left_out_row + at for block, at in zip(blocks, starts, strict=True)]),
        left_out_words=np.concatenate([block.left_out_words for block in blocks]),
        left_out_number=np.concatenate([block.left_out_number for block in blocks]),
    )


def gram_codes(texts: Sequence[str]) -> list[U16]:
    """The five-grams of each text, each once, as 16 bits of their hashes: so different ones may have the same."""
    simplified = [simplify(text) for text in texts]
    codes: list[U16] = []
    for start, end in _borders([len(text) for text in simplified]):
        hashes, starts = _Part.of(simplified[start:end]).grams()
        counts = np.diff(starts, append=len(hashes))
        row = np.repeat(np.arange(len(starts), dtype=np.uint64), counts)
        # The row above 48 bits of the hash.
        found = distinct(row << np.uint64(48) | hashes >> np.uint64(16))
        first = np.searchsorted(found, np.arange(1, len(starts), dtype=np.uint64) << np.uint64(48))
        codes += np.split(found.astype(np.uint16), first)
    return codes


def _borders(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Where blocks of texts begin and end."""
    ends = (np.cumsum(lengths, dtype=np.int64) + np.arange(len(lengths))) // _BLOCK_CHARACTERS
    starts = np.flatnonzero(np.diff(ends, prepend=-1)).tolist()
    return list(pairwise([*starts, len(lengths)]))


def _block(rows: Sequence[tuple[str, ...]]) -> Features:
    """The same of simplified texts."""
    columns = [_Part.of(column) for column in zip(*rows, strict=True)]
    sketches = np.stack([part.sketches() for part in columns], axis=2).reshape(len(rows), -1)
    hashes = [part.whole for part in columns]
    left_out, left_rows, words, numbers = [], [], [], []
    for at, part in enumerate(columns):
        keys, row, number = part.left_out()
        left_out.append(_combine([keys if other == at else value[row] for other, value in enumerate(hashes)]))
        left_rows.append(row)
        words.append(part.words[row])
        numbers.append(number)
    return Features(
        sketches=sketches,
        whole=_combine(hashes),
        longest=np.max([part.words for part in columns], axis=0),
        left_out=np.concatenate(left_out),
        left_out_row=np.concatenate(left_rows),
        left_out_words=np.concatenate(words),
        left_out_number=np.concatenate(numbers),
    )


def _combine(hashes: Sequence[U64]) -> U64:
    result = mix(hashes[0])
    for value in hashes[1:]:
        result = mix(result + mix(value ^ _WHOLE))
    return result


@dataclass(frozen=True, slots=True)
class _Part:
    """One column of simplified texts as one long array of characters, each text followed by a space.

    :param characters: code points, uint64.
    :param starts: where each text begins.
    :param lengths: characters of each text.
    :param words: words of each text.
    :param first: position of each text's first word among all words.
    :param number: which words have a digit, bool [all words].
    :param before: sum of the hashes of all words before each word, at their places; one more than there are words.
    :param after: the same with each word one place further to the front.
    """

    characters: U64
    starts: Ints
    lengths: Ints
    words: Ints
    first: Ints
    number: Bools
    before: U64
    after: U64

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Part:
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        starts = np.cumsum(lengths + 1) - (lengths + 1)
        characters = np.frombuffer("".join(f"{text} " for text in texts).encode("utf-32-le"), dtype="<u4")
        characters = characters.astype(np.uint64)
        space = characters == _SPACE
        word_starts = np.flatnonzero(~space & np.concatenate([[True], space[:-1]]))
        first = np.searchsorted(word_starts, starts)
        words = np.diff(np.append(first, len(word_starts)))
        # A multilinear hash of each word's characters, then of each text's words: sums can leave one out.
        # Before the first word there may be texts without any.
        origins = np.concatenate([[0], word_starts])
        place = np.arange(len(characters)) - np.repeat(origins, np.diff(np.append(origins, len(characters))))
        values = np.where(
            space, np.uint64(0), mix(characters + _WHOLE) * _multipliers(int(place.max(initial=0)))[place]
        )
        hashes = mix(np.add.reduceat(values, word_starts))
        digit = (characters >= ord("0")) & (characters <= ord("9"))
        place = np.arange(len(hashes)) - np.repeat(first, words)
        multipliers = _multipliers(int(place.max(initial=0)))
        shifted = np.where(place > 0, multipliers[np.maximum(place - 1, 0)], np.uint64(0))
        nothing = np.zeros(1, dtype=np.uint64)
        return cls(
            characters=characters,
            starts=starts,
            lengths=lengths,
            words=words,
            first=first,
            number=np.logical_or.reduceat(digit, word_starts),
            before=np.concatenate([nothing, np.cumsum(hashes * multipliers[place])]),
            after=np.concatenate([nothing, np.cumsum(hashes * shifted)]),
        )

    @property
    def whole(self) -> U64:
        result: U64 = self.before[self.first + self.words] - self.before[self.first]
        return result

    def left_out(self) -> tuple[U64, Ints, Bools]:
        """The hash of each text with each of its words left out, the text's row, and whether it was a number."""
        rows = np.flatnonzero((self.words >= FEWEST_WORDS) & (self.words <= MOST_WORDS))
        row = np.repeat(rows, self.words[rows])
        start = np.repeat(self.first[rows], self.words[rows])
        end = start + np.repeat(self.words[rows], self.words[rows])
        word = start + np.arange(len(row)) - np.repeat(np.cumsum(self.words[rows]) - self.words[rows], self.words[rows])
        rest = self.before[word] - self.before[start] + self.after[end] - self.after[word + 1]
        return rest, row, self.number[word]

    def grams(self) -> tuple[U64, Ints]:
        """A hash of each five-gram of each text, and where those of each text begin; of a short text of all of it."""
        usable = max(len(self.characters) - GRAM + 1, 0)
        hashes = np.zeros(len(self.characters), dtype=np.uint64)
        for at in range(GRAM):
            hashes[:usable] = mix(hashes[:usable] + self.characters[at : at + usable] + _WHOLE)
        short = self.lengths < FEWEST_CHARACTERS
        counts = np.where(short, 1, self.lengths - GRAM + 1)
        starts = np.cumsum(counts) - counts
        values = hashes[np.repeat(self.starts - starts, counts) + np.arange(counts.sum())]
        values[starts[short]] = mix(self.whole[short])
        return values, starts

    def sketches(self) -> Bytes:
        """uint8 [rows, 32]."""
        hashes, starts = self.grams()
        # MinHash takes 32 bits; of a few thousand five-grams hardly two share them.
        return sketches_of((hashes >> np.uint64(32)).astype(np.uint32), starts)


def _multipliers(most: int) -> U64:
    """Odd, so that none loses a bit; the same for ever."""
    return mix(np.arange(1, most + 2, dtype=np.uint64) * _WHOLE) | np.uint64(1)
