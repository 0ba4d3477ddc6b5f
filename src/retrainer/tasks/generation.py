"""One text in, another out: by models with an encoder and a decoder, and by models that continue what they read."""

from __future__ import annotations

from dataclasses import replace

from retrainer.tasks.definition import Parts, TaskDefinition

ENCODER_DECODER = Parts(
    encode="retrainer.work.train.generation:encode_for_encoder",
    model_class="transformers:AutoModelForSeq2SeqLM",
    head="retrainer.work.train.generation:no_head",
    ready="retrainer.work.train.generation:ready_with_encoder",
    collate="retrainer.work.train.generation:collate",
    training_scores="retrainer.work.train.generation:scores_with_encoder",
    export="retrainer.work.export.generation:export_bundle",
    score="retrainer.work.evaluate.generation:score",
    predictor="retrainer.serve.generation:GenerationPredictor",
    agreement="retrainer.serve.generation_golden:agreement",
)
DECODER = replace(
    ENCODER_DECODER,
    encode="retrainer.work.train.generation:encode_for_decoder",
    model_class="transformers:AutoModelForCausalLM",
    ready="retrainer.work.train.generation:ready_without_encoder",
    training_scores="retrainer.work.train.generation:scores_without_encoder",
)

TEXT_TO_TEXT = TaskDefinition(
    name="text2text-generation",
    columns={"text": "model_input", "label": "model_output"},
    writes="text",
    has_encoder=True,
    metrics="generation",
    default_metrics=("chrf", "exact_match"),
    in_training=("exact_match",),
    hub_tag="text2text-generation",
    model="text-to-text model",
    intended_use="Texts like those it was trained on. It answers each with a text of its own, which may be wrong and "
    "still read well.",
    parts=ENCODER_DECODER,
)

CONTINUATION = replace(
    TEXT_TO_TEXT,
    name="text-generation",
    has_encoder=False,
    hub_tag="text-generation",
    model="language model",
    parts=DECODER,
)
