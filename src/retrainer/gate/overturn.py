"""How many wrong test labels would overturn a comparison with the champion, and which rows to look at first.

Pure. A label that is wrong counts for or against a model only on rows on which the two predict different labels. There,
with ``better`` rows that only the challenger has right and ``worse`` rows that only the champion has right, giving one
row another label does this and nothing else:

========================  ====================  =====================  =================
the row                   its new label is      ``better``             ``worse``
========================  ====================  =====================  =================
only the challenger       the champion's        one less               one more
is right                  any third             one less               as before
only the champion         the challenger's      one more               one less
is right                  any third             as before              one less
both are wrong, not       the challenger's      one more               as before
alike                     the champion's        as before              one more
                          any third             as before              as before
the same prediction       any                   as before              as before
========================  ====================  =====================  =================

Where a row has any number of labels, "label" stands for all of them together. A champion's label that the challenger
does not have cannot be given to a row. For the share of right rows the fewest labels follow from that exactly, with
the gate's own interval: its bounds never fall when a row is added to ``better`` or taken from ``worse`` (the tests look
at all small tables), so of all ways to change ``k`` labels only those are tried that none other surpasses. For every
other metric the number is an estimate: see ``_estimated``.

Not here: whether a label is wrong (``work/suspects``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrainer.artifacts.evaluation import CHAMPION
from retrainer.artifacts.measures import Interval, Overturn
from retrainer.gate.answers import Floats, Ints, SetAnswers, TextAnswers
from retrainer.gate.claims import FEWEST_ROWS
from retrainer.gate.metrics import METRICS
from retrainer.gate.paired import tango_interval, tidy
from retrainer.gate.validity import FP32, Rows
from retrainer.spec.known_metrics import SHARE_RIGHT

EXACT = "exact: the fewest labels, by the interval of the comparison"
ESTIMATE = (
    "an estimate: rows on which the predictions differ are given the other model's label, those that count most first, "
    "until the difference has moved by as much as the interval is from the threshold"
)


def overturn_of(
    rows: Rows | None, interval: Interval | None, threshold: float | None, *, level: float
) -> Overturn | None:
    """The fewest wrong labels with which the comparison would come out otherwise: shown, or not shown.

    :param rows: that were compared.
    :param interval: as the gate read it; ``None`` when nothing was compared.
    :param threshold: what its lower end must be above.
    :param level: one-sided, at which the interval was computed; 0 where nothing was left to compare with.
    :return: ``None`` also where the task has no labels.
    """
    if rows is None or interval is None or threshold is None or level <= 0:
        return None
    labels, challenger, champion = rows.labels, rows.answers[FP32], rows.answers[CHAMPION]
    if isinstance(challenger, TextAnswers) or isinstance(champion, TextAnswers):
        return None  # a text that is wrong can be corrected to any other
    exact = interval.metric in SHARE_RIGHT.values()
    if exact:
        fewest = _exactly(labels, challenger, champion, level, threshold)
    else:
        fewest = _estimated(interval, labels, challenger, champion, threshold)
    return Overturn(labels=fewest, rows=interval.disagreements, exact=exact, method=EXACT if exact else ESTIMATE)


def _exactly(labels: Ints, challenger: Any, champion: Any, level: float, threshold: float) -> int | None:
    """The fewest labels for the share of right rows; ``None`` when no number of them would do.

    :param challenger: its answers; so is ``champion``, of the same kind.
    """
    n = labels.size
    known, differ = champion.known, challenger.predictions != champion.predictions
    right, other_right = challenger.right(labels), champion.right(labels)
    better, worse = right & ~other_right, other_right & ~right
    neither = differ & ~right & ~other_right
    now_better, now_worse = _count(better), _count(worse)

    def shown(better: Ints, worse: Ints) -> NDArray[np.bool_]:
        low, _ = tango_interval(better, worse, n, level)
        return np.array([n >= FEWEST_ROWS and tidy(one) > threshold for one in low], dtype=np.bool_)

    def with_more_right(changes: int) -> bool:
        """Whether so many labels can make it shown."""
        swapped = min(changes, now_worse)
        gained = min(changes - swapped, _count(neither))
        return bool(shown(np.array([now_better + swapped + gained]), np.array([now_worse - swapped])).any())

    swappable, foreign = _count(better & known), _count(better & ~known)
    losable = _count(neither & known)

    def with_more_wrong(changes: int) -> bool:
        """Whether so many can make it not shown. Neither of what is left once all rows are swapped surpasses the other:
        all ways to divide the rest are tried.
        """
        swapped = min(changes, swappable)
        rest = min(changes - swapped, foreign + losable)
        dropped = np.arange(max(0, rest - losable), min(rest, foreign) + 1)
        return bool((~shown(now_better - swapped - dropped, now_worse + swapped + rest - dropped)).any())

    if shown(np.array([now_better]), np.array([now_worse])).all():
        return _fewest(with_more_wrong, swappable + foreign + losable)
    return _fewest(with_more_right, now_worse + _count(neither))


def _count(rows: NDArray[np.bool_]) -> int:
    return int(rows.sum())


def _estimated(interval: Interval, labels: Ints, challenger: Any, champion: Any, threshold: float) -> int | None:
    """About the fewest labels for another metric.

    The interval is taken to keep its width, and rows are changed in one order only: those that one model has right go
    first, for they count twice. Of these first go the rows of rare labels, for they weigh most in averages over labels;
    where rows have any number of labels, the rows on which the models differ in most of them.
    """
    shown = interval.low > threshold and interval.n >= FEWEST_ROWS
    winner, loser = (champion, challenger) if shown else (challenger, champion)
    differ = challenger.predictions != champion.predictions
    takes = np.flatnonzero(differ & winner.known & ~winner.right(labels))
    twice = loser.right(labels)[takes]
    order = takes[np.lexsort((takes, _lightness(labels, challenger, champion)[takes], ~twice))]
    needed = interval.low - threshold
    metric = METRICS[interval.metric]

    def overturned(changes: int) -> bool:
        changed = order[:changes]
        (relabelled, ours), (_, theirs) = (one.corrected(labels, changed, winner) for one in (challenger, champion))
        try:
            moved = metric.difference(relabelled, ours, theirs) - interval.estimate
        except ValueError:  # without one of its labels the metric has no value
            return False
        return moved <= -needed if shown else moved > -needed

    return _fewest(overturned, order.size) if interval.n >= FEWEST_ROWS else None


def _lightness(labels: Ints, challenger: Any, champion: Any) -> Ints:
    """What is the less, the more a row weighs in a metric."""
    if isinstance(challenger, SetAnswers):
        lightness: Ints = -np.count_nonzero(challenger.applies != champion.applies, axis=1)
    else:
        lightness = np.bincount(labels)[labels]
    return lightness


def _fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The least number from 1 on that is enough; every larger one is, too. ``None`` when ``most`` is not."""
    if most < 1 or not enough(most):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def look_first(
    labels: Ints, challenger: Ints, champion: Ints, probabilities: Floats, noise: float
) -> tuple[Ints, Floats]:
    """The rows that a person should look at first: those that may be expected to move the comparison most.

    What is expected of a row is the sum, over the labels that it may truly have instead, of the probability of that
    label times by how much ``better - worse`` would move: by 2 where one model's success becomes the other's, by 1
    where only one of them gains or loses, by 0 elsewhere. That a label was given speaks for it, so the probability is
    Bayes's, with labels that are wrong at a rate and then any other. Without that, rows come first on which the models
    are merely in doubt: among the first 20 of AG News 1 label was wrong, with it 16.

    :param labels: as they are given, ``[n]``.
    :param probabilities: of each label of each row by a model that has not seen the row's own label, ``[n, labels]``.
    :param noise: share of all labels that are wrong, about; above 0.
    :return: positions of the rows on which the predictions differ and a move is expected, the largest first; and what
        is expected of each.
    """
    at = np.flatnonzero(challenger != champion)
    count = probabilities.shape[1]
    names, own = np.arange(count), (np.arange(at.size), labels[at])
    true = probabilities[at] * noise / (count - 1)
    true[own] = probabilities[at][own] * (1 - noise)
    true /= np.maximum(true.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)

    def lead(of: Ints) -> Ints:
        """What a row adds to ``better - worse`` under these labels."""
        ours, theirs = of == challenger[at][:, None], of == champion[at][:, None]
        difference: Ints = ours.astype(np.int64) - theirs.astype(np.int64)
        return difference

    moves = np.abs(lead(np.broadcast_to(names, (at.size, names.size))) - lead(labels[at][:, None]))
    expected: Floats = (moves * true).sum(axis=1)
    order = np.lexsort((at, -expected))
    order = order[expected[order] > 0]
    return at[order], expected[order]
