"""How far the words of the challenger's training rows are from those of the champion's.

Pure. The distance is the square root of Vincze and Le Cam's discrimination, ``half the sum of (p - q)^2 / (p + q)``, of
the mean word shares of a row in hash buckets. It is a metric, and its square is at most the total variation, which is
at most it itself (F. Topsøe, Some inequalities for information divergence and related measures of discrimination, IEEE
Transactions on Information Theory 46 (2000) 1602-1609). The part that chance makes, known from the variance of each
bucket between rows, is taken off, so that two samples of one source come out near 0 whatever their sizes. The p value
takes whole rows as the unit, since words of one row go together: under the null such a quadratic form is a weighted sum
of chi-squares, whose upper tail is about that of the gamma distribution with the same mean, variance and skewness
(J. Imhof, Computing the distribution of quadratic forms in normal variables, Biometrika 48 (1961) 419-426).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from retrainer.artifacts.evaluation import DriftMeasure
from retrainer.artifacts.profile import BUCKETS, LEAST_ROWS, MOST_WORDS, SHARE_UNIT, SQUARE_UNIT, TrainingProfile
from retrainer.gate.paired import tidy

Floats = NDArray[np.float64]

WORDS_SHOWN = 5
# Of the words of shared rows, up to rounding and some rows that changed in form.
SAME_WORDS = 0.999


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of champion and challenger, and of those the ones in both."""

    champion: int
    challenger: int
    shared: int

    @property
    def all(self) -> int:
        """Different rows in all."""
        return self.champion + self.challenger - self.shared

    @property
    def variance(self) -> float:
        """Of the difference of two means, in units of the variance of one row."""
        n, m = self.champion, self.challenger
        return (n + m - 2 * self.shared) / (n * m)

    @property
    def inequality(self) -> float:
        """How unequally the rows weigh in the square of such a difference: sum of squared deviations of the weights."""
        n, m = self.champion, self.challenger
        fourth = (n - self.shared) / n**4 + (m - self.shared) / m**4 + self.shared * (1 / n - 1 / m) ** 4
        return max(fourth - self.variance**2 / self.all, 0.0)


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Mean word shares of a row, each ``[buckets]``: of both, of all rows together, and those rows' mean square."""

    champion: Floats
    challenger: Floats
    mean: Floats
    square: Floats


def measure_vocabulary(
    champion: TrainingProfile, challenger: TrainingProfile, shared: TrainingProfile | None, sizes: Sizes
) -> DriftMeasure:
    """Distance and p value of the words of two profiles.

    :param shared: of the rows in both, as ``measure_drift`` takes it.
    :param sizes: rows of champion, challenger and in both.
    """
    if shared is not None and _common_words(champion, challenger, shared) < SAME_WORDS:
        # Not the rows they were.
        shared, sizes = None, Sizes(sizes.champion, sizes.challenger, 0)
    buckets = _buckets(champion, challenger, shared, sizes)
    squares = (buckets.champion - buckets.challenger) ** 2
    found = 0.5 * float((squares / (buckets.champion + buckets.challenger)).sum())
    # With the mean of all rows below the line, which does not depend on who holds which row, the mean over all ways to
    # deal the rows to the two is exact, also for words that few rows hold.
    seen = float((squares / buckets.mean).sum())
    variance = (buckets.square - buckets.mean**2) * sizes.all / max(sizes.all - 1, 1)
    by_chance = sizes.variance * float((variance / buckets.mean).sum())
    distance = math.sqrt(min(found * (1 - by_chance / seen), 1.0)) if seen > by_chance else 0.0
    return DriftMeasure(
        kind="vocabulary",
        measure="vocabulary",
        distance=tidy(distance),
        method="Vincze-Le Cam distance of mean word shares, less what chance gives; p by rows, three moments",
        p_value=tidy(_vocabulary_p(seen, by_chance, champion, challenger, sizes)),
        detail=_moved_words(champion, challenger),
    )


def _common_words(champion: TrainingProfile, challenger: TrainingProfile, shared: TrainingProfile) -> float:
    """How much of the words of the shared rows both samples can hold."""
    sums = [profile.rows * np.array(profile.vocabulary.means) for profile in (champion, challenger, shared)]
    return float(np.minimum.reduce(sums).sum() / sums[-1].sum())


