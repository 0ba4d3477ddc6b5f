"""The profile of a model's training rows: what a bundle carries, so that drift can be told when the rows are gone.

Light: pydantic only. Not here: making a profile (``retrainer.work.profile``), comparing two (``retrainer.gate.drift``).

A profile goes out with the bundle, so it holds counts and no text. Words stand in it by name only where at least
``LEAST_ROWS`` rows hold them and only if they are letters throughout, which leaves out names of a few people, numbers
of telephones and accounts. All other words are in it as sums over ``BUCKETS`` hash buckets; unless the rows are few,
each of those stands for many words. It is at most about 100 kB.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from retrainer.records import FileRecord, Record, unset

BUCKETS = 2048
MOST_WORDS = 2000
LEAST_ROWS = 10
LONGEST_WORD = 40
# Means are stored as integers of such parts.
SHARE_UNIT = 10**8
SQUARE_UNIT = 10**12

Count = Annotated[int, Field(ge=0)]


def _length_edges() -> tuple[float, ...]:
    """0, 1, 2, ... and from 23 on 16 bins an octave (4.4 % wide each), to a million."""
    return (0.0, *(float(edge) for edge in sorted({round(2 ** (step / 16)) for step in range(20 * 16 + 1)})))


def _share_edges() -> tuple[float, ...]:
    """None at all, then 32 bins a decade from 0.001 to 0.1, then one for each hundredth; 1 has its own."""
    fine = [10 ** (step / 32 - 3) for step in range(64)]
    return (0.0, *(round(edge, 9) for edge in fine), *(step / 100 for step in range(10, 101)))


_LENGTH = _length_edges()
_SHARE = _share_edges()
_MEAN_LENGTH = tuple(step / 10 for step in range(201))

LengthMeasure = Literal["characters", "words", "first text's share"]
StyleMeasure = Literal["upper case", "digits", "punctuation", "white space", "non-ASCII", "word length", "short words"]
Measure = LengthMeasure | StyleMeasure

# Bin i holds values from edge i up to, and without, edge i + 1; the last bin has no end.
EDGES: dict[Measure, tuple[float, ...]] = {
    "characters": _LENGTH,
    "words": _LENGTH,
    "first text's share": _SHARE,
    "upper case": _SHARE,
    "digits": _SHARE,
    "punctuation": _SHARE,
    "white space": _SHARE,
    "non-ASCII": _SHARE,
    "word length": _MEAN_LENGTH,
    "short words": _SHARE,
}
LENGTH_MEASURES: tuple[LengthMeasure, ...] = ("characters", "words", "first text's share")
STYLE_MEASURES: tuple[StyleMeasure, ...] = (
    "upper case",
    "digits",
    "punctuation",
    "white space",
    "non-ASCII",
    "word length",
    "short words",
)
ONLY_PAIRS: frozenset[Measure] = frozenset({"first text's share"})


class Vocabulary(Record):
    """Which words the rows use. A row's words are shares that sum to 1, so long rows count no more than short ones.

    With x the row's share of each bucket and p the mean of x over all rows, two rows i and j have the covariance
    ``k(i, j) = sum of x_i x_j / p over buckets, - 1``.

    :param means: of the share of each hash bucket over all rows, in 1e-8. The bucket after the last hash bucket is of
        rows without any word.
    :param squares: mean of the squared share, in 1e-12.
    :param second: mean of ``k(i, j)^2`` over pairs of different rows: the sum of the squared eigenvalues of the
        covariance of ``x / sqrt(p)``. Needed to know how far two samples of one source lie apart by chance.
    :param third: mean of ``k(i, j) k(j, l) k(l, i)`` over triples of different rows: the sum of their cubes.
    :param spread: variance of ``k(i, i)`` between rows: how unevenly rows weigh.
    :param words: the commonest words to the number of rows that hold them.
    """

    means: tuple[Count, ...] = Field(min_length=BUCKETS + 1, max_length=BUCKETS + 1)
    squares: tuple[Count, ...] = Field(min_length=BUCKETS + 1, max_length=BUCKETS + 1)
    second: float = Field(ge=0, allow_inf_nan=False)
    third: float = Field(allow_inf_nan=False)
    spread: float = Field(ge=0, allow_inf_nan=False)
    words: dict[str, Count] = Field(max_length=MOST_WORDS)


class TrainingProfile(FileRecord):
    """Rows that a model was trained on, counted.

    :param label_counts: every label of the model, also one without rows.
    :param set_sizes: rows with none of the labels, with one, with two, and so on; only where a row has any number of
        them.
    :param histograms: measure to rows in each bin of ``EDGES``; a pair counts as both its texts together. Measures:

        - ``characters``, ``words`` of the row; ``first text's share`` of a pair's characters, only where there are
          pairs;
        - ``upper case``: of all letters; ``digits``, ``punctuation`` (with symbols), ``white space``, ``non-ASCII``: of
          all characters;
        - ``word length``: mean characters of a word; ``short words``: share of words of at most three characters.
    """

    file: ClassVar[str] = "profile.json"
    pretty: ClassVar[bool] = False  # thousands of numbers
    format_version: Literal[1] = 1
    rows: int = Field(ge=1)
    label_counts: dict[str, Count]
    histograms: dict[Measure, tuple[Count, ...]]
    vocabulary: Vocabulary
    set_sizes: tuple[Count, ...] | None = Field(None, exclude_if=unset)

    @property
    def pairs(self) -> bool:
        """Whether a row is two texts."""
        return "first text's share" in self.histograms

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        missing = sorted(set(EDGES) - ONLY_PAIRS - set(self.histograms))
        if missing:
            raise ValueError(f"no histogram of {', '.join(missing)}")
        for measure, counts in self.histograms.items():
            if len(counts) != len(EDGES[measure]):
                raise ValueError(f"{measure}: {len(counts)} bins, expected are {len(EDGES[measure])}")
            if sum(counts) != self.rows:
                raise ValueError(f"{measure}: counts of {sum(counts)} rows, there are {self.rows}")
        of_rows = sum(self.label_counts.values())
        if self.set_sizes is not None:
            if sum(self.set_sizes) != self.rows:
                raise ValueError(f"numbers of labels of {sum(self.set_sizes)} rows, there are {self.rows}")
            if sum(size * rows for size, rows in enumerate(self.set_sizes)) != of_rows:
                raise ValueError(f"{of_rows} labels, and other numbers of them in rows")
        elif self.label_counts and of_rows != self.rows:
            raise ValueError(f"labels of {of_rows} rows, there are {self.rows}")
        if any(count > self.rows for count in self.vocabulary.words.values()):
            raise ValueError("a word stands in more rows than there are")
        return self
