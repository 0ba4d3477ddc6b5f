"""The record of a calibration, ``calibration.json``: the temperature of each graph, and what it changed; where a row
has any number of labels, the threshold of each.

Not here: the fitting (``work/export/calibrate.py``, ``thresholds.py``), and where it is applied
(``serve/predictor.py``).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, FiniteFloat

from retrainer.records import FileRecord, Record, unset


class FittedThreshold(Record):
    """From which probability on a label applies.

    :ivar threshold: 0.5 where it could not be fitted.
    :ivar why_not_fitted: one sentence; ``None`` where it was fitted.
    :ivar positives: validation rows that have the label.
    :ivar f1: of the label on these rows with this threshold; ``f1_at_half`` with 0.5.
    """

    threshold: Annotated[FiniteFloat, Field(gt=0.0, lt=1.0)]
    why_not_fitted: str | None = None
    positives: int
    f1: FiniteFloat
    f1_at_half: FiniteFloat


class GraphCalibration(Record):
    """One graph on the validation rows, before and after. Both are ``None`` where there was no row.

    :ivar temperature: what the logits are divided by; 1 where it could not be fitted.
    :ivar why_not_fitted: one sentence; ``None`` where it was fitted.
    :ivar log_loss: mean of minus the logarithm of the true label's probability, natural; of any number of labels the
        mean of the binary cross entropy of each.
    :ivar ece: expected calibration error.
    :ivar thresholds: label to its threshold, where a row has any number of labels; else ``None``, and not written.
    """

    temperature: Annotated[FiniteFloat, Field(gt=0.0)]
    why_not_fitted: str | None = None
    log_loss: FiniteFloat | None
    log_loss_after: FiniteFloat | None
    ece: FiniteFloat | None
    ece_after: FiniteFloat | None
    thresholds: dict[str, FittedThreshold] | None = Field(None, exclude_if=unset)


class CalibrationReport(FileRecord):
    """``calibration.json``: temperature scaling of the graphs of a bundle, and thresholds of labels.

    :ivar rows: of the validation split that they were fitted on; "after" is measured on the same ones.
    :ivar graphs: precision to what was fitted.
    """

    file: ClassVar[str] = "calibration.json"
    format_version: Literal[1] = 1
    method: Literal["temperature"] = "temperature"
    rows: int
    graphs: dict[str, GraphCalibration]
