"""Messages survive the way through a file, and read well."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retrainer.chain.messages import Failed, Log, Message, Metrics, Progress, describe, duration, parse_message

finite = st.floats(allow_nan=False, allow_infinity=False)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Log, text=st.text()),
    st.builds(
        Progress,
        stage=st.text(),
        done=finite,
        total=st.none() | finite,
        figures=st.dictionaries(st.text(), finite),
    ),
    st.builds(Metrics, epoch=finite, values=st.dictionaries(st.text(), finite)),
    st.builds(Failed, error=st.text(), message=st.text(), where=st.none() | st.text()),
)


@given(messages)
def test_round_trip_on_one_line(message: Message) -> None:
    line = message.to_json()
    assert b"\n" not in line
    assert parse_message(line) == message


def test_progress_reads_well() -> None:
    progress = Progress(
        stage="training",
        done=30,
        total=120,
        unit="step",
        seconds_left=95,
        figures={"epoch": 0.5, "loss": 0.4321, "rows_per_second": 28.81},
    )
    assert describe(progress) == ("training: step 30/120, 1 min 35 s left, epoch 0.5, loss 0.4321, 28.8 rows/s")


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59, 65, 3725)] == ["0 s", "59 s", "1 min 05 s", "1 h 02 min"]
