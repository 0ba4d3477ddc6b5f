"""One model's answers as they were written, a table for each kind of answer: nothing is checked yet.

What differs between the kinds is in these classes, so that whoever reads, aligns or compares answers need not ask which
they are. Not here: reading a file of them (``evidence.py``), what may be wrong with them (``validity.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from retrainer.gate.answers import Answers, Rights, Said, SetAnswers, TextAnswers, packed

# A row that has none of the labels.
NONE = "(none)"
ANOTHER = "(another label)"
# Rows in another order, or some of them.
Take = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Answers with one label.

    :param row_ids: ``[n]`` of str.
    :param labels: ``[n]`` int64; ``predictions`` too.
    :param scores: ``[n, labels]`` float64.
    :param characters: ``[n]`` int64, or ``None``.
    :param slices: column name without its prefix to ``[n]`` of str; missing values are empty strings.
    :param patterns: ``[n, patterns]`` bool, in the order of the record's patterns.
    :param sha256: of the file.
    """

    row_ids: NDArray[Any]
    labels: NDArray[np.int64]
    predictions: NDArray[Any]
    scores: NDArray[np.float64]
    characters: NDArray[np.int64] | None = None
    slices: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    sha256: str = ""
    patterns: NDArray[np.bool_] | None = None

    # Columns of what the model said, and of what is right beside the labels.
    SAID: ClassVar[tuple[str, ...]] = ("predictions", "scores")
    TRUE: ClassVar[tuple[str, ...]] = ()

    @property
    def truth(self) -> NDArray[Any]:
        """What is right of each row, ``[n]``."""
        return self.labels

    @property
    def sets(self) -> Rights | None:
        """Which labels each row has, ``[n, labels]``; ``None`` where that is not any number of them."""
        return None

    def said(self, positive: int) -> Said:
        """What the statistics need of it.

        :param positive: index of the label that metrics of one label score.
        """
        return Answers(self.predictions, self.scores, positive)

    def in_words(self, row: int, names: Sequence[str]) -> tuple[str, str]:
        """What is right of a row, and what was said of it, both of known labels.

        :param names: of the labels.
        """
        return names[self.labels[row]], names[self.predictions[row]]

    def unknown_labels(self) -> int:
        """Rows with a label, true or given, that is not among the known ones."""
        known = self.scores.shape[1]
        outside = [(said < 0) | (said >= known) for said in (self.labels, self.predictions)]
        return int(np.logical_or.reduce(outside).sum())

    def among(self, at: NDArray[np.int64], size: int) -> Self:
        """The same answers where their labels are some of others.

        :param at: index of each of the labels among the others, ``[labels]``.
        :param size: how many those are.
        """
        # The last is for -1, which stays what it is.
        known = np.append(at, -1)
        scores = _spread(self.scores, at, size)
        return replace(self, labels=known[self.labels], predictions=known[self.predictions], scores=scores)

    def of_rows(self, at: NDArray[np.int64], like: Table) -> Table:
        """What was said of these rows, with all else, the true answers too, as another table has it."""
        said: dict[str, Any] = {name: getattr(self, name)[at] for name in self.SAID}
        return replace(like, **said, sha256=self.sha256)

    def taken(self, take: Take) -> Self:
        """The rows that ``take`` gives of each column."""
        columns: dict[str, Any] = {
            name: take(getattr(self, name)) for name in ("row_ids", "labels", *self.SAID, *self.TRUE)
        }
        return replace(
            self,
            **columns,
            characters=take(self.characters) if self.characters is not None else None,
            slices={name: take(column) for name, column in self.slices.items()},
            patterns=take(self.patterns) if self.patterns is not None else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class SetTable(Table):
    """Answers with any number of labels: all ``labels`` are 0, and ``predictions`` are packed sets.

    :param scores: ``[n, labels]``: of each label by itself.
    :param true_sets: which labels each row has, ``[n, labels]``; ``applies``, which it is given.
    :param foreign: rows that are given a label which is not among the known ones, ``[n]``.
    :param malformed: rows in which a label occurs twice, or is not an index.
    """

    true_sets: Rights = field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))
    applies: Rights = field(default_factory=lambda: np.zeros((0, 0), dtype=np.bool_))
    foreign: Rights = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    malformed: int = 0

    SAID: ClassVar[tuple[str, ...]] = ("predictions", "scores", "applies", "foreign")
    TRUE: ClassVar[tuple[str, ...]] = ("true_sets",)

    @classmethod
    def of(cls, row_ids: NDArray[Any], said: SetAnswers, **more: Any) -> SetTable:
        """Answers as a table.

        :param more: further columns.
        """
        return cls(
            row_ids,
            np.zeros(len(row_ids), dtype=np.int64),
            said.predictions,
            said.probabilities,
            true_sets=said.truth,
            applies=said.applies,
            foreign=said.foreign,
            **more,
        )

    @property
    def truth(self) -> NDArray[Any]:
        """The set of each row, packed, ``[n]``."""
        return packed(self.true_sets, np.zeros(len(self.true_sets), dtype=np.bool_))

    @property
    def sets(self) -> Rights | None:
        """Which labels each row has, ``[n, labels]``."""
        return self.true_sets

    def said(self, positive: int) -> Said:
        """What the statistics need of it; no metric is of one label."""
        return SetAnswers(self.true_sets, self.applies, self.scores, self.foreign)

    def in_words(self, row: int, names: Sequence[str]) -> tuple[str, str]:
        """Both sets of a row, by the names of their labels."""
        true, given = (
            [names[at] for at in np.flatnonzero(members[row]).tolist()] for members in (self.true_sets, self.applies)
        )
        if self.foreign[row]:
            given.append(ANOTHER)
        return ", ".join(true) or NONE, ", ".join(given) or NONE

    def among(self, at: NDArray[np.int64], size: int) -> Self:
        """The same answers where their labels are some of others."""
        applies = _spread(self.applies, at, size)
        return replace(
            self,
            predictions=packed(applies, self.foreign),
            scores=_spread(self.scores, at, size),
            true_sets=_spread(self.true_sets, at, size),
            applies=applies,
        )

    def unknown_labels(self) -> int:
        """Rows with labels that are not among the known ones, or not a set."""
        return int(self.foreign.sum()) + self.malformed


