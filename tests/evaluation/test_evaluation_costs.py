"""Costs: a fresh process for each model, turns taken fairly, and no way to hang or to leave a process behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.errors import DataError, IntegrityError, StepError
from retrainer.serve.texts import Text
from retrainer.work import costs_process
from retrainer.work.costs_process import Ask, Reply, Stopwatch, Work, parse_reply, peak_bytes, waited
from retrainer.work.evaluate import costs
from retrainer.work.evaluate.costs import measure_costs, spread
from tests.export import tiny

TEXTS = [row.text for row in tiny.rows(30)]


def ignore(done: int, total: int) -> None:
    """Progress that nobody wants to see."""


def children() -> set[int]:
    """Processes that this one started and that still run."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(process) for process in listed}


def test_every_model_is_measured(bundle: Path) -> None:
    told: list[tuple[int, int]] = []
    models = {"fp32": (bundle, "fp32"), "int8": (bundle, "int8"), "champion": (bundle, "fp32")}
    before = children()
    found = measure_costs(models, TEXTS, threads=1, on_progress=lambda done, total: told.append((done, total)))
    assert list(found) == list(models)
    for measured in found.values():
        assert measured.latency.p50 is not None
        assert measured.latency.p95 is not None
        assert 0 < measured.latency.p50 <= measured.latency.p95
        assert measured.rows_per_second > 0
        # An interpreter with numpy and onnxruntime takes this much at least; with torch it would take more than that.
        assert 30 < measured.peak_memory_mb < 250
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0
    assert {total for _, total in told} == {told[-1][1]}
    assert children() == before


def test_pairs_are_measured_as_pairs(pair_bundle: Path) -> None:
    texts: list[Text] = [row.text for row in tiny.rows(4, pairs=True)]
    found = measure_costs({"only": (pair_bundle, "fp32")}, texts, threads=2, on_progress=ignore)
    assert found["only"].rows_per_second > 0


