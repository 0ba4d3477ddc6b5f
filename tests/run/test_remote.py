"""A step handed to an engine: one job whatever happens, its messages in order, the artifact as the only proof."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import INGEST, StepRef, StepRequest
from retrainer.chain.jobs import JOBS, Job, JobEnd
from retrainer.chain.messages import Log, Message, Progress
from retrainer.errors import DataError, EngineError, EngineUnavailable, StepError, StepKilled, StorageError
from retrainer.run import agent, remote
from retrainer.run.agent import Shipper
from retrainer.run.engines import JobState
from retrainer.run.remote import Following, finished, follow, run_elsewhere, start, stop
from retrainer.spec import parse_pipeline
from retrainer.storage import open_storage
from tests.chain.made import in_root
from tests.run.background import Background


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.1)


@pytest.fixture
def engine(tmp_path: Path) -> Background:
    return Background(tmp_path / "engine")


def request_of(folder: Path, root: str, *, rows: int = 200) -> StepRequest:
    """A step that is done in seconds, and is a step like any other."""
    lines = "\n".join(f"text number {number} of the rows,{('a', 'b')[number % 2]}" for number in range(rows))
    (folder / "rows.csv").write_text(f"text,label\n{lines}\n")
    pipeline = parse_pipeline(
        {
            "name": "elsewhere",
            "dataset": {"train": "rows.csv", "checks": {"min_rows": 50}},
            "model": {"base": "somewhere/else"},
            "publish": {"store": str(folder / "store")},
        },
        where="test",
        base_folder=folder,
    )
    request = INGEST.plan(pipeline, context=in_root(root))
    assert isinstance(request, StepRequest)
    return request


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.05)


def processes_of(engine: Background, job: Job) -> list[psutil.Process]:
    """The agent and the step's process, once both run."""
    until(lambda: len(psutil.Process(engine.pid(job)).children(recursive=True)) >= 2)
    return list(psutil.Process(engine.pid(job)).children(recursive=True))


def test_a_step_elsewhere(tmp_path: Path, engine: Background) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    said: list[Message] = []
    ref = run_elsewhere(engine, request, said.append)
    assert isinstance(ref, StepRef)
    assert not ref.reused
    assert INGEST.output_of(ref).rows
    assert [message.kind for message in said if message.kind == "done"] == ["done"]
    assert list(open_storage(tmp_path / "artifacts" / JOBS).list()) == [], "what was noted about the job is gone"
    assert run_elsewhere(engine, request, said.append).reused
    assert engine.submitted == 1


def test_in_a_bucket(tmp_path: Path, engine: Background, s3_bucket: str) -> None:
    request = request_of(tmp_path, f"s3://{s3_bucket}/artifacts")
    assert not run_elsewhere(engine, request, lambda message: None).reused


def test_its_error_is_the_step_s_error(tmp_path: Path, engine: Background) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=20)
    with pytest.raises(DataError, match="50"):
        run_elsewhere(engine, request, lambda message: None)


def test_who_comes_later_follows_the_same_job(tmp_path: Path, engine: Background) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    first, second = (start(engine, request, environment={}) for _ in range(2))
    assert first == second
    assert engine.submitted == 2, "the engine is asked again, for nobody knows whether it was before"
    assert [entry.name for entry in (tmp_path / "engine").iterdir()] == [first.name]
    follow(engine, second, lambda message: None)
    assert not finished(request).reused


def test_many_at_once_start_one_job(tmp_path: Path, engine: Background) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    jobs = []
    threads = [threading.Thread(target=lambda: jobs.append(start(engine, request, environment={}))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.name for job in jobs}) == 1
    follow(engine, jobs[0], lambda message: None)


@pytest.mark.parametrize("how", ["kill", "vanish"])
def test_a_job_that_dies_is_followed_by_another(tmp_path: Path, engine: Background, how: str) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=2_000)
    job = start(engine, request, environment={})
    getattr(engine, how)(job)
    with pytest.raises(StepKilled, match=job.name):
        follow(engine, job, lambda message: None)
    again = start(engine, request, environment={})
    assert again.attempt == 2
    follow(engine, again, lambda message: None)
    assert not finished(request).reused


def test_a_job_that_died_unseen_is_not_followed(tmp_path: Path, engine: Background) -> None:
    """As when an engine was away for so long that the task gave up."""
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=2_000)
    engine.kill(start(engine, request, environment={}))
    again = start(engine, request, environment={})
    assert again.attempt == 2
    follow(engine, again, lambda message: None)
    assert not finished(request).reused


