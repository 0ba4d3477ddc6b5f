"""One text in, one of several labels out."""

from __future__ import annotations

from retrainer.tasks.definition import Parts, TaskDefinition

SINGLE_LABEL = Parts(
    encode="retrainer.work.train.encoding:encode",
    model_class="transformers:AutoModelForSequenceClassification",
    head="retrainer.work.train.loading:single_label_head",
    ready="retrainer.work.train.loading:ready_to_classify",
    collate="retrainer.work.train.encoding:collate",
    training_scores="retrainer.work.train.metrics:compute_metrics",
    export="retrainer.work.export.bundle:export_bundle",
    score="retrainer.work.evaluate.scoring:score",
    predictor="retrainer.serve.predictor:Predictor",
)

TASK = TaskDefinition(
    name="text-classification",
    metrics="classification",
    hub_tag="text-classification",
    model="classifier",
    intended_use="Texts like those it was trained on, each of which has exactly one of the labels. It always answers "
    "with one of them, also for a text that belongs to none.",
    parts=SINGLE_LABEL,
)
