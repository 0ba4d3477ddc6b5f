"""What a caller gets back: ranked labels with their probabilities, and which version gave them.

A model gives each text one label, the best; or any number of labels, those whose probability is not below their
threshold. Of both kinds a caller may ask for more, or fewer.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from retrainer.errors import UserError

# What the model gives, however many labels that are.
Given: TypeAlias = Literal["given"]
GIVEN: Given = "given"
# How many labels of each text: a number, all, or what the model gives.
TopK: TypeAlias = int | Given | None


class Prediction(TypedDict):
    """One label with its probability; and whether it applies, of a model that gives any number of labels."""

    label: str
    score: float
    applies: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class Response:
    """The answers to one call, all of one version.

    :ivar precision: of the graph that answered.
    :ivar predictions: for each text, in the order of the texts, its labels, best first.
    """

    version: str
    precision: str
    predictions: tuple[list[Prediction], ...]


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number, at least that, numpy's kinds included. ``True`` is not a number here."""
    try:
        return not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        return False


def check_top_k(top_k: Any) -> None:
    """Insist on a number of labels that makes sense.

    :raises UserError: it is none of ``TopK``.
    """
    if top_k is None or (isinstance(top_k, str) and top_k == GIVEN):
        return
    if not is_count(top_k):
        raise UserError(f"top_k must be a whole number from 1, or None for all labels; got {top_k!r}")


def ranked(
    probabilities: npt.NDArray[np.float64],
    labels: tuple[str, ...],
    top_k: TopK,
    thresholds: npt.NDArray[np.float64] | None = None,
) -> list[list[Prediction]]:
    """The best labels of each row.

    :param probabilities: ``[rows, labels]``.
    :param top_k: how many.
    :param thresholds: ``[labels]``, of a model that gives any number of labels.
    """
    only_given = top_k == GIVEN and thresholds is not None
    most = (None if only_given else 1) if top_k == GIVEN else top_k
    # Stable: of labels that stand level, the first in the model's order comes first.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
    scores = np.take_along_axis(probabilities, order, axis=1)
    if thresholds is None:
        return [
            [Prediction(label=labels[index], score=score) for index, score in zip(best, row, strict=True)]
            for best, row in zip(order.tolist(), scores.tolist(), strict=True)
        ]
    applies = scores >= thresholds[order]
    rows = [
        [Prediction(label=labels[at], score=score, applies=does) for at, score, does in zip(*row, strict=True)]
        for row in zip(order.tolist(), scores.tolist(), applies.tolist(), strict=True)
    ]
    return [given(row) for row in rows] if only_given else rows


def given(labels: list[Prediction]) -> list[Prediction]:
    """What the model gives, of all labels of a text, best first: those that apply; or the best."""
    return [one for one in labels if one.get("applies", one is labels[0])]


def cut(labels: list[Prediction], top_k: TopK) -> list[Prediction]:
    """As many as are asked for, of at least so many, best first; of all labels where what is given is asked for."""
    return given(labels) if top_k == GIVEN else labels[:top_k]