def test_a_job_that_is_stopped_leaves_nothing_that_runs(tmp_path: Path, engine: Background) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=50_000)
    job = start(engine, request, environment={})
    said: list[Message] = []
    following = Following(engine, job, said.append)
    until(lambda: bool(following.look() or any(isinstance(message, Progress) for message in said)))
    running = psutil.Process(engine.pid(job)).children(recursive=True)
    assert len(running) >= 2, "the agent, and the step's process"
    stop(engine, job, why="of a test")
    end = job.end()
    assert end is not None
    assert end.stopped
    with pytest.raises(StepKilled, match="of a test"):
        follow(engine, job, lambda message: None)
    assert psutil.wait_procs(running, timeout=30)[1] == []


def test_an_engine_s_word_is_not_enough(tmp_path: Path, engine: Background) -> None:
    """It says that all went well, and there is no artifact."""
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=50_000)
    job = start(engine, request, environment={})
    engine.kill(job)
    (tmp_path / "engine" / job.name / "code").write_text("0")
    with pytest.raises(StepError, match="left no artifact"):
        follow(engine, job, lambda message: None)


def test_an_artifact_is_enough(tmp_path: Path, engine: Background) -> None:
    """The engine says that the job failed, and lost its answer."""
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    job = start(engine, request, environment={})
    until((tmp_path / "engine" / job.name / "code").exists)
    (tmp_path / "engine" / job.name / "code").write_text("1")
    follow(engine, job, lambda message: None)


def test_an_agent_ends_where_its_engine_cannot_be_asked(
    tmp_path: Path, engine: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=50_000)
    job = start(engine, request, environment={})
    running = processes_of(engine, job)

    def away(job: object) -> None:
        raise EngineUnavailable("connection refused", where="engine")

    monkeypatch.setattr(engine, "stop", away)
    with pytest.raises(EngineUnavailable):
        stop(engine, job, why="of a test")
    assert psutil.wait_procs(running, timeout=30)[1] == []
    monkeypatch.undo()
    assert start(engine, request, environment={}).attempt == 2, "and who wants the step later has a job of their own"


def test_a_kill_while_the_store_is_away_asks_the_engine(
    tmp_path: Path, engine: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=50_000)
    job = start(engine, request, environment={})
    running = processes_of(engine, job)

    def away(*given: object) -> None:
        raise StorageError("slow down", where="store")

    monkeypatch.setattr(Artifacts, "find", away)
    with pytest.raises(StorageError, match="slow down"):
        stop(engine, job, why="of a test")
    assert psutil.wait_procs(running, timeout=30)[1] == []


