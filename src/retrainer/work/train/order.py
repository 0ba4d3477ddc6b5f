"""The order of training rows where rows of like length are batched together: it depends on seed and epoch alone.

transformers draws it from torch's global generator. What that has given before depends on dropout, so on the size of
the batches, and on where a training was resumed: in the middle of an epoch a resumed training got another order, in
which it skipped rows that it had not seen and saw others twice. Not here: any other order; accelerate seeds those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class GroupedByLength(LengthGroupedSampler):  # type: ignore[misc]
    """Rows of like length together.

    :param rows: of a step of the optimizer.
    :param lengths: of all rows, in tokens.
    """

    def __init__(self, rows: int, lengths: Sequence[int], seed: int) -> None:
        super().__init__(rows, lengths=list(lengths))
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader before each epoch."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(super().__iter__())
