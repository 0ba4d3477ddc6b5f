"""What report and model card say of a challenger beyond its receipt, read from the artifacts of its run.

Apart from ``decide.py``, so that publishing, which makes the card, does not load what judges and what draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.artifacts.training import TrainingRecord, weights_line
from retrainer.gate.answers import SetAnswers
from retrainer.gate.confusion import Confusion, most_confused
from retrainer.gate.evidence import Evidence
from retrainer.gate.label_sets import LabelScores, scores_of_each
from retrainer.gate.receipt import Receipt
from retrainer.precisions import REFERENCE
from retrainer.report.model_card import CardFacts

if TYPE_CHECKING:
    from retrainer.chain import StepRequest

MOST_CONFUSED = 10


def card_facts(request: StepRequest, inputs: dict[str, Path], evidence: Evidence, receipt: Receipt) -> CardFacts:
    """What report and model card say beyond the receipt."""
    training, statistics = TrainingRecord.load(inputs["train"]), SnapshotStatistics.load(inputs["ingest"])
    return CardFacts(
        base_model=training.base_model,
        max_length=request.pipeline.model.max_length,
        sources=[source.name for source in statistics.sources],
        rows={split: counted.rows for split, counted in statistics.splits.items()},
        training=_training(training),
        measured=evidence.record.models,
        confusions=_confusions(evidence, receipt),
        by_label=_by_label(evidence, receipt),
        max_new_tokens=request.pipeline.model.max_new_tokens if evidence.record.writes == "text" else None,
    )


def _confusions(evidence: Evidence, receipt: Receipt) -> tuple[Confusion, ...]:
    if evidence.record.writes != "label":
        return ()
    if REFERENCE not in receipt.metrics:  # there are no rows, or they contradict themselves; the receipt says which
        return ()
    table, labels = evidence.tables[REFERENCE], evidence.record.labels
    return most_confused(table.labels, table.predictions, labels, most=MOST_CONFUSED)


def _by_label(evidence: Evidence, receipt: Receipt) -> tuple[LabelScores, ...]:
    """How well the challenger gives each label, where rows have any number of them and could be judged."""
    if evidence.record.writes != "labels" or REFERENCE not in receipt.metrics:
        return ()
    said = evidence.tables[REFERENCE].said(evidence.record.positive)
    assert isinstance(said, SetAnswers), "the task gives sets"
    return scores_of_each(said, evidence.record.labels, evidence.record.models[REFERENCE].thresholds or ())


def _training(record: TrainingRecord) -> dict[str, str]:
    """Some lines of the training record."""
    blend = record.blend
    return {
        "epochs": f"{record.epochs:g}",
        "steps": f"{record.steps:,}",
        "best step": f"{record.best_step:,}",
        "device": record.device,
        "parameters": f"{record.parameters:,}",
        "rows per second": f"{record.rows_per_second:.1f}",
        **({"class weights": weights_line(record.class_weights)} if record.class_weights else {}),
        **({"blended with champion": blend.short()} if blend else {}),
    }
