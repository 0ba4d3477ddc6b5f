"""The decide step: judge an evaluation by the pipeline's gate, and write the receipt and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrainer.errors import IntegrityError
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence, load_evidence
from retrainer.gate.explain import confidence, explain
from retrainer.gate.model_card import CardFacts, model_card
from retrainer.gate.records import Receipt
from retrainer.snapshot import SnapshotStatistics

if TYPE_CHECKING:
    from retrainer.steps import StepRequest
    from retrainer.work.reporter import Reporter

RECEIPT = "receipt.json"
MODEL_CARD = "model_card.md"


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Fill ``folder`` with ``receipt.json`` and ``model_card.md``. A refusal is a result, not an error.

    :raises IntegrityError: the evaluation is about other artifacts than those of this run.
    :raises GateError: the policy cannot be applied.
    """
    evidence = load_evidence(inputs["evaluate"])
    _check_origin(request, evidence)
    receipt = decide(request.pipeline.gate, evidence)
    (folder / RECEIPT).write_text(receipt.to_pretty_json(), encoding="utf-8")
    (folder / MODEL_CARD).write_text(model_card(receipt, _facts(request, inputs)), encoding="utf-8")
    for line in explain(receipt):
        reporter.log(line)
    return summary(receipt)


def summary(receipt: Receipt) -> dict[str, Any]:
    """What of a receipt travels with the reference to it."""
    comparison = receipt.comparison
    return {
        "verdict": receipt.verdict,
        "reasons": [{"code": reason.code.value, "detail": reason.detail} for reason in receipt.reasons],
        "notes": list(receipt.notes),
        "comparison": None
        if comparison is None
        else {
            "metric": comparison.metric,
            "difference": comparison.estimate,
            "low": comparison.low,
            "high": comparison.high,
            "confidence": comparison.confidence,
            "method": comparison.method,
            "n": comparison.n,
            "disagreements": comparison.disagreements,
        },
        "threshold": receipt.threshold,
        "rows_needed": receipt.rows_needed,
        "metrics": {name: score.value for name, score in receipt.metrics.get("fp32", {}).items()},
        "intervals": {
            name: {"low": score.low, "high": score.high}
            for name, score in receipt.metrics.get("fp32", {}).items()
            if score.low is not None and score.high is not None
        },
        "confidence": confidence(receipt.policy),
        "champion_version": receipt.champion_version,
        "precisions": list(receipt.publishable),
    }


def _check_origin(request: StepRequest, evidence: Evidence) -> None:
    """The evaluation must be of the very artifacts that publishing would take."""
    for step, digest in request.inputs.items():
        said = evidence.record.digests.get(step)
        if said != digest:
            raise IntegrityError(
                f"the evaluation is of {step} artifact {said}, this run has {digest}",
                where=f"evaluate artifact {request.inputs.get('evaluate')}",
                hint="run the evaluate step again",
            )
    if evidence.record.model != request.pipeline.name:
        raise IntegrityError(f"the evaluation is of model {evidence.record.model!r}", where=request.pipeline.name)


def _facts(request: StepRequest, inputs: dict[str, Path]) -> CardFacts:
    pipeline = request.pipeline
    statistics = SnapshotStatistics.load(inputs["ingest"])
    return CardFacts(
        base_model=pipeline.model.base,
        max_length=pipeline.model.max_length,
        store=pipeline.publish.store,
        channel=pipeline.publish.channel,
        sources=[source.name for source in statistics.sources],
        rows={split: counted.rows for split, counted in statistics.splits.items()},
        training=_training(inputs["train"] / "training.json"),
    )


def _training(path: Path) -> dict[str, str]:
    """Some lines of the training record, read as plain JSON: its class lives beside torch."""
    record = json.loads(path.read_bytes())
    formats = {
        "epochs": "{:g}",
        "steps": "{:,}",
        "best_step": "{:,}",
        "device": "{}",
        "parameters": "{:,}",
        "rows_per_second": "{:.1f}",
    }
    return {name.replace("_", " "): form.format(record[name]) for name, form in formats.items() if name in record}
