"""A GPU whose memory runs out: smaller batches, the same rows in each step, and the record says so.

The error is torch's own, raised where a real one would be, on a CPU that has memory enough.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import StepRef
from retrainer.errors import ResourceError
from retrainer.work.reporter import Reporter
from retrainer.work.train.memory import Batches, within_memory
from retrainer.work.train.trainer import FineTuner
from tests.training.conftest import MakePipeline, train_here

Text = tuple[int, ...]


class Memory:
    """Enough for batches of ``rows``, once ``until`` steps have been taken; and which texts made each step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int = 1_000, until: int = 0) -> None:
        # Of each trainer, for a try that failed may have begun the step that the next one takes.
        self._texts: dict[tuple[int, int], list[Text]] = defaultdict(list)
        self._trainers: list[FineTuner] = []
        forward, train = torch.nn.CrossEntropyLoss.forward, FineTuner.training_step

        def limited(loss: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            if len(labels) > rows and self._trainers and self._trainers[-1].state.global_step >= until:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            return forward(loss, logits, labels)

        def watched(trainer: FineTuner, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
            if trainer not in self._trainers:
                self._trainers.append(trainer)
            texts = [tuple(ids[ids != 0].tolist()) for ids in inputs["input_ids"]]
            self._texts[trainer.state.global_step, self._trainers.index(trainer)] += texts
            return train(trainer, model, inputs, *arguments, **named)

        monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", limited)
        monkeypatch.setattr(FineTuner, "training_step", watched)

    @property
    def steps(self) -> dict[int, list[Text]]:
        """The texts of each step of the optimizer, sorted."""
        return {step: sorted(texts) for (step, _), texts in sorted(self._texts.items())}


@pytest.mark.parametrize(
    ("strategy", "until"), [("random", 8), ("sequential", 0), ("group_by_length", 8), ("batch_rebalance", 8)]
)
def test_smaller_batches_make_the_same_steps(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path, strategy: str, until: int
) -> None:
    # 6 steps an epoch, the last one short: 8 is in the middle of the second, a step after a checkpoint.
    arguments = {"max_steps": 13, "per_device_train_batch_size": 32, "train_sampling_strategy": strategy}
    pipeline = make_pipeline({**arguments, "save_strategy": "steps", "save_steps": 7, "eval_strategy": "no"})
    with pytest.MonkeyPatch.context() as monkeypatch:
        enough = Memory(monkeypatch)
        train_here(pipeline, snapshot, tmp_path / "enough")
    with pytest.MonkeyPatch.context() as monkeypatch:
        little = Memory(monkeypatch, rows=10, until=until)
        checkpoint, trained = train_here(pipeline, snapshot, tmp_path / "little")
    assert trained.steps == 13
    assert trained.resumed_from == ("checkpoint-7" if until else None)
    assert little.steps == enough.steps
    record = TrainingRecord.load(checkpoint.parent)
    # Batches of batch_rebalance differ in rows, so some of eight on average have more than ten.
    fits = (4, 8) if strategy == "batch_rebalance" else (8, 4)
    assert (record.batch_size, record.accumulated_batches) == fits
    assert (trained.smaller_batches or "").startswith("{} rows, {} a step".format(*fits))
    said = (tmp_path / "little" / "messages.jsonl").read_text()
    assert "out of memory with batches of 32 rows, 1 a step; again with 16 rows, 2 a step (CUDA out of memory" in said
    assert "again with 8 rows, 4 a step" in said


@given(st.integers(2, 10_000), st.integers(1, 64))
def test_a_step_keeps_its_rows(rows: int, accumulated: int) -> None:
    smaller = Batches(rows, accumulated, 8).halved()
    assert smaller.rows * smaller.accumulated == rows * accumulated
    assert 1 <= smaller.rows <= rows // 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"per_device_train_batch_size": 4}}, "out of memory with one row at a time: CUDA out of memory"),
        ({"training": {"dataloader_drop_last": True}}, "stay as they are with dataloader_drop_last"),
        ({"resources": {"processes": 2}}, "stay as they are where several processes train"),
    ],
)
def test_what_cannot_be_helped_is_one_clear_error(
    make_pipeline: MakePipeline, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    tried: list[int] = []

    def train(batches: Batches) -> None:
        tried.append(batches.rows)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    pipeline = make_pipeline(changes.pop("training", None), **changes)
    with pytest.raises(ResourceError, match=said) as caught:
        within_memory(train, pipeline, Reporter())
    assert caught.value.where == "tiny: training.per_device_train_batch_size"
    assert tried == ([4, 2, 1] if "one row" in said else [8])
