"""The names of the metrics that a pipeline may ask for. How each is computed is the gate's business."""

from __future__ import annotations

from collections.abc import Mapping

METRIC_NAMES: tuple[str, ...] = (
    "accuracy",
    "f1",
    "precision",
    "recall",
    "mcc",
    "auroc",
    "log_loss",
    "ece",
    "f1_binary",
)

# Of these, less is better; they have no upper bound of 1 to be checked against.
LOWER_IS_BETTER: frozenset[str] = frozenset({"log_loss", "ece"})

# What the same thing is called elsewhere, where a comparison of spellings would not find it.
ALSO_CALLED: Mapping[str, str] = {
    "matthews_correlation": "mcc",
    "matthews_corrcoef": "mcc",
    "roc_auc": "auroc",
    "auc": "auroc",
    "f1_macro": "f1",
    "macro_f1": "f1",
    "binary_f1": "f1_binary",
    "acc": "accuracy",
    "cross_entropy": "log_loss",
    "calibration_error": "ece",
    "expected_calibration_error": "ece",
}
