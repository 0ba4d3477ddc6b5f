"""The gate's metrics as `evaluate` modules, for the Trainer. Nothing is fetched from the hub.

``evaluate.load(name)`` downloads a script; a subclass of ``evaluate.Metric`` does not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import datasets
import evaluate
import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from retrainer.gate.answers import Answers, SetAnswers
from retrainer.gate.metrics import METRICS
from retrainer.serve.predictor import NO_THRESHOLD
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
        labels, said = answers_of(np.asarray(predictions), np.asarray(references), positive=positive)
        return {self.config_name: float(METRICS[self.config_name].value(labels, said))}


class SetMetric(GateMetric):
    """The same where a row has any number of labels."""

    def _info(self) -> evaluate.MetricInfo:
        info = super()._info()
        info.features["references"] = datasets.Sequence(datasets.Value("float32"))
        return info


def answers_of(
    logits: npt.NDArray[Any], labels: npt.NDArray[Any], *, positive: int
) -> tuple[npt.NDArray[np.int64], Answers | SetAnswers]:
    """True labels and what a model in training says, as the gate's metrics take them.

    Where a row has any number of labels, each applies from a probability of one half on: thresholds come after it.

    :param logits: ``[rows, labels]``.
    :param labels: of the rows, as ``EncodedRows`` has them.
    :param positive: index of the label that metrics of one label score.
    """
    given = logits.astype(np.float64)
    if labels.ndim == 2:
        return np.zeros(len(labels), dtype=np.int64), SetAnswers.of(labels > 0, expit(given), NO_THRESHOLD)
    return labels.astype(np.int64), Answers(given.argmax(axis=1), softmax(given, axis=1), positive)


class Scores(NamedTuple):
    """How the Trainer scores a model.

    :ivar compute: its ``compute_metrics``.
    :ivar of_batch: its ``preprocess_logits_for_metrics``, where not all logits are to be kept.
    """

    compute: Callable[[Any], dict[str, float]]
    of_batch: Callable[[Any, Any], Any] | None = None


def compute_metrics(
    names: tuple[str, ...], *, positive: int, where: str, kind: type[GateMetric] = GateMetric
) -> Scores:
    """The metrics of the gate.

    :param positive: index of the label that metrics of one label score.
    :param kind: of metric, by what the labels of a row are.
    :param where: the pipeline's name, for errors. The function raises ``PipelineError`` when training diverged.
    """
    combined = evaluate.combine([kind(config_name=name, keep_in_memory=True) for name in names])

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


metrics_of_sets = partial(compute_metrics, kind=SetMetric)
