"""Temperature scaling: one number a graph that makes its probabilities as large as it is often right.

Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017, section 4.2: all logits are
divided by one temperature, fitted on validation rows by the least log loss. The order of the labels never changes.
Where a row has any number of labels the loss is the binary cross entropy of all, and each label gets a threshold
(``thresholds.py``), by the probabilities that the temperature leads to. Not here: dividing by it
(``serve/predictor.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from retrainer.artifacts.calibration import CalibrationReport, GraphCalibration
from retrainer.errors import DataError
from retrainer.gate.answers import SetAnswers
from retrainer.gate.metrics import METRICS
from retrainer.serve.predictor import NO_THRESHOLD, Predictor, load_info, sigmoid, softmax
from retrainer.tasks import known_task
from retrainer.work.export.sample import Row
from retrainer.work.export.thresholds import fit_thresholds

# One number needs no more: on 2000 rows its standard error is a few hundredths.
MOST_ROWS = 2000
# A threshold hangs on the rows of its label alone, of which there may be few.
MOST_ROWS_OF_SETS = 5000
# With fewer, the number says more about the rows than about the model.
FEWEST_ROWS = 30
SEED = 42
# Networks lie between about 1 and 5 (Guo et al., and Desai and Durrett, EMNLP 2020, on transformers). What lies outside
# of these bounds runs off to 0 or infinity.
BOUNDS = (0.05, 20.0)
# Digits that survive another order of sums, so that the same checkpoint gives the same bytes.
DECIMALS = 4

Logits = npt.NDArray[np.float32]
# The index of each row's label, ``[rows]``; or which labels a row has, as 0 and 1, ``[rows, labels]``.
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fit:
    """A temperature.

    :param why_not: why it is 1 and was not fitted.
    """

    temperature: float
    why_not: str | None = None


def calibrate(bundle: Path, rows: Sequence[Row], *, temperature: bool = True) -> CalibrationReport:
    """Fit a temperature for each graph of a bundle, and thresholds where a row has any number of labels, and write them
    into its ``bundle.json``.

    Where no temperature can be fitted there is none in the file, and the client leaves the logits as they are.

    :param rows: of the validation split, with labels; of many, some.
    :param temperature: whether it is asked for.
    :raises DataError: a row has no label.
    """
    info = load_info(bundle)
    sets = known_task(info.task, where=str(bundle)).writes == "labels"
    chosen = _choose(rows, MOST_ROWS_OF_SETS if sets else MOST_ROWS)
    labels = _sets(chosen, len(info.labels)) if sets else np.array([_label(row) for row in chosen], dtype=np.int64)
    texts = [row.text for row in chosen]
    graphs = {}
    entries = dict(info.precisions)
    for precision, entry in info.precisions.items():
        logits = Predictor(bundle, precision=precision).logits(texts)
        fit = fit_temperature(logits, labels) if temperature else Fit(1.0, "export.calibration is none")
        graph = _measured(logits, labels, fit)
        found: dict[str, Any] = {"temperature": None if fit.why_not is not None else fit.temperature}
        if sets:
            fitted = fit_thresholds(sigmoid(logits, fit.temperature), labels > 0, info.labels)
            graph = graph.model_copy(update={"thresholds": fitted})
            found["thresholds"] = tuple(one.threshold for one in fitted.values())
        graphs[precision], entries[precision] = graph, entry.model_copy(update=found)
    info.model_copy(update={"precisions": entries}).save(bundle)
    return CalibrationReport(rows=len(chosen), graphs=graphs)


def fit_temperature(logits: Logits, labels: Labels) -> Fit:
    """The temperature of the least log loss; 1 where the rows cannot tell.

    The log loss is convex in the inverse of the temperature, so that it has one minimum, also over the logarithm.

    :param logits: ``[rows, labels]``.
    :param labels: index of the true label of each row; or which labels it has, as 0 and 1 ``[rows, labels]``.
    """
    sets = labels.ndim == 2
    right = (logits > 0) == labels if sets else logits.argmax(axis=1) == labels
    if len(labels) < FEWEST_ROWS:
        return Fit(1.0, f"{len(labels)} validation rows are too few, it takes {FEWEST_ROWS}")
    if len(np.unique(labels, axis=0)) == 1:
        return Fit(1.0, f"all validation rows have the same label{'s' * sets}")
    if right.all():
        return Fit(1.0, f"all {len(labels)} validation rows are right, so that no score would be too high")
    low, high = np.log(BOUNDS)
    found = minimize_scalar(
        lambda x: _log_loss(logits, labels, float(np.exp(x))),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-7},
    )
    temperature = float(np.exp(found.x))
    if not found.success or not BOUNDS[0] * 1.01 < temperature < BOUNDS[1] * 0.99:
        return Fit(1.0, f"the best temperature is not between {BOUNDS[0]:g} and {BOUNDS[1]:g}")
    return Fit(round(temperature, DECIMALS))


def _measured(logits: Logits, labels: Labels, fit: Fit) -> GraphCalibration:
    if not len(labels):
        return GraphCalibration(
            temperature=1.0, why_not_fitted=fit.why_not, log_loss=None, log_loss_after=None, ece=None, ece_after=None
        )
    return GraphCalibration(
        temperature=fit.temperature,
        why_not_fitted=fit.why_not,
        log_loss=_log_loss(logits, labels, 1.0),
        log_loss_after=_log_loss(logits, labels, fit.temperature),
        ece=_ece(logits, labels, 1.0),
        ece_after=_ece(logits, labels, fit.temperature),
    )


def _log_loss(logits: Logits, labels: Labels, temperature: float) -> float:
    """Mean of minus the log probability of what is true, not cut off where a probability is nearly 0."""
    scaled = logits.astype(np.float64) / temperature
    if labels.ndim == 2:
        return float(np.logaddexp(0.0, np.where(labels > 0, -scaled, scaled)).mean())
    return float(-log_softmax(scaled, axis=1)[np.arange(len(labels)), labels].mean())


def _ece(logits: Logits, labels: Labels, temperature: float) -> float:
    if labels.ndim == 2:
        probabilities = sigmoid(logits, temperature)
        said = SetAnswers.of(labels > 0, probabilities, NO_THRESHOLD)
        return float(METRICS["ece"].value(np.zeros(len(labels), dtype=np.int64), said))
    probabilities = softmax(logits, temperature)
    return float(METRICS["ece"].compute(labels, probabilities, probabilities.argmax(axis=1)))


def _choose(rows: Sequence[Row], most: int) -> list[Row]:
    """All rows, or as many as it takes, the same ones whatever order they come in."""
    ordered = sorted(rows, key=lambda row: row.row_id)
    if len(ordered) <= most:
        return ordered
    positions = np.random.default_rng(SEED).choice(len(ordered), size=most, replace=False)
    return [ordered[position] for position in sorted(positions)]


def _sets(rows: Sequence[Row], labels: int) -> Labels:
    """Which labels each row has, ``[rows, labels]``."""
    has = np.zeros((len(rows), labels), dtype=np.int64)
    for at, row in enumerate(rows):
        if not isinstance(row.label, Sequence):
            raise _unlabelled(row)
        has[at, list(row.label)] = 1
    return has


def _label(row: Row) -> int:
    if not isinstance(row.label, int):
        raise _unlabelled(row)
    return row.label


def _unlabelled(row: Row) -> DataError:
    return DataError("a row without a label cannot calibrate a model", where=f"row {row.row_id}")
