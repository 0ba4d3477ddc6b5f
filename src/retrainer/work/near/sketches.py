"""Sketches of sets, from which their similarity is estimated, and an index in which like ones are found.

A sketch is b-bit MinHash (Li and Koenig 2010, "b-Bit Minwise Hashing", WWW) with b = 2 and 128 permutations: 32 bytes a
set. Two bits, because at the similarities that matter here, from 0.8 up, more permutations of fewer bits estimate
better than fewer of more bits: the standard error at 0.8 is 0.042.

The permutations are those of datasketch 2.0's scheme "affine32", to which a test holds them. Sketches lie in bundles as
long as these are served, so what counts most is that they never change. So they are drawn here, with the one generator
of numpy whose numbers are frozen (NEP 19), and are applied to all sets of a block at once, in a sixth of the time that
datasketch takes for one set after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

PERMUTATIONS = 128
SKETCH_BYTES = PERMUTATIONS * 2 // 8

_SEED = 5
# What is looked at of one place of a sketch: where thousands agree, those that agree in what follows too.
_WINDOW = 64
_LOW_48 = np.uint64((1 << 48) - 1)
_EACH_FIRST_BIT = np.uint64(0x5555555555555555)
_EACH_FIRST_BYTE = np.uint64(0x00FF00FF00FF00FF)
# Of a candidate in one number, so that one sort puts them in order: the asking sketch, how many permutations disagree,
# the found sketch.
_DIFFERENT_BITS, _FOUND_BITS = np.uint64(8), np.uint64(32)


def sketches_of(values: U32, starts: Ints) -> Bytes:
    """The sketches of some sets that lie one after the other.

    :param values: the elements' hashes, uint32 [all elements]; an element may be there several times.
    :param starts: where each set begins, ascending; none is empty.
    :return: uint8 [sets, 32].
    """
    hashes = _mixed(values)
    least = np.empty((PERMUTATIONS, len(starts)), dtype=np.uint32)
    permuted = np.empty_like(hashes)
    for at, (factor, summand) in enumerate(zip(*_permutations(), strict=True)):
        np.multiply(hashes, factor, out=permuted)
        np.add(permuted, summand, out=permuted)
        np.minimum.reduceat(permuted, starts, out=least[at])
    # Two bits of the whole value, not its last two: those of a * h + b follow from the last two of h alone, so that
    # all permutations of a set with a single element would agree, or none.
    bits = (least * np.uint32(0x9E3779B1) >> np.uint32(30)).astype(np.uint8).T
    fours = bits.reshape(len(starts), SKETCH_BYTES, 4)
    result: Bytes = np.bitwise_or.reduce(fours << np.array([0, 2, 4, 6], dtype=np.uint8), axis=2)
    return result


@lru_cache(maxsize=1)
def _permutations() -> tuple[U32, U32]:
    """Odd factors, and summands: with these ``h -> a * h + b`` modulo 2^32 never maps two hashes to one."""
    drawn = np.random.RandomState(_SEED)
    factors = drawn.randint(0, 1 << 31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, drawn.randint(0, 1 << 32, PERMUTATIONS, dtype=np.uint32)


def _mixed(values: U32) -> U32:
    """The finaliser of MurmurHash3 (Appleby), which "affine32" applies first."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def standard_error(similarity: float) -> float:
    """Of an estimated similarity (Li and Koenig 2010, equation 9, for sets much smaller than that of all elements)."""
    agree = similarity + (1.0 - similarity) / 4.0
    return float(np.sqrt(agree * (1.0 - agree) / PERMUTATIONS) / 0.75)


class SketchIndex:
    """Sketches in the order of each of their bands.

    :param sketches: uint8 [rows, 32], or [rows, 64] of pairs.
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
        found = distinct(np.concatenate([*self._of_bands(sketches, least)]))
        one = (found >> (_DIFFERENT_BITS + _FOUND_BITS)).astype(np.int64)
        different = (found >> _FOUND_BITS).astype(np.uint8)
        rows = self._rows[found.astype(np.uint32)]
        estimate = _similarity(different)
        starts = np.flatnonzero(np.diff(one, prepend=-1))
        for start, end in pairwise([*starts.tolist(), len(found)]):
            yield int(one[start]), rows[start:end], estimate[start:end]

    def _of_bands(self, sketches: Bytes, least: float) -> Iterator[U64]:
        """The candidates of each band, each in one number."""
        for band, (values, order) in zip(_bands(sketches), self._bands, strict=True):
            low = np.searchsorted(values, band & ~_LOW_48)
            high = np.searchsorted(values, band | _LOW_48, side="right")
            many = np.flatnonzero(high - low > _WINDOW)
            middle = np.searchsorted(values, band[many])
            low[many] = np.maximum(low[many], np.minimum(middle - _WINDOW // 2, high[many] - _WINDOW))
            count = np.minimum(high - low, _WINDOW)
            one = np.repeat(np.arange(len(sketches)), count)
            other = order[np.repeat(low - (np.cumsum(count) - count), count) + np.arange(len(one))]
            different = _different(sketches[one], self._sketches[other])
            near = np.flatnonzero(_similarity(different) >= least)
            asking = one[near].astype(np.uint64) << _DIFFERENT_BITS | different[near]
            yield asking << _FOUND_BITS | other[near].astype(np.uint64)


def distinct(numbers: U64) -> U64:
    """In their order, each once; ``numpy.unique`` goes by a hash table first, which takes many times as long."""
    ordered = np.sort(numbers)
    result: U64 = ordered[np.diff(ordered, prepend=~ordered[:1]) != 0]
    return result


def _bands(sketches: Bytes) -> Iterator[U64]:
    """From each second byte on eight bytes, as one number: the first two are the band, the others sort within it."""
    width = sketches.shape[1]
    around = np.concatenate([sketches, sketches[:, :8]], axis=1)
    for start in range(0, width, 2):
        yield np.ascontiguousarray(around[:, start : start + 8]).view(">u8").reshape(-1).astype(np.uint64)


def _different(first: Bytes, second: Bytes) -> Bytes:
    """In how many permutations sketches disagree, row by row; of pairs in the text in which it is more."""
    words = first.view(np.uint64) ^ second.view(np.uint64)
    words = (words | words >> np.uint64(1)) & _EACH_FIRST_BIT
    masks = [~np.uint64(0)] if first.shape[1] == SKETCH_BYTES else [_EACH_FIRST_BYTE, ~_EACH_FIRST_BYTE]
    result: Bytes = np.max([np.bitwise_count(words & mask).sum(axis=1, dtype=np.uint8) for mask in masks], axis=0)
    return result


def _similarity(different: Bytes) -> Floats:
    """The estimate that follows."""
    agree = 1.0 - different / PERMUTATIONS
    result: Floats = (agree - 0.25) / 0.75
    return result
