"""One text in, any number of the labels out, none included."""

from __future__ import annotations

from dataclasses import replace

from retrainer.tasks.definition import TaskDefinition
from retrainer.tasks.text_classification import SINGLE_LABEL

LABEL_SETS = replace(
    SINGLE_LABEL,
    head="retrainer.work.train.loading:multi_label_head",
    training_scores="retrainer.work.train.metrics:metrics_of_sets",
)

TASK = TaskDefinition(
    name="multi-label-classification",
    writes="labels",
    metrics="multi_label",
    default_metrics=("f1_micro", "f1_macro", "subset_accuracy"),
    # The hub has no task of its own for several labels.
    hub_tag="text-classification",
    model="multi-label classifier",
    intended_use="Texts like those it was trained on, each of which has any number of the labels, or none. Each label "
    "is decided by itself: it applies where its score reaches the label's threshold.",
    parts=LABEL_SETS,
)
