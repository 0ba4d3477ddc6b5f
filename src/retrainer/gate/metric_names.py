"""The names of the metrics and which way each is better, for code that must not load scikit-learn.

How they are computed stands in ``metrics.py``; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Name to whether a higher value is better. Averages are macro: each label counts the same.
HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {
        "accuracy": True,
        "f1": True,
        "f1_binary": True,
        "precision": True,
        "recall": True,
        "mcc": True,
        "auroc": True,
        "log_loss": False,
        "ece": False,
    }
)

METRIC_NAMES: tuple[str, ...] = tuple(HIGHER_IS_BETTER)
