"""What a caller gets back: ranked labels with their probabilities, and which version gave them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from retrainer.errors import UserError


class Prediction(TypedDict):
    """One label with its probability."""

    label: str
    score: float


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

    :raises UserError: it is neither ``None`` nor a whole number above 0.
    """
    if top_k is not None and not is_count(top_k):
        raise UserError(f"top_k must be a whole number from 1, or None for all labels; got {top_k!r}")


def ranked(
    probabilities: npt.NDArray[np.float64], labels: tuple[str, ...], top_k: int | None
) -> list[list[Prediction]]:
    """The best labels of each row.

    :param probabilities: ``[rows, labels]``.
    :param top_k: how many; ``None`` for all.
    """
    # Stable: of labels that stand level, the first in the model's order comes first.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    scores = np.take_along_axis(probabilities, order, axis=1).tolist()
    return [
        [Prediction(label=labels[index], score=score) for index, score in zip(best, row, strict=True)]
        for best, row in zip(order.tolist(), scores, strict=True)
    ]
