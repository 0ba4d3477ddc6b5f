"""A Trainer whose processes together take the steps that one would take alone.

Not here: the arithmetic (``shares.py``), the loss (``trainer.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import RandomSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler

from retrainer.work.train.order import GroupedByLength
from retrainer.work.train.shares import IGNORED, FilledUp, Shares, WithBlanks
from retrainer.work.unpadded import UnpaddedTrainer


@dataclass(frozen=True, slots=True)
class Part:
    """A batch of one of several processes.

    :param rows: that are not blank; the blank ones are behind them.
    :param factor: of the mean loss over them, so that the mean over processes and batches is that of the step's rows.
    """

    rows: int
    factor: float | torch.Tensor = 1.0


class SharingTrainer(UnpaddedTrainer):
    """One that shares out the rows of each step among its processes, whatever their number, and counts them.

    :ivar rows_seen: by all processes together.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rows_seen = 0
        self._shares = Shares(
            rows=len(self.train_dataset),
            batch=self.args.train_batch_size,
            processes=self.args.world_size,
            accumulated=self.args.gradient_accumulation_steps,
            drops_last=self.args.dataloader_drop_last,
            balanced=self.args.train_sampling_strategy == "batch_rebalance",
        )
        self._epoch: Any = None
        self._step = 0
        # Of the batches of this step that are still to be trained on.
        self._parts: list[Part] = []
        self._part: Part | None = None

    @property
    def _is_one_of_several(self) -> bool:
        return bool(self.args.world_size > 1)

    def get_train_dataloader(self) -> Any:
        """Batches of this process."""
        if not self._is_one_of_several:
            return super().get_train_dataloader()
        rows = self.train_dataset
        self.train_dataset: Any = WithBlanks(rows)
        try:
            loader = super().get_train_dataloader()
        finally:
            self.train_dataset = rows
        # Where accelerate and transformers look for what is told the epoch, also once a resumed training skips batches.
        batches = loader.batch_sampler
        batches.sampler = getattr(batches.batch_sampler, "sampler", batches.batch_sampler)
        # transformers seeds all processes alike, and each would drop out the same places of its rows.
        torch.manual_seed(self.args.seed + self.args.process_index)
        return loader

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Batches of this process."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return super().get_eval_dataloader(WithBlanks(rows) if self._is_one_of_several else rows)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            sampler = GroupedByLength(self._shares.of_full_step, sampler.lengths, seed)
        elif isinstance(sampler, RandomSampler) and self._is_one_of_several:
            # As accelerate does, which does not look into what is filled up.
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            sampler = SeedableRandomSampler(sampler.data_source, data_seed=seed)
        if isinstance(sampler, BatchRebalanceSampler):  # it shares out by itself
            return sampler
        return self._filled_up(sampler, self.args.train_batch_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        sampler = super()._get_eval_sampler(eval_dataset)
        if sampler is None:
            sampler = torch.utils.data.SequentialSampler(eval_dataset)
        return self._filled_up(sampler, self.args.eval_batch_size)

    def _filled_up(self, sampler: Any, batch: int) -> Any:
        if not self._is_one_of_several or self.args.dataloader_drop_last:
            return sampler
        return FilledUp(sampler, batch * self.args.world_size)

    def get_batch_samples(self, epoch_iterator: Any, *arguments: Any, **named: Any) -> Any:
        """The batches of this process of the next step, each of which gets its part in that step's loss."""
        batches, items = super().get_batch_samples(epoch_iterator, *arguments, **named)
        if epoch_iterator is not self._epoch:
            # A training that is resumed begins where it was, unless it is not to skip what it has read.
            self._epoch, self._step = epoch_iterator, 0
            if not self.args.ignore_data_skip:
                self._step = self.state.global_step % self._shares.steps
        if batches:
            self.rows_seen += self._shares.of_step(self._step)
            self._parts = self._parts_of(batches) if self._is_one_of_several else []
        self._step += 1
        return batches, items

    def _parts_of(self, batches: list[Any]) -> list[Part]:
        step, process = self._step, self.args.process_index
        labels = [batch["labels"] for batch in batches]
        rows = [len(part) for part in labels]
        if not self._shares.balanced:
            rows = [self._shares.of_batch(step, number, process) for number in range(len(batches))]
        many = len(batches) * self.args.world_size
        if labels[0].dim() == 1 or labels[0].is_floating_point():
            return [Part(count, count * many / self._shares.of_step(step)) for count in rows]
        # The loss of text is a mean over tokens, and which ones a process has only that process knows.
        read = [part[:, 1:] if self._loss_shifts_labels else part for part in labels]
        tokens = torch.stack([part.ne(IGNORED).sum() for part in read]).to(self.args.device)
        factors = tokens * many / self.accelerator.reduce(tokens.sum(), "sum")
        return [Part(count, factor) for count, factor in zip(rows, factors, strict=True)]

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        """Train on one batch."""
        self._part = self._parts.pop(0) if self._parts else None
        return super().training_step(*arguments, **named)

    def part_of(self, model: Any, labels: torch.Tensor) -> Part:
        """What of a batch counts, and how much."""
        if not self._is_one_of_several:
            return Part(len(labels))
        if model.training:
            assert self._part is not None, "each batch of a step has its part"
            return self._part
        return Part(int(labels.reshape(len(labels), -1).ne(IGNORED).any(dim=1).sum()))

    def summed(self, *counts: int) -> tuple[int, ...]:
        """The sums over all processes; each of them has to ask."""
        if not self._is_one_of_several:
            return counts
        totals = self.accelerator.reduce(torch.tensor(counts, device=self.args.device), "sum")
        return tuple(int(total) for total in totals)
