"""Processes that load beside an earlier step: asked for, never asked for, dead, and what they may see."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from retrainer.chain import RunContext, Stage, StepRequest, stages_of
from retrainer.chain.messages import Log
from retrainer.chain.order import CHAIN
from retrainer.errors import ResourceError, StepKilled
from retrainer.run import ahead as ahead_module
from retrainer.run.ahead import LEAST_MEMORY, Ahead
from retrainer.run.devices import HIDDEN
from retrainer.run.interpreters import Interpreter
from retrainer.run.processes import StepProcess
from retrainer.spec import parse_pipeline
from retrainer.spec.model import Pipeline
from retrainer.work import loading

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
        "publish": {"store": "store"},
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


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "available_bytes", lambda: LEAST_MEMORY)


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


def test_they_load_one_after_another(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path)
    free(tmp_path, "decide", "publish")
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        time.sleep(1.0)
        assert not (tmp_path / "loaded").exists()  # the first has not loaded yet, and it is nobody else's turn
        free(tmp_path, "evaluate")
        found = loaded(tmp_path, 3)
        assert [step for step, *_ in found] == [*LATER]
    assert wait_gone([int(process) for _, process, _ in found]) == []


def test_a_private_key_lies_in_no_process_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "private")
    pipeline = pipeline_in(tmp_path, publish={"store": "store", "sign_with": "env:MY_KEY"})
    free(tmp_path, *LATER)
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        assert [(step, key) for step, _, key in loaded(tmp_path, 2)] == [("evaluate", "None"), ("decide", "None")]
        assert ahead.take("publish") is None


@pytest.mark.parametrize("has_loaded", [False, True])
def test_nothing_loads_beside_what_is_measured(tmp_path: Path, has_loaded: bool) -> None:
    """Evaluate is asked while it loads still, or while the one after it does; what has loaded goes on waiting."""
    pipeline = pipeline_in(tmp_path)
    free(tmp_path, *(("evaluate", "decide") if has_loaded else ()))
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        if has_loaded:
            loaded(tmp_path, 2)
            time.sleep(0.5)  # publish loads
        evaluate = ahead.take("evaluate")
        assert evaluate is not None
        with ExitStack() as stack:
            stack.push(evaluate)
            free(tmp_path, *LATER)
            assert [step for step, *_ in loaded(tmp_path, 1 + has_loaded)] == [*LATER[: 1 + has_loaded]]
            time.sleep(0.5)
            assert len((tmp_path / "loaded").read_text().splitlines()) == 1 + has_loaded
        assert ahead.take("publish") is None
        decide = ahead.take("decide")
        assert (decide is not None) == has_loaded
        if decide is not None:
            with ExitStack() as stack:
                stack.push(decide)


def test_nothing_is_started_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "available_bytes", lambda: LEAST_MEMORY - 1)
    pipeline = pipeline_in(tmp_path)
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        assert [ahead.take(name) for name in LATER] == [None] * 3


def test_a_full_disk_is_told_where_the_request_is_written(tmp_path: Path) -> None:
    with Interpreter("train") as interpreter:
        interpreter.messages.with_name("request.json").symlink_to("/dev/full")
        for act in ("ask", "start"):
            more = {} if act == "ask" else {"given": {}, "devices": HIDDEN}
            with pytest.raises(ResourceError, match="the disk is full"):
                getattr(interpreter, act)(request_of("train", tmp_path), tmp_path / "log", **more)


@pytest.mark.parametrize("dies", [False, True])
def test_what_is_said_while_it_loads_is_in_the_log_whenever_it_is_asked(tmp_path: Path, dies: bool) -> None:
    pipeline = pipeline_in(tmp_path)
    log = tmp_path / "train.log"
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "ingest"))
        waiting = ahead.take("train")
        assert waiting is not None
        with StepProcess(request_of("train", tmp_path), log_file=log, waiting=waiting) as asked:
            early = waiting.messages.with_name("early.log")
            while "train loads" not in early.read_text():  # after it was asked
                time.sleep(0.02)
            if dies:
                os.kill(asked.pid, signal.SIGKILL)
                with pytest.raises(StepKilled):
                    list(asked.follow())
            else:
                free(tmp_path, "train")
                list(asked.follow())
    assert log.read_text().splitlines()[:2] == ["train loads", *([] if dies else ["works"])]


def test_one_that_has_died_leaves_nothing_open(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path)
    free(tmp_path, "train")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
            ahead.start_beside(stage(pipeline, "ingest"))
            process = int(loaded(tmp_path, 1)[0][1])
            os.kill(process, signal.SIGKILL)
            assert wait_gone([process]) == []
            assert ahead.take("train") is None
        gc.collect()
    assert [str(one.message) for one in said if issubclass(one.category, ResourceWarning)] == []


def test_the_first_error_of_loading_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As numpy's extension cannot be loaded twice, the second error hides the first."""
    (tmp_path / "fails_otherwise.py").write_text(
        "import sys\nwhy = 'later' if hasattr(sys, 'tried_before') else 'cause'\nsys.tried_before = 1\n"
        "raise OSError(why)"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delattr(sys, "tried_before", raising=False)
    monkeypatch.setattr(loading, "_failed", {})
    monkeypatch.setattr(loading, "step_named", lambda name: SimpleNamespace(work="fails_otherwise"))
    for _ in range(2):
        with pytest.raises(OSError, match="cause"):
            loading.load("train")


def test_one_that_has_died_is_not_asked_and_is_nobody_elses_turn_for_ever(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path)
    free(tmp_path, "decide", "publish")
    with ahead_of(pipeline, stand_in(tmp_path)) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        os.kill(ahead._waiting["evaluate"].interpreter.process.pid, signal.SIGKILL)
        found = loaded(tmp_path, 2)
        decide = int(found[0][1])
        os.kill(decide, signal.SIGKILL)
        assert wait_gone([decide]) == []
        assert ahead.take("decide") is None
        waiting = ahead.take("publish")
        assert waiting is not None
        with ExitStack() as stack:
            stack.push(waiting)
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
        free(tmp_path, "select", *LATER)
        ahead.start_beside(last)
        loaded(tmp_path, 4)
        for name in ("select", *LATER):
            waiting = ahead.take(name)
            assert waiting is not None
            with ExitStack() as stack:
                stack.push(waiting)


def test_an_interpreter_that_is_missing_is_told_of_when_its_step_is_due(tmp_path: Path) -> None:
    pipeline = pipeline_in(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ahead_of(pipeline, str(tmp_path / "none")) as ahead:
        ahead.start_beside(stage(pipeline, "export"))
        assert ahead.take("evaluate") is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_each_loads_beside_an_earlier_step_and_none_beside_the_one_that_measures() -> None:
    for at, step in enumerate(CHAIN):
        assert step.loads_beside in ({""} if at == 0 else {one.name for one in CHAIN[:at] if not one.measures})
