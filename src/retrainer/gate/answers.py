"""What one model said on the test rows, as the statistics need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one model said on the test rows.

    :param predictions: label index of each row, ``[n]``; -1 for a label that is not among the known ones.
    :param probabilities: ``[n, labels]``.
    :param positive: index of the label that metrics of one label score.
    """

    predictions: Ints
    probabilities: Floats
    positive: int = 1
    # What takes long to compute and is needed several times: each model is scored and compared.
    _kept: dict[str, tuple[Ints, Any]] = field(default_factory=dict, init=False, repr=False)

    def kept(self, name: str, labels: Ints, compute: Callable[[Ints, Floats], Any]) -> Any:
        """``compute(labels, probabilities)``, from memory where it was computed for these labels before."""
        known = self._kept.get(name)
        if known is None or known[0] is not labels:
            known = self._kept[name] = labels, compute(labels, self.probabilities)
        return known[1]
