"""How often a task log speaks, and which errors are tried again."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from hypothesis import given
from hypothesis import strategies as st

from retrainer.airflow.failures import as_airflow
from retrainer.airflow.progress import ProgressLog, ProgressState
from retrainer.chain.messages import Done, Failed, Log, Message, Metrics, Progress, Saved
from retrainer.errors import (
    ChampionChanged,
    DataError,
    ModelError,
    NotFoundError,
    PipelineError,
    ResourceError,
    RetrainerError,
    StepKilled,
    StorageError,
)


class Clock:
    """A clock that stands until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(messages: list[tuple[float, Message]]) -> list[str]:
    """What is logged when each message comes so many seconds after the one before."""
    said: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger = logging.Logger("test")
    logger.addHandler(Recorder())
    clock = Clock()
    progress = ProgressLog(logger, clock=clock)
    for seconds, message in messages:
        clock.now += seconds
        progress(message)
    return said


def step(done: float, stage: str = "training") -> Progress:
    return Progress(stage=stage, done=done, total=100, unit="step", seconds_left=75, figures={"loss": 0.5})


def test_progress_is_one_line_every_five_seconds_and_the_last() -> None:
    said = lines_of([(1.0, step(number)) for number in range(1, 13)] + [(0.0, Done())])
    assert [line.split(",")[0] for line in said] == [f"training: step {n}/100" for n in (1, 6, 11, 12)]
    assert said[0] == "training: step 1/100, 1 min 15 s left, loss 0.5"


def test_notices_and_scores_are_never_held_back() -> None:
    metrics = Metrics(epoch=1, values={"accuracy": 0.9})
    said = lines_of([(0, step(1)), (0, step(2)), (0, Log(text="saved")), (0, metrics), (0, step(3, "export"))])
    assert [line.split(",")[0] for line in said] == [
        "training: step 1/100",
        "training: step 2/100",
        "saved",
        "epoch 1 on validation: accuracy 0.9000",
        "export: step 3/100",
    ]


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["a", "b"])), min_size=1))
def test_the_last_progress_of_every_stage_is_said(steps: list[tuple[float, str]]) -> None:
    messages: list[tuple[float, Message]] = [
        (seconds, step(number, stage)) for number, (seconds, stage) in enumerate(steps)
    ]
    said = lines_of([*messages, (0.0, Done())])
    assert len(said) == len(set(said))
    for number, (_, stage) in enumerate(steps):
        if number + 1 == len(steps) or steps[number + 1][1] != stage:
            assert any(line.startswith(f"{stage}: step {number}/100") for line in said)


@pytest.mark.parametrize("error", [PipelineError, DataError, ModelError, NotFoundError, ChampionChanged])
def test_what_cannot_get_better_is_not_tried_again(error: type[RetrainerError]) -> None:
    assert isinstance(as_airflow(error("wrong", where="a.csv", hint="do this")), AirflowFailException)


@pytest.mark.parametrize("error", [StepKilled, ResourceError, StorageError])
def test_what_may_get_better_is_tried_again(error: type[RetrainerError]) -> None:
    raised = as_airflow(error("wrong", where="a.csv", hint="do this"))
    assert isinstance(raised, AirflowException)
    assert not isinstance(raised, AirflowFailException)
    assert str(raised) == "a.csv: wrong (do this)"


def test_a_changed_champion_says_what_to_clear() -> None:
    assert "Clear the task that evaluates" in str(as_airflow(ChampionChanged("the channel moved")))


class Shown:
    """A state store that remembers what was written, or refuses to be."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.written: list[tuple[str, Any]] = []
        self.refuses = refuses

    def set(self, key: str, value: Any) -> None:
        self.written.append((key, value))
        if self.refuses:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))


def test_how_far_a_step_is_is_kept_now_and_then_and_at_its_end() -> None:
    shown, clock = Shown(), Clock()
    state = ProgressState(shown, logging.getLogger("state"), interval=15, clock=clock)
    for step in range(1, 41):
        clock.now += 1
        state(
            Progress(stage="training", done=step, total=100, unit="step", seconds_left=60, figures={"loss": 1 / step})
        )
        if step == 20:
            state(Saved(checkpoint="checkpoint-20"))
    state(Failed(error="StepKilled", message="killed"))

    progress = [value for key, value in shown.written if key == "progress"]
    assert [value["done"] for value in progress] == [1, 16, 31, 40]
    assert (progress[-1]["seconds_left"], progress[-1]["figures"]) == (60, {"loss": 0.025})
    assert progress[-1]["text"].startswith("training: step 40/100, ")
    assert [value for key, value in shown.written if key == "checkpoint"] == ["checkpoint-20"]


def test_a_step_goes_on_where_airflow_does_not_keep_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    shown = Shown(refuses=True)
    state = ProgressState(shown, logging.getLogger("state"), interval=0)
    for step in range(3):
        state(Progress(stage="training", done=step))
    assert len(shown.written) == 1
    assert caplog.text.count("will not be shown") == 1
    ProgressState(None, logging.getLogger("state"))(Progress(stage="training", done=1))
