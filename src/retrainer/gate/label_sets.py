"""Metrics of sets of labels, of how often each label is rightly given, wrongly given, missed and rightly left out.

Each is a function from these counts ``[4, labels + 1]`` to the value and to its slopes, of that shape: by how much the
value grows with each count. By the slopes one knows how far each row moves the value, which is all that the delta
method needs; for F1 see K. Takahashi, K. Yamamoto, A. Kuchiba, T. Koyama, Confidence interval for micro-averaged F1 and
macro-averaged F1 scores, Applied Intelligence 52 (2022) 4961-4972. None of the values changes when all counts double.

What has nothing below the line is 0, as scikit-learn has it, to which the tests hold these; so a label that no row has
and that is never given takes its share of a macro average with 0. The last column is not a label: to how many rows a
champion gives labels that are not among the known ones. Each such row is one decision more, and a wrong one, of the
metrics over all decisions; a macro average has no place for it.

Not here: the bounds (``retrainer.gate.metrics``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from retrainer.gate.answers import Floats, Rights, SetAnswers

# Of a label in a row: truly there and given, given only, there only, neither.
HIT, FALSE, MISSED, LEFT_OUT = range(4)


class LabelScores(NamedTuple):
    """How well one label is given.

    :param rows: that have it; ``given``, that are given it.
    """

    label: str
    rows: int
    given: int
    threshold: float
    precision: float
    recall: float
    f1: float


FromCounts = Callable[[Floats], tuple[float, Floats]]


def counts_of(answers: SetAnswers) -> Floats:
    """How often each of the four happens with each label, and at last with those not known, ``[4, labels + 1]``."""
    return np.stack([mask.sum(axis=0) for mask in _four(answers)]).astype(np.float64)


def moved_by_rows(answers: SetAnswers, slopes: Floats) -> Floats:
    """How far each row moves the value, times the number of rows, ``[n]``: the influence of the row.

    They sum to 0 but for rounding.
    """
    n = len(answers.truth)
    moved = np.zeros(n)
    four = _four(answers)
    # Label by label, so that rows with the same answer get the same number to the last bit.
    for label in range(slopes.shape[1]):
        for happens, mask in enumerate(four):
            if slopes[happens, label]:
                moved += mask[:, label] * (n * slopes[happens, label])
    return moved


def _four(answers: SetAnswers) -> tuple[Rights, Rights, Rights, Rights]:
    truth, given = answers.truth, answers.applies
    known = truth & given, ~truth & given, truth & ~given, ~(truth | given)
    # Not giving what is not known is no decision.
    none = np.zeros_like(answers.foreign)
    hits, false, missed, left_out = (
        np.column_stack([mask, last]) for mask, last in zip(known, (none, answers.foreign, none, none), strict=True)
    )
    return hits, false, missed, left_out


def f1_micro(counts: Floats) -> tuple[float, Floats]:
    """F1 of all decisions on all labels together."""
    value, slopes = _f1(counts.sum(axis=1))
    return float(value), _of_each_label(slopes, counts)


def f1_macro(counts: Floats) -> tuple[float, Floats]:
    """F1 of each label, averaged over all known ones."""
    values, slopes = _f1(counts[:, :-1])
    return float(values.mean()), np.pad(slopes / values.size, ((0, 0), (0, 1)))


def precision_micro(counts: Floats) -> tuple[float, Floats]:
    """Of all labels given the share that is right."""
    hits, false, _, _ = counts.sum(axis=1)
    value, slopes = _share(hits, false)
    return value, _of_each_label(np.array([slopes[0], slopes[1], 0.0, 0.0]), counts)


def recall_micro(counts: Floats) -> tuple[float, Floats]:
    """Of all labels that rows have the share that is given."""
    hits, _, missed, _ = counts.sum(axis=1)
    value, slopes = _share(hits, missed)
    return value, _of_each_label(np.array([slopes[0], 0.0, slopes[1], 0.0]), counts)


def hamming_loss(counts: Floats) -> tuple[float, Floats]:
    """Of all decisions, one on each label of each row and one on those given and not known, the share that is wrong."""
    wrong = counts[[FALSE, MISSED]].sum()
    value, slopes = _share(wrong, counts.sum() - wrong)
    return value, _of_each_label(np.array([slopes[1], slopes[0], slopes[0], slopes[1]]), counts)


def scores_of_each(answers: SetAnswers, names: Sequence[str], thresholds: Sequence[float]) -> tuple[LabelScores, ...]:
    """Every label by itself, in order."""
    counts = counts_of(answers)[:, :-1]
    found = []
    for label, threshold, of_it, f1 in zip(names, thresholds, counts.T, _f1(counts)[0], strict=True):
        hits, false, missed, _ = of_it
        precision, recall = _share(hits, false)[0], _share(hits, missed)[0]
        found.append(LabelScores(label, int(hits + missed), int(hits + false), threshold, precision, recall, float(f1)))
    return tuple(found)


def _f1(counts: Floats) -> tuple[Floats, Floats]:
    """Of counts ``[4, ...]``."""
    hits, false, missed, _ = counts
    whole = 2 * hits + false + missed
    below = np.maximum(whole, 1.0)
    value = 2 * hits / below
    off = -value / below
    return value, np.where(whole > 0, np.stack([(2 - 2 * value) / below, off, off, np.zeros_like(off)]), 0.0)


def _share(part: float, rest: float) -> tuple[float, tuple[float, float]]:
    """``part`` of both, with the slopes in the one and the other."""
    whole = part + rest
    if whole == 0:
        return 0.0, (0.0, 0.0)
    return float(part / whole), (float(rest / whole**2), float(-part / whole**2))


def _of_each_label(slopes: Floats, counts: Floats) -> Floats:
    """The same slopes for every label."""
    return np.repeat(slopes[:, None], counts.shape[1], axis=1)
