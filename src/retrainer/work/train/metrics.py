"""The gate's metrics as `evaluate` modules, for the Trainer. Nothing is fetched from the hub.

``evaluate.load(name)`` downloads a script; a subclass of ``evaluate.Metric`` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
from scipy.special import softmax

from retrainer.gate.metrics import METRICS
from retrainer.work.train.trainer import diverged


class GateMetric(evaluate.Metric):  # type: ignore[misc]
    """One metric of ``retrainer.gate.metrics`` over logits.

    :param config_name: its name.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{self.config_name} as the gate computes it",
            citation="",
            inputs_description="predictions: logits of each row; references: label index of each row",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: Any, references: Any, positive: int = 1) -> dict[str, float]:
        logits = np.asarray(predictions, dtype=np.float64)
        labels = np.asarray(references, dtype=np.int64)
        answers = labels, softmax(logits, axis=1), logits.argmax(axis=1)
        value = METRICS[self.config_name].compute(*answers, positive=positive)
        return {self.config_name: float(value)}


class Scores(NamedTuple):
    """How the Trainer scores a model.

    :ivar compute: its ``compute_metrics``.
    :ivar of_batch: its ``preprocess_logits_for_metrics``, where not all logits are to be kept.
    """

    compute: Callable[[Any], dict[str, float]]
    of_batch: Callable[[Any, Any], Any] | None = None


def compute_metrics(names: tuple[str, ...], *, positive: int, where: str) -> Scores:
    """The metrics of the gate.

    :param positive: index of the label that metrics of one label score.
    :param where: the pipeline's name, for errors. The function raises ``PipelineError`` when training diverged.
    """
    combined = evaluate.combine([GateMetric(config_name=name, keep_in_memory=True) for name in names])

    def compute(prediction: Any) -> dict[str, float]:
        logits = prediction.predictions
        # Some models return hidden states after the logits.
        logits = logits[0] if isinstance(logits, tuple) else logits
        if not np.isfinite(logits).all():
            raise diverged(where, "the model's answers on validation rows are not numbers")
        scores: dict[str, float] = combined.compute(
            predictions=logits, references=prediction.label_ids, positive=positive
        )
        return scores

    return Scores(compute)