@dataclass(frozen=True, slots=True, eq=False)
class TextTable(Table):
    """Answers that are text: predictions are str, and all labels are 0.

    :param scores: ``[n, metrics]``: of each row by each metric, in the order of ``metrics``.
    :param targets: ``[n]`` of tuples of str.
    """

    metrics: tuple[str, ...] = ()
    targets: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=np.object_))

    TRUE: ClassVar[tuple[str, ...]] = ("targets",)

    @property
    def truth(self) -> NDArray[Any]:
        """The targets of each row, ``[n]``."""
        return self.targets

    def said(self, positive: int) -> Said:
        """What the statistics need of it; no metric is of one label."""
        return TextAnswers(self.predictions, {name: self.scores[:, at] for at, name in enumerate(self.metrics)})

    def in_words(self, row: int, names: Sequence[str]) -> tuple[str, str]:
        """The targets of a row, and what was written."""
        return " / ".join(self.targets[row]), str(self.predictions[row])

    def among(self, at: NDArray[np.int64], size: int) -> Self:
        """The same: there are no labels."""
        return self

    def unknown_labels(self) -> int:
        """None: there are no labels."""
        return 0

    def of_rows(self, at: NDArray[np.int64], like: Table) -> Table:
        """As above, by the metrics that this table has."""
        assert isinstance(like, TextTable), "both are of one task"
        found = replace(like, predictions=self.predictions[at], scores=self.scores[at], sha256=self.sha256)
        return replace(found, metrics=self.metrics)


def _spread(columns: NDArray[Any], at: NDArray[np.int64], size: int) -> NDArray[Any]:
    """Columns ``[n, labels]`` at their places among so many; the others are 0."""
    spread = np.zeros((len(columns), size), dtype=columns.dtype)
    spread[:, at] = columns
    return spread