def _buckets(
    champion: TrainingProfile, challenger: TrainingProfile, shared: TrainingProfile | None, sizes: Sizes
) -> _Buckets:
    means, squares = np.zeros(BUCKETS + 1), np.zeros(BUCKETS + 1)
    for profile, sign in ((champion, 1), (challenger, 1), (shared, -1)):
        if profile is not None:
            means += sign * profile.rows * np.array(profile.vocabulary.means) / SHARE_UNIT
            squares += sign * profile.rows * np.array(profile.vocabulary.squares) / SQUARE_UNIT
    p = np.array(champion.vocabulary.means) / SHARE_UNIT
    q = np.array(challenger.vocabulary.means) / SHARE_UNIT
    # All rows hold at least what the larger share of one of the two makes; less can only be by rounding.
    mean = np.maximum(means, np.maximum(sizes.champion * p, sizes.challenger * q)) / sizes.all
    used = mean > 0
    # No mean square is below the squared mean; one can seem to be, by rounding.
    square = np.maximum(squares / sizes.all, mean**2)
    return _Buckets(p[used], q[used], mean[used], square[used])


def _vocabulary_p(
    seen: float, by_chance: float, champion: TrainingProfile, challenger: TrainingProfile, sizes: Sizes
) -> float:
    if sizes.variance <= 0:
        return 1.0
    weight = sizes.champion / (sizes.champion + sizes.challenger)
    first, second = champion.vocabulary, challenger.vocabulary
    squares = weight * first.second + (1 - weight) * second.second
    cubes = weight * first.third + (1 - weight) * second.third
    # Rows with rare words weigh more, the rows of the smaller sample do too. The weight of a row of rare words grows
    # with the number of all rows.
    own = max(profile.vocabulary.spread * (sizes.all / profile.rows) ** 2 for profile in _larger(champion, challenger))
    variance = 2 * squares * sizes.variance**2 + own * sizes.inequality
    third = 8 * cubes * sizes.variance**3
    if variance <= 0:
        return 1.0 if seen <= by_chance else 0.0
    z = (seen - by_chance) / math.sqrt(variance)
    if third <= 0:
        return float(special.ndtr(-z))
    degrees = 8 * variance**3 / third**2
    return float(special.chdtrc(degrees, max(z * math.sqrt(2 * degrees) + degrees, 0.0)))


def _larger(champion: TrainingProfile, challenger: TrainingProfile) -> list[TrainingProfile]:
    """The one with more rows; both where they have as many."""
    most = max(champion.rows, challenger.rows)
    return [profile for profile in (champion, challenger) if profile.rows == most]


def _moved_words(champion: TrainingProfile, challenger: TrainingProfile) -> str:
    """The words whose share of rows grew and shrank most, by the same discrimination."""
    before, after = champion.vocabulary.words, challenger.vocabulary.words
    least_before, least_after = _least_listed(champion), _least_listed(challenger)
    moved = []
    for word in sorted(before.keys() | after.keys()):
        # A word that is not listed may be nearly as common as the rarest listed one: its share is at most this.
        old = before.get(word, least_before) / champion.rows
        new = after.get(word, least_after) / challenger.rows
        if word in (before if new < old else after):
            moved.append((math.copysign((new - old) ** 2 / (new + old), new - old), word))
    grew = [word for change, word in sorted(moved, key=lambda item: (-item[0], item[1])) if change > 0]
    shrank = [word for change, word in sorted(moved) if change < 0]
    parts = []
    for verb, words in (("grew", grew), ("shrank", shrank)):
        shown = [
            f"{word} {_share(before, word, least_before, champion.rows)} -> "
            f"{_share(after, word, least_after, challenger.rows)}"
            for word in words[:WORDS_SHOWN]
        ]
        if shown:
            parts.append(f"{verb}, of rows: {', '.join(shown)}")
    return "; ".join(parts)


def _least_listed(profile: TrainingProfile) -> int:
    """The most rows that a word can be in without being listed."""
    words = profile.vocabulary.words
    return min(min(words.values()) if len(words) >= MOST_WORDS else LEAST_ROWS - 1, profile.rows)


def _share(words: dict[str, int], word: str, least: int, rows: int) -> str:
    return f"{words[word] / rows:.2%}" if word in words else f"at most {least / rows:.2%}"
