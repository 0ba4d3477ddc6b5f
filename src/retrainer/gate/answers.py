"""What one model said on the test rows, as the statistics need it: a label of each row with the probabilities of all,
any number of labels with theirs, or texts with the scores of each row.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from retrainer.spec.known_metrics import SHARE_RIGHT

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Rights = NDArray[np.bool_]

EXACT_MATCH = SHARE_RIGHT["generation"]


def same_text(text: str, targets: Sequence[str]) -> bool:
    """Whether a text is one of the targets, but for white space and how characters are composed (Unicode NFC).

    Tokenizers do not keep all white space, and many compose what they read. Not NFKC: ² is not 2.
    """
    return _comparable(text) in map(_comparable, targets)


def _comparable(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


class Said(Protocol):
    """What every comparison of two models needs, whatever they say.

    ``labels`` are the true labels of the rows, ``[n]``. Where a task writes text, or a row has any number of labels,
    they are all 0, one stratum.
    """

    @property
    def predictions(self) -> NDArray[Any]:
        """``[n]``; two models agree on a row where these are equal."""

    def right(self, labels: Ints) -> Rights:
        """On which rows the model is right, ``[n]``."""

    def gravity(self, at: Ints) -> Floats:
        """How bad a mistake each of these rows is, if it is one: the larger, the more it should be looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Labels.

    :param predictions: label index of each row, ``[n]``; -1 for a label that is not among the known ones.
    :param probabilities: ``[n, labels]``.
    :param positive: index of the label that metrics of one label score.
    """

    predictions: Ints
    probabilities: Floats
    positive: int = 1
    # What takes long to compute and is needed several times: each model is scored and compared.
    _kept: dict[str, tuple[Ints, Any]] = field(default_factory=dict, init=False, repr=False)

    stratified: ClassVar[bool] = True

    def kept(self, name: str, labels: Ints, compute: Callable[[Ints, Floats], Any]) -> Any:
        """``compute(labels, probabilities)``, from memory where it was computed for these labels before."""
        known = self._kept.get(name)
        if known is None or known[0] is not labels:
            known = self._kept[name] = labels, compute(labels, self.probabilities)
        return known[1]

    def right(self, labels: Ints) -> Rights:
        """Where the label is the true one."""
        right: Rights = labels == self.predictions
        return right

    def gravity(self, at: Ints) -> Floats:
        """The probability of the label given: the surest mistakes are the worst."""
        surely: Floats = self.probabilities[at, self.predictions[at]]
        return surely

    def decisions(self, labels: Ints) -> tuple[Floats, Rights]:
        """How sure each answer is, and whether it is right, ``[n]``."""
        return self.probabilities.max(axis=1), self.right(labels)

    @property
    def known(self) -> Rights:
        """Rows whose answer could be the truth, ``[n]``: it is among the known labels."""
        known: Rights = self.predictions >= 0
        return known

    def corrected(self, labels: Ints, at: Ints, by: Answers) -> tuple[Ints, Answers]:
        """True labels, and these answers, if on rows ``at`` what ``by`` says were true."""
        corrected = labels.copy()
        corrected[at] = by.predictions[at]
        return corrected, self

    def uninformed(self) -> tuple[Ints, Floats]:
        """A row, and what a model says of it that knows nothing."""
        size = self.probabilities.shape[1]
        return np.zeros(1, np.int64), np.full((1, size), 1 / size)


@dataclass(frozen=True, slots=True, eq=False)
class SetAnswers:
    """Any number of labels of each row, none included. They hold the truth, too, which is not one label a row.

    :param truth: which labels a row has, ``[n, labels]``.
    :param applies: which the model gives it: those with a probability of at least their threshold.
    :param probabilities: of each label by itself, so that those of a row do not sum to 1.
    :param foreign: rows to which it gives a label that is not among the known ones, ``[n]``; such a row is wrong.
    """

    truth: Rights
    applies: Rights
    probabilities: Floats
    foreign: Rights
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    stratified: ClassVar[bool] = False

    @classmethod
    def of(cls, truth: Rights, probabilities: Floats, thresholds: Floats | float) -> SetAnswers:
        """What a model says whose labels are the known ones.

        :param thresholds: of each label, or of all.
        """
        return cls(truth, probabilities >= thresholds, probabilities, np.zeros(len(truth), dtype=np.bool_))

    def kept(self, name: str, labels: Ints, compute: Callable[[Any, Floats], Any]) -> Any:
        """``compute(truth, probabilities)``, computed once."""
        if name not in self._kept:
            self._kept[name] = compute(self.truth, self.probabilities)
        return self._kept[name]

    @property
    def predictions(self) -> NDArray[np.bytes_]:
        """The sets given, as bytes."""
        return packed(self.applies, self.foreign)

    def right(self, labels: Ints) -> Rights:
        """Where the set is the true one."""
        right: Rights = (self.applies == self.truth).all(axis=1) & ~self.foreign
        return right

    def gravity(self, at: Ints) -> Floats:
        """How sure it was of the surest of its mistakes in a row."""
        applies, probabilities = self.applies[at], self.probabilities[at]
        surely = np.where(applies, probabilities, 1.0 - probabilities)
        worst: Floats = np.where(applies == self.truth[at], 0.0, surely).max(axis=1)
        return worst

    def decisions(self, labels: Ints) -> tuple[Floats, Rights]:
        """The probability of each label of each row, and whether the row has it, ``[n, labels]``."""
        return self.probabilities, self.truth

    @property
    def known(self) -> Rights:
        """Rows whose answer could be the truth, ``[n]``: all of its labels are known ones."""
        return ~self.foreign

    def corrected(self, labels: Ints, at: Ints, by: SetAnswers) -> tuple[Ints, SetAnswers]:
        """True labels, and these answers, if on rows ``at`` what ``by`` says were true."""
        truth = self.truth.copy()
        truth[at] = by.applies[at]
        return labels, replace(self, truth=truth)

    def uninformed(self) -> tuple[Rights, Floats]:
        """A row, and what a model says of it that knows all its labels but one."""
        size = self.probabilities.shape[1]
        return np.zeros((1, size), np.bool_), np.eye(1, size) / 2


def packed(sets: Rights, foreign: Rights) -> NDArray[np.bytes_]:
    """Sets of labels as bytes of one width ``[n]``: equal where the sets are.

    :param sets: ``[n, labels]``.
    :param foreign: rows that have a label besides, ``[n]``.
    """
    bits = np.packbits(np.column_stack([sets, foreign]), axis=1)
    # NumPy leaves out zeros at the end of such bytes, which tells no two of one width apart that are the same.
    return np.ascontiguousarray(bits).view(f"S{bits.shape[1]}").reshape(len(sets))


@dataclass(frozen=True, slots=True, eq=False)
class TextAnswers:
    """Texts.

    :param predictions: ``[n]`` of str.
    :param scores: metric to the score of each row, ``[n]``; each between the metric's bounds, and 1 for what is right.
    """

    predictions: NDArray[Any]
    scores: Mapping[str, Floats]

    def right(self, labels: Ints) -> Rights:
        """Where the text is the target, or one of several."""
        right: Rights = self.scores[EXACT_MATCH] == 1.0
        return right

    def gravity(self, at: Ints) -> Floats:
        """How far the text is from its target, by all metrics alike."""
        far: Floats = 1.0 - np.mean([values[at] for values in self.scores.values()], axis=0)
        return far
