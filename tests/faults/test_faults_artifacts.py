"""Artifacts that a disk altered, steps that were killed, two runs at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from retrainer.chain import DECIDE, Stage
from retrainer.errors import ArtifactError, StepKilled
from retrainer.run.pipeline_run import Observer
from retrainer.run.processes import StepProcess
from tests.cli.conftest import MODEL
from tests.faults.conftest import Bench


def flip(file: Path) -> None:
    """One byte in the middle becomes another; the size stays."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(bytes(data))


# What is altered, and the step that would read it.
ALTERED = {
    "ingest": ("train.parquet", "train"),
    "train": ("checkpoint/model.safetensors", "export"),
    "export": ("bundle/onnx/model.onnx", "evaluate"),
    "evaluate": ("predictions/challenger_fp32.parquet", "decide"),
    "decide": ("receipt.json", "publish"),
}


@pytest.mark.parametrize("step", ALTERED)
def test_an_altered_file_is_not_used(bench: Bench, unharmed: Callable[[Bench], None], step: str) -> None:
    name, reader = ALTERED[step]
    bench.change(publish={"store": "other"})
    # The same ledger, so that the decision is the same, and nothing is published yet.
    shutil.copytree(bench.store / MODEL, bench.folder / "other" / MODEL)
    shutil.rmtree(bench.folder / "other" / MODEL / "channels")
    bench.forget(reader)
    flip(bench.artifact(step) / name)
    with pytest.raises(ArtifactError, match=f"{name} of the {step} artifact is damaged") as caught:
        bench.run()
    assert caught.value.where == str(bench.artifact(step))
    assert "delete that folder" in (caught.value.hint or "")
    assert not list((bench.folder / "other").glob("*/channels"))
    unharmed(bench)


def test_a_manifest_that_cannot_be_read(bench: Bench) -> None:
    manifest = bench.artifact("train") / "manifest.json"
    manifest.write_bytes(os.urandom(50))
    with pytest.raises(ArtifactError, match="the manifest of the train artifact is damaged") as caught:
        bench.run()
    assert caught.value.where == str(manifest)


class Killer(Observer):
    """Kills a step's process, without warning, once it has a staging folder."""

    def __init__(self, step: str, staging: Path) -> None:
        self._step = step
        self._staging = staging

    def started(self, stage: Stage, process: StepProcess) -> None:
        if stage.step.name != self._step:
            return
        end = time.monotonic() + 60
        while not any(self._staging.glob(f"{self._step}-*")):
            assert time.monotonic() < end, "it staged nothing"
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("step", ["ingest", "export", "evaluate", "decide", "publish"])
def test_a_killed_step_leaves_nothing_that_counts(bench: Bench, unharmed: Callable[[Bench], None], step: str) -> None:
    bench.change(publish={"store": "other"})
    if step != "publish":
        bench.forget(step)
    with pytest.raises(StepKilled, match=f"the {step} process was ended by SIGKILL"):
        bench.run(Killer(step, bench.root / ".staging"))
    if step != "publish":
        assert not list((bench.root / step).glob("*"))
    assert not (bench.folder / "other" / "tiny-status" / "channels").exists()
    assert bench.run().outcome == "promoted"
    unharmed(bench)


def test_two_runs_at_once_train_once(bench: Bench) -> None:
    bench.forget("train")
    command = [sys.executable, "-m", "retrainer.cli", "run", str(bench.pipeline)]
    runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sum("fine-tuning" in text for text in said) == 1
    assert sum("unchanged" in text for text in said) == 2


def test_a_champion_that_cannot_be_read_is_not_replaced(bench: Bench) -> None:
    """A fault must never look like "there is no champion"."""
    bench.forget("evaluate", "decide")
    (manifest,) = bench.store.glob("*/versions/*/manifest.json")
    flip(manifest)
    before = bench.moves()
    result = bench.run()
    assert result.outcome == "refused"
    (reason,) = DECIDE.output_of(result.steps["decide"]).reasons
    assert reason.code == "champion_unreadable"
    assert str(manifest) in reason.detail
    assert bench.moves() == before
