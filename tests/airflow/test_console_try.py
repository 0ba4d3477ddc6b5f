"""A text on trial: the process that answers, its limits, and that nothing of it stays."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrainer.airflow.console import AirflowHost
from retrainer.airflow.settings import tries_texts
from retrainer.chain.trial import Trial, Tried
from retrainer.errors import Busy, DataError, NoAnswer, NotFoundError, PipelineError, ResourceError, StepError
from retrainer.run import trial as running
from retrainer.run.trial import ask_version
from retrainer.serve import Classifier
from retrainer.store import Store

TEXT = "Trail 7 is open and dry today"


@pytest.fixture
def trial(small_artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    store = small_artifacts.parent / "store"
    champion = Store.open(store).model("made-once").champion("production")
    assert champion is not None
    return Trial(
        store=str(store),
        model="made-once",
        version=champion.version,
        task=champion.task,
        text=TEXT,
        size=champion.size,
    )


def children() -> set[int]:
    """The processes that this one has started and that are not waited for yet: also those of other tests."""
    lists = Path("/proc/self/task").glob("*/children")
    return {int(number) for text in lists for number in text.read_text().split()}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


def test_the_answer_is_that_of_the_client(trial: Trial) -> None:
    tried = ask_version(trial)
    (expected,) = Classifier.from_store(trial.store, trial.model).respond([TEXT]).predictions
    assert [one.label for one in tried.scores] == [one["label"] for one in expected]
    assert [one.score for one in tried.scores] == pytest.approx([one["score"] for one in expected], abs=1e-6)
    assert tried.version == trial.version


def test_what_is_wrong_is_said_and_never_the_text(trial: Trial, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotFoundError):
        ask_version(trial.model_copy(update={"version": "0" * 16}))
    with pytest.raises(DataError) as error:
        ask_version(trial.model_copy(update={"pair": "a second"}))
    assert TEXT not in str(error.value)
    assert TEXT not in caplog.text


def test_it_takes_no_more_memory_than_it_may(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LEAST_BYTES", 24 << 20)
    monkeypatch.setattr(running, "TIMES_THE_SIZE", 0)
    with pytest.raises((ResourceError, StepError)):
        ask_version(trial)


def test_it_does_not_begin_where_there_is_no_memory_for_it(trial: Trial) -> None:
    with pytest.raises(Busy, match="there is no memory for it"):
        ask_version(trial.model_copy(update={"size": 1 << 50}))


def test_it_takes_no_more_time_than_it_may(trial: Trial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(running, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer within 1 s"):
        ask_version(trial, python=script(tmp_path, "sleep 60 & sleep 60"))
    assert time.monotonic() - started < 10


def test_one_is_answered_at_a_time(trial: Trial) -> None:
    answers: list[Tried | Busy] = []

    def ask() -> None:
        try:
            answers.append(ask_version(trial))
        except Busy as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(one).__name__ for one in answers) == ["Busy", "Busy", "Tried"]
    assert isinstance(ask_version(trial), Tried)


def test_the_process_gets_neither_keys_nor_the_settings_of_airflow(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://secret")
    monkeypatch.setenv("AIRFLOW_CONN_MODELS", "aws://secret")
    monkeypatch.setenv("RETRAINER_SIGNING_KEY", "secret")
    with pytest.raises(StepError):
        ask_version(
            trial, python=script(tmp_path, f"env > {tmp_path}/variables; echo $@ >> {tmp_path}/variables; exit 1")
        )
    variables = (tmp_path / "variables").read_text()
    assert "secret" not in variables
    assert TEXT not in variables
    assert "OMP_NUM_THREADS=1" in variables


def test_an_interpreter_that_is_not_there(trial: Trial) -> None:
    with pytest.raises(ResourceError, match="cannot be started"):
        ask_version(trial, python="/nowhere/python")


def test_one_that_lacks_the_libraries_says_so(trial: Trial, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "onnxruntime.py").write_text("raise ModuleNotFoundError('no', name='onnxruntime')")
    environment = {"PYTHONPATH": os.pathsep.join([str(blocked), *sys.path])}
    with pytest.raises(ResourceError, match="onnxruntime not installed"):
        ask_version(trial, environment=environment)


@pytest.mark.parametrize(("said", "on"), [("", False), ("false", False), ("0", False), ("True", True), ("on", True)])
def test_it_is_off_unless_it_is_switched_on(monkeypatch: pytest.MonkeyPatch, said: str, on: bool) -> None:
    monkeypatch.setenv("RETRAINER_CONSOLE_TRY", said)
    assert tries_texts() == on
    assert (AirflowHost().trials() is not None) == on


def test_a_setting_that_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRAINER_CONSOLE_TRY", "sometimes")
    with pytest.raises(PipelineError, match="neither true nor false"):
        tries_texts()


def script(folder: Path, commands: str) -> str:
    """Something to start in place of Python."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{commands}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)
