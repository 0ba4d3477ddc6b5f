"""Two texts in, one of several labels out."""

from __future__ import annotations

from retrainer.tasks.definition import TaskDefinition
from retrainer.tasks.text_classification import SINGLE_LABEL

TASK = TaskDefinition(
    name="text-pair-classification",
    texts=2,
    metrics="classification",
    # The hub has no task of its own for pairs; a pair is one input to it.
    hub_tag="text-classification",
    model="pair classifier",
    reads="pairs of texts",
    intended_use="Pairs of texts like those it was trained on, each of which has exactly one of the labels. It always "
    "answers with one of them, also for a pair that belongs to none.",
    example='("first text", "second text")',
    parts=SINGLE_LABEL,
)