def test_a_job_that_comes_after_its_end_was_wanted_does_not_run(tmp_path: Path, engine: Background) -> None:
    """It was handed in by a process that was killed, and the engine took its time."""
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=50_000)
    job = start(Accepts(tmp_path / "other"), request, environment={})
    job.note_end(JobEnd(phase="failed", why="of a test", stopped=True))
    done = subprocess.run(job.command(sys.executable), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 143, done.stderr
    assert "this job is to end" in done.stderr
    assert not remote.is_made(request)


def test_what_is_done_without_an_engine_by_now_ends_the_job(tmp_path: Path, engine: Background) -> None:
    """A person gave up on an engine that gave no answer. Its job is told where it looks."""
    request = request_of(tmp_path, str(tmp_path / "artifacts"), rows=50_000)
    remote.release(request)
    job = start(engine, request, environment={})
    running = processes_of(engine, job)
    remote.release(request)
    assert psutil.wait_procs(running, timeout=30)[1] == []
    end = job.end()
    assert end is not None
    assert end.stopped


def test_what_lingers_when_the_artifact_is_there_is_ended(
    tmp_path: Path, engine: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One host of several hangs, or what runs beside the training: it would hold its devices for good."""
    monkeypatch.setattr(remote, "FAREWELL_SECONDS", 0.3)
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    job = start(engine, request, environment={})
    stopped: list[object] = []
    monkeypatch.setattr(engine, "state", lambda job: JobState("running"))
    monkeypatch.setattr(engine, "stop", stopped.append)
    follow(engine, job, lambda message: None)
    assert stopped == [job]
    assert not finished(request).reused


def test_an_address_that_holds_a_user_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://bot:s3cr3t@hub.corp/hf")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    told = remote.job_environment()
    assert "HF_ENDPOINT" not in told
    assert told["AWS_ENDPOINT_URL"] == "http://minio:9000"
    assert "HF_ENDPOINT" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_job_of_other_resources_gives_way(tmp_path: Path, engine: Background) -> None:
    """The digest knows nothing of the engine and of what is asked of it."""
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    job = start(engine, request, environment={})
    resources = request.pipeline.resources.model_copy(update={"pool": "another"})
    other = request.model_copy(update={"pipeline": request.pipeline.model_copy(update={"resources": resources})})
    again = start(engine, other, environment={})
    assert again.attempt == 2
    end = job.end()
    assert end is not None
    assert end.stopped
    follow(engine, again, lambda message: None)


class Accepts(Background):
    """Takes a job, and does nothing yet."""

    def submit(self, job: object) -> None: ...


class Refuses(Background):
    """Takes no job."""

    def submit(self, job: object) -> None:
        raise EngineError("quota exceeded", where="engine")


def test_a_job_that_is_refused_is_not_taken_up_again(tmp_path: Path) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    with pytest.raises(EngineError, match="quota"):
        start(Refuses(tmp_path / "engine"), request, environment={})
    assert start(Background(tmp_path / "engine"), request, environment={}).attempt == 2


@pytest.mark.parametrize("error", [EngineError("not allowed", where="engine"), StorageError("slow", where="store")])
def test_what_passes_while_a_job_is_followed(
    tmp_path: Path, engine: Background, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A role that is written anew, a store that is throttled: the job trains on, and nobody gives it up."""
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    job = start(engine, request, environment={})
    following = Following(engine, job, lambda message: None)
    failing = [error] * 3

    def fails_first(call: Callable[..., object]) -> Callable[..., object]:
        def called(*given: object) -> object:
            if failing:
                raise failing.pop()
            return call(*given)

        return called

    if isinstance(error, EngineError):
        monkeypatch.setattr(engine, "state", fails_first(engine.state))
    else:
        monkeypatch.setattr(following._artifacts, "find", fails_first(following._artifacts.find))
    for _ in range(3):
        assert not following.look()
    assert failing == []
    until(following.look)


def test_of_days_of_messages_few_are_read(tmp_path: Path, engine: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "BLOCK", 4)
    job = start(engine, request_of(tmp_path, str(tmp_path / "artifacts")), environment={})
    until(lambda: not engine.state(job).is_active)
    job.storage.delete_tree("messages")
    said: list[Message] = []
    following = Following(engine, job, said.append)
    with Shipper(job.storage) as ship:
        for number in range(10):
            ship(Log(text=str(number)))
            ship._ship()
            following.look()
    following.look()
    heard = [message.text for message in said if isinstance(message, Log) and message.text.isdecimal()]
    assert heard == [str(number) for number in range(10)]
    said.clear()
    Following(engine, job, said.append).look()
    late = [message.text for message in said if isinstance(message, Log) and message.text.isdecimal()]
    assert late == [str(number) for number in range(4, 10)], "the last two blocks"


class Away(Background):
    """Does not answer for a while."""

    away = 20

    def state(self, job: object) -> JobState:
        self.away -= 1
        if self.away > 0:
            raise EngineUnavailable("connection refused", where="engine")
        return super().state(job)  # type: ignore[arg-type]


def test_an_engine_that_is_away_is_waited_for(tmp_path: Path) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    said: list[Message] = []
    assert not run_elsewhere(Away(tmp_path / "engine"), request, said.append).reused
    told = [message for message in said if isinstance(message, Log) and "connection refused" in message.text]
    assert len(told) == 1, "said once, not with every look"


def test_an_engine_that_stays_away_ends_the_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Away(tmp_path / "engine", python="false")
    monkeypatch.setattr(Away, "away", 10_000)
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.3)
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    job = start(engine, request, environment={})
    with pytest.raises(EngineUnavailable):
        follow(engine, job, lambda message: None)
    assert job.end() is None, "it may still run"


def test_messages_outlast_a_store_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(tmp_path)
    write = type(storage).write
    failures = iter([True, True, False])

    def flaky(self: object, key: str, data: bytes, **options: bool) -> None:
        if next(failures, False):
            raise StorageError("slow down", where=key)
        write(self, key, data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(storage), "write", flaky)
    with Shipper(storage, interval=0.05, progress_interval=0.0) as ship:
        for number in range(3):
            ship(Log(text=f"line {number}"))
            time.sleep(0.15)
    files = sorted((tmp_path / "messages").rglob("*.jsonl"))
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert [f'"line {number}"' in line for number, line in enumerate(lines)] == [True] * 3


def test_of_progress_the_newest_is_sent(tmp_path: Path) -> None:
    with Shipper(open_storage(tmp_path), interval=60.0) as ship:
        for number in range(1000):
            ship(Progress(stage="training", done=number))
        ship(Log(text="end"))
    (file,) = (tmp_path / "messages").rglob("*.jsonl")
    assert len(file.read_text().splitlines()) == 2


def test_an_end_is_noted_once(tmp_path: Path, engine: Background) -> None:
    request = request_of(tmp_path, str(tmp_path / "artifacts"))
    job = start(engine, request, environment={})
    first = JobEnd(phase="failed", why="first")
    assert job.note_end(first) == first
    assert job.note_end(JobEnd(phase="gone")) == first
    engine.stop(job)


def test_two_roots_have_two_jobs(tmp_path: Path, engine: Background) -> None:
    names = set()
    for root in ("one", "two"):
        job = start(engine, request_of(tmp_path, str(tmp_path / root)), environment={})
        names.add(job.name)
        assert len(job.name) <= 63
        engine.stop(job)
    assert len(names) == 2
