"""Numbers that stand for texts, so that a million of them can be compared: MinHash sketches and word keys.

*Sketches* find texts with many five-grams in common. A sketch is b-bit MinHash (Li and Koenig 2010, "b-Bit Minwise
Hashing", WWW) with b = 2 and 128 permutations: 32 bytes a text. Two bits, because at the similarities that matter
here, from 0.8 up, more permutations of fewer bits estimate better than fewer of more bits: the standard error at
0.8 is 0.042.

*Word keys* find texts that are the same but for one word, which in short texts changes most five-grams: a hash of the
text, and one with each of its words left out. Two texts with a key in common become the same when at most one word
is left out of each.

MinHash is datasketch's. Sketches lie in bundles as long as these are served, so what counts most is that they never
change: datasketch names its schemes and kept the old one bit for bit when it added "affine32" in 2.0, where rensa
0.5 changed what all its digests are. It is pure Python over numpy and has run everywhere for ten years. rensa is about
a hundred times faster at this part (0.01 s against 0.8 s for 10,000 AG News texts) and would make the whole three times
faster; at 90 microseconds a text that is not what ingest waits for. Nothing here depends on the order of rows, on the
process or on PYTHONHASHSEED.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from retrainer.work.near.text import FEWEST_CHARACTERS, GRAM, simplify
from retrainer.work.snapshot_texts import Text

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

PERMUTATIONS = 128
SKETCH_BYTES = PERMUTATIONS * 2 // 8
# Fewer, and one word is too much of the text.
FEWEST_WORDS = 5
# More, and one word changes so few five-grams that sketches find it.
MOST_WORDS = 32

_SEED = 5
_SPACE = 32
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

    A few thousand at a time are fast and need little memory.
    """
    rows = [(simplify(text),) if isinstance(text, str) else (simplify(text[0]), simplify(text[1])) for text in texts]
    parts = [_Part.of(column) for column in zip(*rows, strict=True)]
    sketches = np.stack([part.sketches() for part in parts], axis=2).reshape(len(texts), -1)
    hashes = [part.whole for part in parts]
    left_out, left_rows, words, numbers = [], [], [], []
    for at, part in enumerate(parts):
        keys, row, number = part.left_out()
        left_out.append(_combine([keys if other == at else value[row] for other, value in enumerate(hashes)]))
        left_rows.append(row)
        words.append(part.words[row])
        numbers.append(number)
    return Features(
        sketches=sketches,
        whole=_combine(hashes),
        longest=np.max([part.words for part in parts], axis=0),
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
        place = np.arange(len(characters)) - np.repeat(word_starts, np.diff(np.append(word_starts, len(characters))))
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

    def sketches(self) -> Bytes:
        """uint8 [rows, 32]."""
        grams = np.zeros(len(self.characters), dtype=np.uint64)
        usable = len(self.characters) - GRAM + 1
        for at in range(GRAM):
            grams[: max(usable, 0)] = mix(grams[: max(usable, 0)] + self.characters[at : at + max(usable, 0)] + _WHOLE)
        # MinHash takes 32 bits; of a few thousand five-grams hardly two share them.
        grams >>= np.uint64(32)
        whole = mix(self.whole) >> np.uint64(32)
        least = np.empty((len(self.starts), PERMUTATIONS), dtype=np.uint32)
        for row, (start, length) in enumerate(zip(self.starts.tolist(), self.lengths.tolist(), strict=True)):
            short = length < FEWEST_CHARACTERS
            values = [int(whole[row])] if short else grams[start : start + length - GRAM + 1].tolist()
            sketch = _empty_sketch().copy()
            sketch.update_batch(values)
            least[row] = sketch.hashvalues
        # Two bits of the whole value, not its last two: those of a * h + b follow from the last two of h alone, so that
        # all permutations of a text with a single gram would agree, or none.
        bits = (least * np.uint32(0x9E3779B1) >> np.uint32(30)).astype(np.uint8)
        fours = bits.reshape(len(bits), SKETCH_BYTES, 4)
        result: Bytes = np.bitwise_or.reduce(fours << np.array([0, 2, 4, 6], dtype=np.uint8), axis=2)
        return result


@lru_cache(maxsize=1)
def _empty_sketch() -> MinHash:
    return MinHash(PERMUTATIONS, seed=_SEED, hashfunc=_as_it_is, scheme="affine32")


def _as_it_is(value: int) -> int:
    return value


def _multipliers(most: int) -> U64:
    """Odd, so that none loses a bit; the same for ever."""
    return mix(np.arange(1, most + 2, dtype=np.uint64) * _WHOLE) | np.uint64(1)
