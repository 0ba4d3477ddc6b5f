"""Processes that load beside an earlier step: asked for, never asked for, dead, and what they may see."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrainer.chain import RunContext, Stage, StepRequest, stages_of
from retrainer.chain.messages import Log
from retrainer.chain.order import CHAIN
from retrainer.run.ahead import Ahead
from retrainer.run.processes import StepProcess
from retrainer.spec import parse_pipeline
from retrainer.spec.model import Pipeline

# Stands where the training interpreter would. It waits as a step does, but loads what is small, and only after the file
# ``free`` is there; it notes when it has, and what it knows then.
STAND_IN = """
import os, sys, time
from pathlib import Path
from retrainer.work import guard
guard.start(int(os.environ["RETRAINER_PARENT"]))
from retrainer.work import loading
from retrainer.work.reporter import Reporter
folder = Path({folder!r})
*_, turn, ready, step, request = sys.argv
def load(step):
    print(step, "loads", flush=True)
    while not (folder / f"free-{{step}}").exists():
        time.sleep(0.02)
    with (folder / "loaded").open("a") as stream:
        stream.write(f"{{step}} {{os.getpid()}} {{os.environ.get('MY_KEY')}}\\n")
    raise ImportError("is told later")
loading.load = load
if not loading.load_ahead(step, int(turn), int(ready)):
    sys.exit(0)
print("works", flush=True)
reporter = Reporter.from_environment()
reporter.log(Path(request).read_text())
reporter.done()
"""
LATER = ("evaluate", "decide", "publish")


def pipeline_in(folder: Path, **more: object) -> Pipeline:
    content = {
        "name": "ahead",
        "dataset": {"train": "rows.csv"},
        "model": {"base": "somewhere"},
        "publish": {"store": "store", "sign_with": "env:MY_KEY"},
        **more,
    }
    return parse_pipeline(content, base_folder=folder)


def request_of(step: str, folder: Path) -> StepRequest:
    context = RunContext(root="/artifacts", run_id="r", actor="a", started_at="2026-01-01T00:00:00+00:00")
    pipeline = pipeline_in(folder)
    return StepRequest(
        step=step, digest="0" * 64, identity={}, pipeline=pipeline, inputs={}, root=str(folder), context=context
    )


def stand_in(folder: Path) -> str:
    script = folder / "body.py"
    script.write_text(STAND_IN.format(folder=str(folder)))
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def free(folder: Path, *steps: str) -> None:
    for step in steps:
        (folder / f"free-{step}").touch()


def loaded(folder: Path, count: int, seconds: float = 60) -> list[list[str]]:
    """What so many processes noted: step, process, private key."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lines = (folder / "loaded").read_text().splitlines() if (folder / "loaded").exists() else []
        if len(lines) >= count:
            return [line.split() for line in lines]
        time.sleep(0.02)
    raise AssertionError(f"not {count} processes have loaded after {seconds} s")


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_gone(processes: list[int], seconds: float = 20) -> list[int]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(alive, processes)):
        time.sleep(0.02)
    return [process for process in processes if alive(process)]


def stage(pipeline: Pipeline, step: str) -> Stage:
    return next(found for found in stages_of(pipeline) if found.step.name == step)


def ahead_of(pipeline: Pipeline, python: str) -> Ahead:
    return Ahead(pipeline, stages_of(pipeline), python)


def test_one_that_waits_is_asked_and_writes_into_the_log(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path)
    free(tmp_path, "train")
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "ingest"))
        [[step, process, _]] = loaded(tmp_path, 1)
        request = request_of("train", tmp_path)
        waiting = ahead.take("train")
        with StepProcess(request, log_file=tmp_path / "logs" / "train.log", waiting=waiting) as asked:
            said = [message.text for message in asked.follow() if isinstance(message, Log)]
            assert (step, asked.pid) == ("train", int(process))
        assert said == [request.to_json().decode()]
        assert ahead.take("train") is None
    lines = (tmp_path / "logs" / "train.log").read_text().splitlines()
    assert lines[:2] == ["train loads", "works"]


def test_they_load_one_after_another_and_only_one_sees_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "private")
    pipeline = pipeline_in(tmp_path)
    free(tmp_path, "decide", "publish")
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        time.sleep(1.0)
        assert not (tmp_path / "loaded").exists()  # the first has not loaded yet, and it is nobody else's turn
        free(tmp_path, "evaluate")
        found = loaded(tmp_path, 3)
        assert [(step, key) for step, _, key in found] == [
            ("evaluate", "None"),
            ("decide", "None"),
            ("publish", "private"),
        ]
    assert wait_gone([int(process) for _, process, _ in found]) == []


def test_one_that_has_died_is_not_asked_and_is_nobody_elses_turn_for_ever(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path)
    free(tmp_path, "decide", "publish")
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        evaluate = ahead.take("evaluate")
        assert evaluate is not None
        with evaluate:
            os.kill(evaluate.process.pid, signal.SIGKILL)
        found = loaded(tmp_path, 2)
        decide = int(found[0][1])
        os.kill(decide, signal.SIGKILL)
        assert wait_gone([decide]) == []
        assert ahead.take("decide") is None
        waiting = ahead.take("publish")
        assert waiting is not None
        with waiting:
            assert waiting.process.poll() is None
    assert wait_gone([int(process) for _, process, _ in found]) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_none_outlives_the_run(tmp_path: Path, number: signal.Signals) -> None:
    free(tmp_path, *LATER)
    run = f"""
import time
from pathlib import Path
from tests.run.test_ahead import ahead_of, pipeline_in, stage
pipeline = pipeline_in(Path({str(tmp_path)!r}))
with ahead_of(pipeline, {stand_in(tmp_path)!r}) as ahead:
    ahead.start_beside(stage(pipeline, "export"))
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", run], cwd=Path(__file__).parents[2])
    processes = [int(process) for _, process, _ in loaded(tmp_path, 3)]
    parent.send_signal(number)
    parent.wait(10)
    assert wait_gone(processes) == []


def test_training_waits_for_its_devices(tmp_path: Path) -> None:
    """What is given to a process when it starts cannot be given to one that waits."""
    for resources in ({"gpus": 1}, {"processes": 2}):
        pipeline = pipeline_in(tmp_path, resources=resources)
        with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
            ahead.start_beside(stage(pipeline, "ingest"))
            assert ahead.take("train") is None


def test_of_several_base_models_the_next_stage_loads(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path, model={"base": ["one", "two"]})
    first, last = (found for found in stages_of(pipeline) if found.step.name == "export")
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(first)
        assert [ahead.take(name) for name in ("select", *LATER)] == [None] * 4
        ahead.start_beside(last)
        for name in ("select", *LATER):
            waiting = ahead.take(name)
            assert waiting is not None
            with waiting:
                pass


def test_an_interpreter_that_is_missing_is_told_of_when_its_step_is_due(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ahead_of(pipeline, str(tmp_path / "none")) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        assert ahead.take("evaluate") is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_each_loads_beside_an_earlier_step_and_none_beside_the_one_that_measures() -> None:
    names = [step.name for step in CHAIN]
    for at, step in enumerate(CHAIN):
        assert step.loads_beside in ({""} if at == 0 else set(names[:at]) - {"evaluate"})
