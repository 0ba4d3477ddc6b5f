"""Whether a published model still answers as well as on the rows of its decision: the drop, its interval, the verdict.

Two independent samples: the test rows of the decision, of which the receipt has the score with its interval, and rows
that were labelled since. The interval of the difference is put together from both, each with its own method, by the
square-and-add rule (R. Newcombe, Interval estimation for the difference between independent proportions: comparison of
eleven methods, Statistics in Medicine 17 (1998) 873-890, method 10; for other estimates G. Zou, A. Donner, Construction
of confidence limits about effect measures: a general approach, Statistics in Medicine 27 (2008) 1693-1702): for the
lower bound of ``before - now`` each estimate is as far off as its own bound on that side says, and distances add like
standard errors. It keeps the asymmetry of intervals near 0 and 1.

The burden of proof is on whoever says something. ``decayed`` needs the whole interval of the drop above ``max_drop``,
for it starts work and wakes people; ``holds`` needs all of it at or below, for people then look elsewhere. What lies
between is ``insufficient``, and never silence. At a true drop of exactly ``max_drop`` each of the two is said with a
probability of at most about alpha by one check; rows that are looked at again as they grow are one chance more each.

Pure. Not here: which rows are new (``work/decay.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from retrainer.artifacts.decay import DecayCode, DecayVerdict, Drop, LabelShare
from retrainer.artifacts.measures import Score
from retrainer.gate.answers import Answers, Ints, Said, SetAnswers
from retrainer.gate.confusion import confusion_matrix
from retrainer.gate.metrics import METRICS
from retrainer.gate.paired import tidy

METHOD = "square-and-add of both intervals"


def drop_between(metric: str, before: Score, now: Score, alpha: float) -> Drop | None:
    """How much worse the second score is than the first, of other rows. ``None`` where one of them has no interval.

    :param alpha: the error rate of each bound of both scores, and so of each bound of the drop.
    """
    if before.value is None or now.value is None:
        return None
    first, second = (_turned(metric, score) for score in (before, now))
    if first is None or second is None:
        return None
    (low, value, high), (low_now, value_now, high_now) = first, second
    estimate = value - value_now
    return Drop(
        estimate=tidy(estimate),
        low=tidy(estimate - math.hypot(value - low, high_now - value_now)),
        high=tidy(estimate + math.hypot(high - value, value_now - low_now)),
        confidence=tidy(1 - 2 * alpha),
        method=f"{METHOD}: {before.method}; {now.method}",
    )


def _turned(metric: str, score: Score) -> tuple[float, float, float] | None:
    """Lower bound, value and upper bound, turned so that more is better."""
    if score.value is None or score.low is None or score.high is None:
        return None
    ends = METRICS[metric].sign * np.array([score.low, score.value, score.high])
    low, value, high = np.sort(ends).tolist()
    return low, value, high


def judge_drop(drop: Drop, max_drop: float) -> tuple[DecayVerdict, DecayCode]:
    """What the interval of a drop shows."""
    if drop.low > max_drop:
        return "decayed", DecayCode.DROP_TOO_LARGE
    if drop.high <= max_drop:
        return "holds", DecayCode.WITHIN
    return "insufficient", DecayCode.NOT_TOLD


def label_shares(
    before: Mapping[str, int], rows_before: int, now: Mapping[str, int], rows_now: int
) -> tuple[LabelShare, ...]:
    """Shares of all labels, the one that moved most first.

    :param before: rows of each label among ``rows_before``; ``now`` the same of the new rows.
    """
    shares = [
        LabelShare(
            label=label,
            before=tidy(before.get(label, 0) / max(rows_before, 1)),
            now=tidy(now.get(label, 0) / max(rows_now, 1)),
        )
        for label in dict.fromkeys([*before, *now])
    ]
    return tuple(sorted(shares, key=lambda share: -abs(share.now - share.before)))


def at_shares(metric: str, labels: Ints, said: Said, names: Sequence[str], before: Mapping[str, int]) -> float | None:
    """What a metric would be on rows with other shares of labels: those of each label as often right as they are.

    A drop that is gone then comes from the mix of labels; what stays comes from how the model does on them.

    :param names: of the labels that ``labels`` indexes.
    :param before: label to rows, of the other shares.
    :return: ``None`` where the metric is not one of the confusion matrix, or a label has no row.
    """
    known = METRICS[metric]
    if not isinstance(said, Answers) or known.from_confusion is None:
        return None
    counts = confusion_matrix(labels, said.predictions, len(names)).astype(np.float64)
    wanted = np.array([float(before.get(name, 0)) for name in names])
    rows = counts.sum(axis=1)
    if set(before) - set(names) or not wanted.any() or (rows[wanted > 0] == 0).any():
        return None
    weighted = counts * np.divide(wanted, rows, out=np.zeros_like(wanted), where=rows > 0)[:, None]
    more = {"positive": said.positive} if known.known.of_one_label else {}
    value = float(known.from_confusion(weighted, **more))
    return tidy(value) if math.isfinite(value) else None


def rows_of_each(labels: Ints, said: Said, names: Sequence[str]) -> dict[str, int]:
    """Label to the rows that truly have it; nothing where texts are written."""
    if isinstance(said, SetAnswers):
        counts = said.truth.sum(axis=0)
    elif isinstance(said, Answers):
        counts = np.bincount(labels, minlength=len(names))
    else:
        return {}
    return {name: int(count) for name, count in zip(names, counts, strict=True)}
