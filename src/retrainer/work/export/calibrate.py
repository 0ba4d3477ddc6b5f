"""Temperature scaling: one number a graph that makes its probabilities as large as it is often right.

Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017, section 4.2: all logits are
divided by one temperature, fitted on validation rows by the least log loss. The order of the labels never changes.
Not here: dividing by it (``serve/predictor.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from retrainer.artifacts.calibration import CalibrationReport, GraphCalibration
from retrainer.errors import DataError
from retrainer.gate.metrics import METRICS
from retrainer.serve.predictor import Predictor, load_info, softmax
from retrainer.work.export.sample import Row

# One number needs no more: on 2000 rows its standard error is a few hundredths.
MOST_ROWS = 2000
# With fewer, the number says more about the rows than about the model.
FEWEST_ROWS = 30
SEED = 42
# Networks lie between about 1 and 5 (Guo et al., and Desai and Durrett, EMNLP 2020, on transformers). What lies outside
# of these bounds runs off to 0 or infinity.
BOUNDS = (0.05, 20.0)
# Digits that survive another order of sums, so that the same checkpoint gives the same bytes.
DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Fit:
    """A temperature.

    :param why_not: why it is 1 and was not fitted.
    """

    temperature: float
    why_not: str | None = None


def calibrate(bundle: Path, rows: Sequence[Row]) -> CalibrationReport:
    """Fit a temperature for each graph of a bundle and write it into its ``bundle.json``.

    Where none can be fitted there is none in the file, and the client leaves the logits as they are.

    :param rows: of the validation split, with labels; of many, some.
    :raises DataError: a row has no label.
    """
    chosen = _choose(rows)
    labels = np.array([_label(row) for row in chosen], dtype=np.int64)
    texts = [row.text for row in chosen]
    info = load_info(bundle)
    graphs = {}
    entries = dict(info.precisions)
    for precision, entry in info.precisions.items():
        logits = Predictor(bundle, precision=precision).logits(texts)
        fit = fit_temperature(logits, labels)
        graphs[precision] = _measured(logits, labels, fit)
        temperature = None if fit.why_not is not None else fit.temperature
        entries[precision] = entry.model_copy(update={"temperature": temperature})
    info.model_copy(update={"precisions": entries}).save(bundle)
    return CalibrationReport(rows=len(chosen), graphs=graphs)


def fit_temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Fit:
    """The temperature of the least log loss; 1 where the rows cannot tell.

    The log loss is convex in the inverse of the temperature, so that it has one minimum, also over the logarithm.

    :param logits: ``[rows, labels]``.
    :param labels: index of the true label of each row.
    """
    if len(labels) < FEWEST_ROWS:
        return Fit(1.0, f"{len(labels)} validation rows are too few, it takes {FEWEST_ROWS}")
    if len(np.unique(labels)) == 1:
        return Fit(1.0, "all validation rows have the same label")
    if (logits.argmax(axis=1) == labels).all():
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


def _measured(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], fit: Fit) -> GraphCalibration:
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


def _log_loss(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], temperature: float) -> float:
    """Mean of minus the log probability of the true label, not cut off where a probability is nearly 0."""
    scores = log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return float(-scores[np.arange(len(labels)), labels].mean())


def _ece(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], temperature: float) -> float:
    probabilities = softmax(logits, temperature)
    return float(METRICS["ece"].compute(labels, probabilities, probabilities.argmax(axis=1)))


def _choose(rows: Sequence[Row]) -> list[Row]:
    """All rows, or as many as it takes, the same ones whatever order they come in."""
    ordered = sorted(rows, key=lambda row: row.row_id)
    if len(ordered) <= MOST_ROWS:
        return ordered
    positions = np.random.default_rng(SEED).choice(len(ordered), size=MOST_ROWS, replace=False)
    return [ordered[position] for position in sorted(positions)]


def _label(row: Row) -> int:
    if row.label is None:
        raise DataError("a row without a label cannot calibrate a model", where=f"row {row.row_id}")
    return row.label
