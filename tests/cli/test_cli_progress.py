"""Progress on a terminal and without one, from the messages that steps send."""

from __future__ import annotations

import io
from contextlib import suppress

import pytest
from rich.console import Console

from retrainer.chain import StepRef, stages_of
from retrainer.chain.messages import Log, Metrics, Progress
from retrainer.cli.progress import LINE_SECONDS, Lines, LiveList, open_display
from retrainer.spec import parse_pipeline
from tests.chain.made import ingested


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def training(done: float) -> Progress:
    figures = {"epoch": done / 50, "loss": 0.4123456, "rows_per_second": 22.345}
    return Progress(stage="training", done=done, total=100, unit="step", seconds_left=83.0, figures=figures)


PIPELINE = {
    "name": "trails",
    "dataset": {"train": "rows.csv"},
    "model": {"base": "base"},
    "publish": {"store": "store"},
}
STAGES = stages_of(parse_pipeline(PIPELINE))
INGEST_STAGE, TRAIN_STAGE = STAGES[:2]
INGESTED = StepRef(
    step="ingest", digest="0", root="/r", reused=False, output=ingested(rows={"train": 10}).model_dump(mode="json")
)
REUSED = INGESTED.model_copy(update={"reused": True})


def lines(clock: Clock) -> tuple[Lines, io.StringIO]:
    stream = io.StringIO()
    return Lines(Console(file=stream, width=200, highlight=False, markup=False), clock=clock), stream


def test_lines_of_progress_come_every_few_seconds_and_at_the_end(clock: Clock) -> None:
    display, stream = lines(clock)
    display.planning(TRAIN_STAGE)
    for step in range(1, 101):
        clock.now += LINE_SECONDS / 10
        display.message(TRAIN_STAGE, training(step))
    said = stream.getvalue().splitlines()
    assert 9 <= len(said) <= 12
    assert said[0].startswith("train    training: step 1/100, 1 min 23 s left, epoch 0.02, loss 0.4123, 22.3 rows/s")
    assert "step 100/100" in said[-1]


def test_every_log_line_warning_and_score_is_said(clock: Clock) -> None:
    display, stream = lines(clock)
    display.planning(TRAIN_STAGE)
    display.message(TRAIN_STAGE, Log(text="fine-tuning [bold] on cpu"))
    display.message(TRAIN_STAGE, Log(level="warning", text="no GPU"))
    display.message(TRAIN_STAGE, Metrics(epoch=1.0, values={"accuracy": 0.875}))
    assert stream.getvalue().splitlines() == [
        "train    fine-tuning [bold] on cpu",
        "train    warning: no GPU",
        "train    epoch 1 on validation: accuracy 0.8750",
    ]


def test_lines_say_what_came_out(clock: Clock) -> None:
    display, stream = lines(clock)
    display.planning(INGEST_STAGE)
    clock.now += 65
    display.finished(INGEST_STAGE, INGESTED)
    display.finished(INGEST_STAGE, REUSED)
    assert stream.getvalue().splitlines() == [
        "ingest   done in 1 min 05 s: train 10",
        "ingest   done before: train 10",
    ]


def drawn(display: LiveList, width: int = 100) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system=None).print(display)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_the_list_shows_done_running_and_to_come(clock: Clock) -> None:
    display = LiveList(Console(file=io.StringIO(), force_terminal=True), stages=STAGES, clock=clock)
    display.planning(INGEST_STAGE)
    clock.now += 5
    display.finished(INGEST_STAGE, INGESTED)
    display.planning(TRAIN_STAGE)
    display.message(TRAIN_STAGE, training(50))
    clock.now += 40
    ingest, train, *rest = drawn(display, width=110)
    assert ingest.startswith("✓ ingest           5 s train 10")
    assert "40 s" in train
    assert "step 50/100, 1 min 23 s left, epoch 1, loss 0.4123, 22.3 rows/s" in train
    assert [line.split() for line in rest] == [["·", name] for name in ("export", "evaluate", "decide", "publish")]


def test_the_list_fits_a_narrow_terminal(clock: Clock) -> None:
    display = LiveList(Console(file=io.StringIO(), force_terminal=True), stages=STAGES, clock=clock)
    display.planning(TRAIN_STAGE)
    display.message(TRAIN_STAGE, training(50))
    shown = drawn(display, width=60)
    assert len(shown) == 6
    assert all(len(line) <= 60 for line in shown)
    assert "step 50/100" in shown[1]


def test_what_did_not_end_well_is_marked(clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with suppress(KeyboardInterrupt), LiveList(console, stages=STAGES, clock=clock) as display:
        display.planning(INGEST_STAGE)
        display.finished(INGEST_STAGE, INGESTED)
        display.planning(TRAIN_STAGE)
        display.message(TRAIN_STAGE, Metrics(epoch=1.0, values={"accuracy": 0.5}))
        raise KeyboardInterrupt
    assert "epoch 1 on validation: accuracy 0.5000" in stream.getvalue()
    assert "✗ train" in stream.getvalue()
    assert "✗ export" not in stream.getvalue()


def test_the_list_is_for_terminals_only() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert isinstance(open_display(terminal, plain=False, stages=STAGES), LiveList)
    assert isinstance(open_display(terminal, plain=True, stages=STAGES), Lines)
    assert isinstance(open_display(dumb, plain=False, stages=STAGES), Lines)
    assert isinstance(open_display(Console(file=io.StringIO()), plain=False, stages=STAGES), Lines)
