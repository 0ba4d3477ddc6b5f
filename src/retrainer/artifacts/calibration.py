"""The record of a calibration, ``calibration.json``: the temperature of each graph, and what it changed.

Not here: the fitting (``work/export/calibrate.py``), and where it is applied (``serve/predictor.py``).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, FiniteFloat

from retrainer.records import FileRecord, Record


class GraphCalibration(Record):
    """One graph on the validation rows, before and after. Both are ``None`` where there was no row.

    :ivar temperature: what the logits are divided by; 1 where it could not be fitted.
    :ivar why_not_fitted: one sentence; ``None`` where it was fitted.
    :ivar log_loss: mean of minus the logarithm of the true label's probability, natural.
    :ivar ece: expected calibration error.
    """

    temperature: Annotated[FiniteFloat, Field(gt=0.0)]
    why_not_fitted: str | None = None
    log_loss: FiniteFloat | None
    log_loss_after: FiniteFloat | None
    ece: FiniteFloat | None
    ece_after: FiniteFloat | None


class CalibrationReport(FileRecord):
    """``calibration.json``: temperature scaling of the graphs of a bundle.

    :ivar rows: of the validation split that the temperatures were fitted on; "after" is measured on the same ones.
    :ivar graphs: precision to what was fitted.
    """

    file: ClassVar[str] = "calibration.json"
    format_version: Literal[1] = 1
    method: Literal["temperature"] = "temperature"
    rows: int
    graphs: dict[str, GraphCalibration]
