"""How the rows of a training are shared out among its processes: each step has the rows that it has in one process.

accelerate gives each process a batch in turn, and where the rows do not fill the last ones it takes some of the first
rows once more, so that these weigh double in the last step of an epoch, and validation rows in the mean of the loss.
Here blank rows fill them up, which have no label and do not count. The mean over processes of means over their rows is
not that over all rows where one has fewer; so each is multiplied by its share (``Shares.factor``). Not here: the
loss (``trainer.py``), the order (``order.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch

# What a loss does not look at, to torch and transformers.
IGNORED = -100
BLANK = -1


class WithBlanks(torch.utils.data.Dataset):  # type: ignore[misc]
    """Rows, and under ``BLANK`` one without a label."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index != BLANK:
            row: dict[str, Any] = self._rows[index]
            return row
        labels = self._rows[0]["labels"]
        none = [IGNORED] * len(labels) if isinstance(labels, list) else IGNORED
        return {**self._rows[0], "labels": none}


class FilledUp(torch.utils.data.Sampler[int]):  # type: ignore[misc]
    """The order of another sampler, and blank rows behind it.

    :param multiple: of which the number of rows becomes one.
    """

    def __init__(self, sampler: Any, multiple: int) -> None:
        self._sampler = sampler
        self._blanks = -len(sampler) % multiple

    def __len__(self) -> int:
        return len(self._sampler) + self._blanks

    def __iter__(self) -> Iterator[int]:
        yield from self._sampler
        yield from repeat(BLANK, self._blanks)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's data loader before each epoch."""
        if hasattr(self._sampler, "set_epoch"):
            self._sampler.set_epoch(epoch)


@dataclass(frozen=True, slots=True)
class Shares:
    """Who has which rows of an epoch, where the batches of all processes are filled one after another.

    :param rows: of an epoch.
    :param batch: rows of a batch of one process.
    :param processes: that train.
    :param accumulated: batches of each in a step of the optimizer.
    :param drops_last: whether rows that do not fill a batch of every process are left out.
    :param balanced: whether batches have like work instead of like many rows, and no blank ones
        (``train_sampling_strategy: batch_rebalance``): a step drops its rows or has one in each batch at least.
    """

    rows: int
    batch: int
    processes: int
    accumulated: int
    drops_last: bool = False
    balanced: bool = False

    @property
    def steps(self) -> int:
        """Of the optimizer in an epoch."""
        return max(-(-self._used // self.of_full_step), 1)

    @property
    def of_full_step(self) -> int:
        """Rows of a step that is not the last."""
        return self.batch * self.processes * self.accumulated

    @property
    def _used(self) -> int:
        """Rows that are not dropped."""
        unit = self.of_full_step if self.balanced else self.batch * self.processes
        return self.rows - self.rows % unit if self.drops_last else self.rows

    def of_step(self, step: int) -> int:
        """Rows of a step, all processes together.

        :param step: counted from the first of the epoch.
        """
        rows = min(self.of_full_step, self._used - step * self.of_full_step)
        return max(rows, self.processes * self.accumulated) if self.balanced else rows

    def of_batch(self, step: int, number: int, process: int) -> int:
        """Rows of a batch that are not blank.

        :param number: of the batch among those of that process in the step.
        """
        begins = step * self.of_full_step + (number * self.processes + process) * self.batch
        return min(max(self._used - begins, 0), self.batch)
