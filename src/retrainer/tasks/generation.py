"""One text in, another out: pipelines may name these tasks, and this version cannot train them."""

from __future__ import annotations

from retrainer.tasks.definition import TaskDefinition

TEXT_TO_TEXT = TaskDefinition(
    name="text2text-generation",
    columns={"text": "model_input", "label": "model_output"},
    hub_tag="text2text-generation",
    model="text-to-text model",
)

CONTINUATION = TaskDefinition(
    name="text-generation",
    columns={"text": "model_input", "label": "model_output"},
    hub_tag="text-generation",
    model="language model",
)
