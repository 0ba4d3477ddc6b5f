"""What of a receipt goes into the summary of its model, which pages show; and that it goes there.

Not here: the summary itself (``store/summary.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

from retrainer.artifacts.measures import Interval, Score
from retrainer.gate.receipt import DriftResult, Receipt
from retrainer.precisions import REFERENCE
from retrainer.store.summary import MOST_REASONS, Figure, Judged, shortened

# From the best to the worst.
_DRIFT = ("none", "note", "warn", "block")


def judged_in(receipt: Receipt) -> Judged:
    """The small part of a receipt that stands in a list of decisions."""
    compared = receipt.comparison
    return Judged(
        texts=tuple(shortened(reason.detail) for reason in receipt.reasons[:MOST_REASONS]),
        metric=compared.metric if compared is not None else None,
        difference=_difference(compared),
        threshold=receipt.threshold,
        metrics=figures_in(receipt.metrics.get(REFERENCE, {})),
        drift=_worst(receipt.drift),
    )


def figures_in(scores: Mapping[str, Score]) -> dict[str, Figure]:
    """Scores as a summary has them; those without a value are left out."""
    return {
        name: Figure(value=score.value, low=score.low, high=score.high)
        for name, score in scores.items()
        if score.value is not None
    }


def _difference(interval: Interval | None) -> Figure | None:
    if interval is None:
        return None
    return Figure(value=interval.estimate, low=interval.low, high=interval.high)


def _worst(drift: tuple[DriftResult, ...] | None) -> str | None:
    if drift is None:
        return None
    return max((found.verdict for found in drift), key=_DRIFT.index, default="none")
