"""What one model said on the test rows, as the statistics need it: labels with their probabilities, or texts with the
scores of each row.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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

    ``labels`` are the true labels of the rows, ``[n]``; where a task writes text they are all 0, one stratum.
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