def test_memory_is_that_of_a_client_and_not_of_the_parent(bundle: Path, tmp_path: Path) -> None:
    """The parent is made larger than any client; a child must not take over its peak."""
    ballast = np.ones(40_000_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > ballast.nbytes
    found = measure_costs({"only": (bundle, "fp32")}, TEXTS[:2], threads=1, on_progress=ignore)
    assert found["only"].peak_memory_mb * 1e6 < ballast.nbytes
    program = (
        "import sys\nimport retrainer.work.costs_process\n"
        "heavy = {'torch', 'transformers', 'scipy', 'sklearn', 'pyarrow', 'matplotlib', 'pandas', 'boto3', 'airflow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_memory_where_the_kernel_does_not_tell_it(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2112 kB\n")
    assert peak_bytes(status) == 2112 * 1024
    status.write_text("Name:\tpython\n")
    assert peak_bytes(status) == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_what_a_call_waits_for_a_processor_is_not_its_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel counts it for each thread: time on a processor, time in the queue, turns."""
    threads = tmp_path / "task"
    for name, content in {"1": "5 2000000000 3\n", "2": "5 500000000 1\n", "3": ""}.items():
        (threads / name).mkdir(parents=True)
        (threads / name / "schedstat").write_text(content)
    (threads / "4").mkdir()  # ended meanwhile, or the kernel has no such file
    assert waited(threads) == {"1": 2.0, "2": 0.5}
    cases = [
        ({"1": 7.0}, {"1": 7.0}, 0.05),
        ({"1": 7.0}, {"1": 7.04}, 0.01),
        # They wait at the same time; one that was started meanwhile had waited for nothing before.
        ({"1": 7.0, "2": 1.0}, {"1": 7.01, "2": 1.01, "3": 0.02}, 0.03),
        # What was computed is a cost, whatever the kernel says.
        ({"1": 7.0}, {"1": 107.0}, 0.0),
        ({}, {}, 0.05),
    ]
    for before, after, least in cases:
        answers = iter([before, after])
        monkeypatch.setattr(costs_process, "waited", lambda answers=answers: next(answers))
        started = time.perf_counter()
        stopwatch = Stopwatch(2)
        time.sleep(0.05)  # sleeping is no waiting for a processor
        seconds = stopwatch.seconds()
        assert least <= seconds
        assert seconds <= time.perf_counter() - started - (0.05 - least) + 0.001


def test_turns_rotate_and_every_model_meets_the_same_texts(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[int, ...]]] = []
    original = costs._ModelProcess.seconds

    def listening(self: costs._ModelProcess, positions: tuple[int, ...]) -> float:
        asked.append((self._name, tuple(positions)))
        return original(self, positions)

    monkeypatch.setattr(costs._ModelProcess, "seconds", listening)
    monkeypatch.setattr(costs, "SETTLED", -1.0)  # all rounds
    measure_costs(dict.fromkeys("abc", (bundle, "fp32")), TEXTS, threads=1, on_progress=ignore)
    turns = [asked[start : start + 3] for start in range(0, len(asked), 3)]
    for turn in turns:
        assert {name for name, _ in turn} == {"a", "b", "c"}
        assert len({positions for _, positions in turn}) == 1
    firsts = [turn[0][0] for turn in turns]
    counts = [firsts.count(name) for name in "abc"]
    assert max(counts) - min(counts) <= len(turns) / 10
    # Over the rounds each model is the first with each text.
    single = [turn[0] for turn in turns if len(turn[0][1]) == 1]
    longest = [name for name, positions in single if positions == (len(TEXTS) - 1,)]
    assert set(longest) == {"a", "b", "c"}


def test_rounds_end_with_their_seconds_but_not_before_the_fewest(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    original = costs._ModelProcess.seconds

    def slow(self: costs._ModelProcess, positions: tuple[int, ...]) -> float:
        calls.append(tuple(positions))
        return original(self, positions) + 100.0  # as a very large model

    monkeypatch.setattr(costs._ModelProcess, "seconds", slow)
    monkeypatch.setattr(costs, "SINGLE_SECONDS", 0.0)
    monkeypatch.setattr(costs, "BULK_SECONDS", 0.0)
    told: list[tuple[int, int]] = []
    measure_costs(
        {"only": (bundle, "fp32")}, TEXTS * 3, threads=1, on_progress=lambda done, total: told.append((done, total))
    )
    single, bulk = [call for call in calls if len(call) == 1], [call for call in calls if len(call) > 1]
    most, least = costs.ROUNDS
    assert len(single) == 2 * costs.WARM_UP_TEXTS + least * costs.SINGLE_TEXTS[1]
    assert len(bulk) == least < most
    assert len(set(bulk)) == 1
    assert len(bulk[0]) == costs.BULK_TEXTS[1]
    assert told[-1][0] == told[-1][1]


@pytest.mark.parametrize(("faster", "rounds"), [(0.001, 2), (0.5, 5)])
def test_rounds_end_when_one_more_changes_nothing(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, faster: float, rounds: int
) -> None:
    asked: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def seconds(self: costs._ModelProcess, positions: tuple[int, ...]) -> float:
        call = (self._name, tuple(positions))
        asked[call] += 1
        # The first model is never disturbed; what disturbs the second ebbs away by that share a round.
        return 1e-3 if self._name == "calm" else 1e-3 * (1 - faster) ** asked[call]

    monkeypatch.setattr(costs._ModelProcess, "seconds", seconds)
    measure_costs(dict.fromkeys(("calm", "disturbed"), (bundle, "fp32")), TEXTS, threads=1, on_progress=ignore)
    warm_up = {count for (_, positions), count in asked.items() if len(positions) == 1} - {rounds}
    assert warm_up == {rounds + 2}
    assert {count for (_, positions), count in asked.items() if len(positions) > 1} == {rounds}


def test_rounds_go_on_while_a_figure_that_is_judged_changes() -> None:
    """The sum hardly does, where one text takes longer than all others together."""
    seconds = np.full((2, 30), 1e-3)
    seconds[1, :28] /= 2
    seconds[:, 29] = 10.0
    assert costs._settled(seconds, costs._total)
    assert not costs._settled(seconds, costs._percentiles)


def test_nothing_to_measure(bundle: Path) -> None:
    assert measure_costs({}, TEXTS, threads=1, on_progress=ignore) == {}
    with pytest.raises(DataError, match="no text to measure"):
        measure_costs({"only": (bundle, "fp32")}, [], threads=1, on_progress=ignore)


def test_a_bundle_that_cannot_be_loaded_is_told_as_the_client_tells_it(bundle: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "onnx" / "model.onnx").write_bytes(b"")
    before = children()
    with pytest.raises(IntegrityError, match="not a graph that onnxruntime can run") as caught:
        measure_costs({"sound": (bundle, "fp32"), "broken": (broken, "fp32")}, TEXTS, threads=1, on_progress=ignore)
    assert caught.value.where == str(broken / "onnx" / "model.onnx")
    assert children() == before


def _while_measuring(bundle: Path, act: Callable[[int], None]) -> StepError:
    """Do something to the process of the first model while it is measured."""
    before = children()
    acted: list[int] = []

    def progress(done: int, total: int) -> None:
        if not acted:
            acted.extend(sorted(children() - before))
            act(acted[0])

    with pytest.raises(StepError) as caught:
        measure_costs(dict.fromkeys("ab", (bundle, "fp32")), TEXTS, threads=1, on_progress=progress)
    assert len(acted) == 2
    assert children() == before
    return caught.value


def test_a_process_that_is_killed(bundle: Path) -> None:
    error = _while_measuring(bundle, lambda process: os.kill(process, signal.SIGKILL))
    assert error.message == "the process that measures the costs of a was ended by SIGKILL"
    assert error.hint == "out of memory, if nobody stopped it"


def test_a_process_that_does_not_answer(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "ANSWER_SECONDS", 0.5)
    error = _while_measuring(bundle, lambda process: os.kill(process, signal.SIGSTOP))
    assert error.message == "the process that measures the costs of a did not answer within 0.5 seconds"


def test_a_process_that_ends_with_a_trace(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs_process, "__name__", "retrainer.no_such_module")
    with pytest.raises(StepError, match=r"(?s)ended with exit code 1:.*No module named retrainer\.no_such_module"):
        measure_costs({"only": (bundle, "fp32")}, TEXTS, threads=1, on_progress=ignore)


def test_the_process_ends_with_its_input(bundle: Path, tmp_path: Path) -> None:
    """Which the kernel closes when the parent is gone, however it went."""
    work = tmp_path / "work.json"
    work.write_bytes(Work(bundle=str(bundle), precision="int8", threads=1, texts=("open", "closed")).to_json())
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-m', 'retrainer.work.costs_process', sys.argv[1]],"
            " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
            "print(child.pid, flush=True)\n"
            "child.stdin.write(sys.argv[2].encode() + b'\\n')\n"
            "child.stdin.flush()\n"
            "print(child.stdout.readline().decode(), child.stdout.readline().decode(), sep='', flush=True)\n"
            "sys.stdin.read()",
            str(work),
            Ask(positions=(1, 0)).to_json().decode(),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    try:
        child = int(parent.stdout.readline())
        loaded, answered = parse_reply(parent.stdout.readline()), parse_reply(parent.stdout.readline())
        assert isinstance(loaded, Reply)
        assert isinstance(answered, Reply)
        assert answered.seconds > 0
        assert answered.peak_bytes >= loaded.peak_bytes > 0
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    """Whether it still runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=80), count=st.integers(1, 70))
def test_texts_are_spread_from_the_shortest_to_the_longest(lengths: list[int], count: int) -> None:
    texts = ["x" * length for length in lengths]
    found = [len(text) for text in spread(texts, count)]
    assert found == sorted(found)
    assert len(found) == min(count, len(lengths))
    assert found[0] == min(lengths)
    if count > 1:
        assert found[-1] == max(lengths)
    if count >= len(lengths):
        assert json.dumps(found) == json.dumps(sorted(lengths))
