"""SIGKILL at any moment, again and again: each retry goes on, and the weights are those of a training in one piece."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import TRAIN, StepRef, StepRequest
from retrainer.chain.messages import Log, Message, Progress
from retrainer.errors import StepKilled
from retrainer.records import sha256_file
from retrainer.run.processes import StepProcess, run_step
from retrainer.work.train.checkpoints import Marker
from tests.chain.made import CONTEXT, planned
from tests.training.conftest import MakePipeline, ignore

KILLS = 20
# Of these at most so many hit one training; then it may come to its end.
KILLS_OF_ONE = 4
SAVE_STEPS = 5


class Try:
    """One try of a training, and when it is killed.

    :param in_a_save: in the middle of the save of that step or a later one; else after that step's save.
    :param after: so many seconds after that, or after the start of the try where no step is given.
    """

    def __init__(self, work: Path, step: int = 0, *, in_a_save: bool = False, after: float = 0.0) -> None:
        self._work = work
        self._step = step
        self._in_a_save = in_a_save
        self._after = after
        self.resumed = 0
        self.reached = 0
        self.newest = 0
        self.was_in_a_save = False

    def kill(self, process: StepProcess) -> None:
        until = time.monotonic() + 120
        while self._step and max(self._steps(marked=not self._in_a_save), default=0) < self._step:
            if time.monotonic() > until or not self._work.exists():
                break  # it has come to its end
            time.sleep(0.001)
        time.sleep(self._after)
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.1)
        self.newest = max(self._steps(marked=True), default=0)
        self.was_in_a_save = max(self._steps(marked=False), default=0) > self.newest

    def _steps(self, *, marked: bool) -> list[int]:
        found = self._work.glob("checkpoint-*")
        return [_number(path.name) for path in found if (path / Marker.file).exists() == marked]

    def hear(self, message: Message) -> None:
        if isinstance(message, Log) and message.text.startswith("resuming from "):
            self.resumed = _number(message.text)
        if isinstance(message, Progress) and message.unit == "step":
            self.reached = int(message.done)


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


@pytest.mark.long
def test_twenty_kills_change_no_weight_and_cost_a_save_interval_at_most(
    make_pipeline: MakePipeline, snapshot: StepRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    chance = random.Random(13)
    straight: dict[str, tuple[str, float]] = {}
    kills = in_saves = most_lost = number = 0
    while kills < KILLS:
        number += 1
        strategy = ("random", "group_by_length")[number % 2]
        saves = {"save_strategy": "steps", "save_steps": SAVE_STEPS, "eval_strategy": "steps", "eval_steps": SAVE_STEPS}
        pipeline = make_pipeline({"max_steps": 100, "train_sampling_strategy": strategy, **saves})
        request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT))
        artifacts = Artifacts(request.root)
        started = time.monotonic()
        if strategy not in straight:
            run_step(request, on_message=ignore)
            straight[strategy] = _weights(artifacts, request), time.monotonic() - started
            shutil.rmtree(artifacts.local / "train" / request.digest)
        weights, seconds = straight[strategy]
        newest, work = 0, artifacts.work_folder("train", request.digest)
        for _ in range(min(KILLS_OF_ONE, KILLS - kills)):
            step = newest + SAVE_STEPS * chance.randint(1, 5)
            one = (
                Try(work, step, in_a_save=True),
                Try(work, step, after=chance.uniform(0.0, 0.3)),
                Try(work, after=chance.uniform(0.3, 1.0) * seconds),
            )[kills % 3]
            try:
                run_step(request, on_message=one.hear, started=one.kill)
            except StepKilled:
                kills += 1
                if artifacts.find("train", request.digest) is not None:
                    break  # it was done
                in_saves += one.was_in_a_save
                most_lost = max(most_lost, one.reached - one.newest)
                assert one.resumed == newest or one.reached == 0  # or it was killed before it began
                newest = one.newest
            else:
                break  # it had ended before
        else:
            last = Try(work)
            run_step(request, on_message=last.hear)
            assert last.resumed == newest
        assert _weights(artifacts, request) == weights, f"training {number}, {strategy}"
        shutil.rmtree(artifacts.local / "train" / request.digest)
    said = f"{kills} kills, {in_saves} in a save, {number} trainings, {most_lost} steps lost at most"
    assert in_saves >= KILLS // 4, said
    assert most_lost <= SAVE_STEPS, said


def _weights(artifacts: Artifacts, request: StepRequest) -> str:
    return sha256_file(artifacts.fetch("train", request.digest) / "checkpoint" / "model.safetensors")
