"""The model card: valid front matter, every figure that a reader needs, nothing that breaks its tables."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml

from retrainer.artifacts.evaluation import DriftMeasure, Leakage
from retrainer.gate.decide import decide
from retrainer.report.decision import explain
from retrainer.report.model_card import CardFacts, model_card
from retrainer.spec.budgets import Budgets
from retrainer.spec.gate import AgainstChampion, Gate, Slices

FACTS = CardFacts(
    base_model="distilbert-base-uncased",
    max_length=128,
    sources=("s3://corp/news/a.parquet",),
    rows={"train": 8000, "validation": 900, "test": 2000},
    training={"epochs": "3", "device": "cpu"},
)

LOADING = 'Classifier.from_store("s3://models", "news")'


def front_matter(card: str) -> Any:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_a_promoted_model(make):
    policy = Gate(
        floors={"accuracy": 0.8},
        against_champion=AgainstChampion(mode="superiority"),
        slices=Slices(by=("label",)),
        budgets=Budgets(p95_latency_ms=25),
    )
    card = model_card(decide(policy, make.pair(2000, better=100, worse=40, int8=True)), FACTS, loading=LOADING)
    matter = front_matter(card)
    assert matter["pipeline_tag"] == "text-classification"
    assert matter["base_model"] == "distilbert-base-uncased"
    assert "license" not in matter
    assert matter["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.955}
    assert f"```python\n{LOADING}\n```" in card
    assert "| accuracy | 0.9550 [" in card
    assert "+0.0300" in card
    assert "label = label 0" in card
    assert "p95_latency_ms" in card
    assert "**promote**" in card
    assert "- train rows: 8,000" in card
    for heading in ("Intended use", "Loading", "Data", "Training", "Evaluation", "Decision", "Limits"):
        assert f"\n## {heading}\n" in card


def test_what_else_was_measured_is_in_it_briefly(make):
    evidence = make.pair(
        2000,
        better=100,
        worse=40,
        baseline_wrong=400,
        drift=(
            DriftMeasure(kind="labels", measure="label shares", distance=0.3, method="m"),
            DriftMeasure(kind="length", measure="characters", distance=0.01, method="m"),
        ),
        leakage=Leakage(exact={"train_in_test": 12}, near={"train_in_test": 31}, champion_exact=2),
    )
    record = evidence.record
    calibrated = record.challenger["fp32"].model_copy(update={"temperature": 1.25})
    evidence = replace(evidence, record=record.model_copy(update={"challenger": {"fp32": calibrated}}))
    receipt = decide(Gate(), evidence)
    card = model_card(receipt, replace(FACTS, measured=dict(evidence.record.challenger)), loading=LOADING)
    assert "| metric | champion | fp32 | baseline |" in card or "| metric | fp32 | champion | baseline |" in card
    assert "0.8000 [" in card
    assert "| fp32 | 1.250 |" in card
    assert "| label shares | warning | 0.300 |" in card
    assert "| train in test | 12 | 31 |" in card
    assert "| test in the champion's training rows | 2 | 0 |" in card
    assert "| fp32 | 10 ms | 20 ms | 100 | 90 MB | 200 MB |" in card
    said = "\n".join(explain(receipt))
    assert "Against a simple baseline\n    The baseline is TF-IDF with logistic regression" in said
    assert "    accuracy +0." in said
    assert "train in test                         12       31" in said


def test_a_refused_model_says_why(make):
    card = model_card(decide(Gate(), make.pair(2000, worse=200)), FACTS, loading=LOADING)
    assert "**refuse**" in card
    assert "(worse_than_champion)" in card


def test_evidence_that_cannot_be_judged_still_has_a_card(make):
    labels = np.zeros(100, dtype=np.int64)
    card = model_card(decide(Gate(), make(labels, {"fp32": labels}, measured=("accuracy",))), FACTS, loading=LOADING)
    assert "no scores" in card
    assert "model-index" not in front_matter(card)


def test_hostile_label_names_stay_in_their_cells(make):
    labels = np.arange(600) % 2
    names = ("a|b\n## Injected", "<script>`x`: {yaml}")
    evidence = make(labels, {"fp32": labels}, names=names)
    card = model_card(decide(Gate(slices=Slices(by=("label",))), evidence), FACTS, loading=LOADING)
    assert "\n## Injected" not in card
    assert "| <script>" not in card
    assert "= <script>" not in card
    assert front_matter(card)["library_name"] == "onnx"


def test_pairs_are_classified(make):
    labels = np.arange(600) % 2
    receipt = decide(Gate(), make(labels, {"fp32": labels}, task="text-pair-classification"))
    card = model_card(receipt, FACTS, loading=LOADING)
    assert front_matter(card)["pipeline_tag"] == "text-classification"


@pytest.mark.parametrize("module", ["gate.receipt", "report.decision", "report.model_card"])
def test_the_light_modules_load_nothing_heavy(module):
    heavy = "numpy scipy sklearn pandas pyarrow torch transformers datasets evaluate onnxruntime boto3"
    script = f"import sys, retrainer.{module}\nprint(sorted(set({heavy.split()!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
