"""A step's process ends with its parent, however the parent ends, and takes its own children along."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from retrainer.chain import RunContext, StepRequest
from retrainer.chain.messages import Log, Message
from retrainer.errors import DataError, StepError, StepKilled
from retrainer.run.processes import StepProcess
from retrainer.spec import parse_pipeline

PREAMBLE = """
import os, subprocess, sys, time
from retrainer.work import guard
guard.start(int(os.environ["RETRAINER_PARENT"]))
from retrainer.errors import DataError
from retrainer.work.reporter import Reporter
reporter = Reporter.from_environment()
"""

# A step that started a child of its own, as data loaders and ranks do.
BUSY = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
reporter.log(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


@pytest.fixture
def request_record(tmp_path: Path) -> StepRequest:
    pipeline = parse_pipeline(
        {
            "name": "process",
            "dataset": {"train": "rows.csv"},
            "model": {"base": "somewhere"},
            "publish": {"store": str(tmp_path / "store")},
        },
        where="test",
        base_folder=tmp_path,
    )
    return StepRequest(
        step="ingest",
        digest="0" * 64,
        identity={},
        pipeline=pipeline,
        inputs={},
        root=str(tmp_path / "artifacts"),
        context=RunContext(root="/artifacts", run_id="r", actor="a", started_at="2026-01-01T00:00:00+00:00"),
    )


def interpreter(folder: Path, body: str) -> str:
    """An executable that stands where the training interpreter would, and runs ``body``."""
    script = folder / "body.py"
    script.write_text(PREAMBLE + textwrap.dedent(body))
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
    path.chmod(0o755)
    return str(path)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_gone(pids: list[int], seconds: float = 10) -> list[int]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(alive(pid) for pid in pids):
        time.sleep(0.05)
    return [pid for pid in pids if alive(pid)]


def group_members(group: int) -> list[int]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


def test_messages_and_errors_cross(request_record: StepRequest, tmp_path: Path) -> None:
    python = interpreter(
        tmp_path,
        """
        reporter.log("hello")
        reporter.failed(DataError("no rows", where="rows.csv", hint="add some"))
        sys.exit(1)
        """,
    )
    seen: list[Message] = []
    with (
        pytest.raises(DataError, match=r"rows\.csv: no rows") as caught,
        StepProcess(request_record, log_file=tmp_path / "log", python=python) as process,
    ):
        seen.extend(process.follow())
    assert caught.value.hint == "add some"
    assert Log(text="hello") in seen


def test_the_log_of_a_good_step_tells_how_it_went(request_record: StepRequest, tmp_path: Path) -> None:
    python = interpreter(
        tmp_path,
        """
        for done in range(1, 101):
            reporter.progress("training", done=done, total=100, unit="step", loss=0.5)
        reporter.metrics(1, {"accuracy": 0.9})
        reporter.log("no baseline", level="warning")
        reporter.done()
        """,
    )
    with StepProcess(request_record, log_file=tmp_path / "log", python=python) as process:
        list(process.follow())
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "training: step 1/100, loss 0.5",
        "training: step 100/100, loss 0.5",
        "epoch 1 on validation: accuracy 0.9000",
        "warning: no baseline",
    ]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)


def test_a_crash_quotes_the_log(request_record: StepRequest, tmp_path: Path) -> None:
    python = interpreter(tmp_path, "print('about to fall over'); os._exit(7)")
    with (
        pytest.raises(StepError, match="exit code 7:\nabout to fall over"),
        StepProcess(request_record, log_file=tmp_path / "log", python=python) as process,
    ):
        list(process.follow())


def test_an_exit_without_a_result_is_an_error(request_record: StepRequest, tmp_path: Path) -> None:
    python = interpreter(tmp_path, "sys.exit(0)")
    with (
        pytest.raises(StepError, match="exit code 0"),
        StepProcess(request_record, log_file=tmp_path / "log", python=python) as process,
    ):
        list(process.follow())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_step_takes_its_children_along(
    request_record: StepRequest, tmp_path: Path, number: signal.Signals
) -> None:
    python = interpreter(tmp_path, BUSY)
    with (
        pytest.raises(StepKilled, match=number.name),
        StepProcess(request_record, log_file=tmp_path / "log", python=python) as process,
    ):
        for message in process.follow():
            assert isinstance(message, Log)
            pids = [int(pid) for pid in message.text.split()]
            os.kill(pids[0], number)
    assert wait_gone(pids) == []
    assert group_members(pids[0]) == []


def test_terminate_leaves_nothing(request_record: StepRequest, tmp_path: Path) -> None:
    python = interpreter(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + BUSY)
    with (
        pytest.raises(StepKilled),
        StepProcess(request_record, log_file=tmp_path / "log", python=python) as process,
    ):
        for message in process.follow():
            assert isinstance(message, Log)
            pids = [int(pid) for pid in message.text.split()]
            process.terminate(grace=0.2)
    assert wait_gone(pids) == []


def test_a_signal_that_interrupts_a_wait_ends_the_step(request_record: StepRequest, tmp_path: Path) -> None:
    """Its handler runs in the thread that waits, which may hold the lock of ``Popen`` and cannot go on before."""
    python = interpreter(tmp_path, BUSY)
    with (
        pytest.raises(StepKilled),
        StepProcess(request_record, log_file=tmp_path / "log", python=python) as process,
    ):
        for message in process.follow():
            assert isinstance(message, Log)
            pids = [int(pid) for pid in message.text.split()]
            with process._process._waitpid_lock:  # type: ignore[attr-defined]  # as an interrupted ``wait`` has it
                process.terminate(grace=0.2)
    assert wait_gone(pids) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_a_killed_parent(request_record: StepRequest, tmp_path: Path, number: signal.Signals) -> None:
    python = interpreter(tmp_path, BUSY)
    request_file = tmp_path / "request.json"
    request_file.write_bytes(request_record.to_json())
    parent_script = f"""
from pathlib import Path
from retrainer.run.processes import StepProcess
from retrainer.chain import StepRequest
request = StepRequest.from_json(Path({str(request_file)!r}).read_bytes(), where="test")
with StepProcess(request, log_file=Path({str(tmp_path / "log")!r}), python={python!r}) as process:
    for message in process.follow():
        print(message.text, flush=True)
"""
    parent = subprocess.Popen([sys.executable, "-c", parent_script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(number)
    parent.wait(10)
    assert wait_gone(pids) == []
    assert group_members(pids[0]) == []


def test_a_missing_interpreter_is_one_clear_error(request_record: StepRequest, tmp_path: Path) -> None:
    from retrainer.errors import ResourceError

    with (
        pytest.raises(ResourceError, match="cannot start the interpreter"),
        StepProcess(request_record, log_file=tmp_path / "log", python=str(tmp_path / "none")),
    ):
        pass
