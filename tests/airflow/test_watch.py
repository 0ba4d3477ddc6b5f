"""What a watch tells of new data, and when; without Airflow, on a clock of its own."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.airflow.bell import Bell
from retrainer.airflow.watch import ROWS, TAKEN, News, Watch, Watched, taken_by, versions_of
from retrainer.errors import DataError, StorageError
from retrainer.sources.arrivals import count, data_files, listing

QUIET = 30.0


class Kept:
    """A memory that outlives watches."""

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None) -> Any:
        return self.content.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        self.content[key] = value


class Scene:
    """A folder, its watch, and the runs that it starts."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder = folder
        self.watched = Watched(**{"paths": (str(folder),), "quiet_seconds": QUIET, **changes})
        self.memory = Kept()
        self.now = 0.0
        self.moment = 0
        self.queued = 0
        self.reading: dict[str, str] | None = None
        self.failed: set[str] = set()
        self.restart()

    def restart(self) -> None:
        """As when a triggerer is gone and another takes over."""
        self.watch = Watch(
            self.watched,
            self.memory,
            self.run_to_come,
            self.has_failed,
            nullcontext,
            logging.getLogger("watch"),
            clock=lambda: self.now,
        )

    async def has_failed(self, run_id: str) -> bool:
        return run_id in self.failed

    async def run_to_come(self) -> bool:
        return bool(self.queued) or self.reading is not None

    def write(self, name: str, rows: int, *, more: bool = False, start: int = 0) -> Path:
        path = self.folder / name
        lines = "".join(f'"row {start + number}, of\nmany",yes\n' for number in range(rows))
        if more and path.exists():
            with path.open("a") as stream:
                stream.write(lines)
        else:
            path.write_text("text,label\n" + lines)
        self.moment += 1  # a file system's clock is coarse, and these come at once
        os.utime(path, ns=(self.moment, self.moment))
        return path

    def look(self, seconds: float = 0.0) -> News | None:
        self.now += seconds
        return asyncio.run(self.watch.look())

    def after_quiet(self) -> News | None:
        """What is told once nothing has changed for long enough."""
        assert self.look() is None or self.watch.at_rest
        return self.look(QUIET)

    def files(self) -> dict[str, str]:
        return listing(data_files(self.watched.paths))

    def read(self) -> None:
        """A run reads all there is."""
        self.note("run", self.files())

    def note(self, run_id: str, files: dict[str, str]) -> None:
        """As ``note_taken``."""
        content = self.memory.content.get(TAKEN)
        before = versions_of(content, failed=content is not None and content["run_id"] in self.failed)
        self.memory.content[TAKEN] = taken_by(run_id, files, before)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_new_files_are_told_once_and_with_their_rows(scene: Scene) -> None:
    assert scene.after_quiet() is None
    scene.write("a.csv", 3)
    scene.write("b.csv", 4)
    news = scene.after_quiet()
    assert news is not None
    assert (news.files, news.rows) == (2, 7)
    assert [Path(name).name for name in news.names] == ["a.csv", "b.csv"]
    assert scene.look(QUIET) is None
    scene.read()
    assert scene.after_quiet() is None
    scene.write("c.csv", 5)
    news = scene.after_quiet()
    assert news is not None
    assert (news.files, news.rows) == (1, 5)


def test_a_file_that_is_still_written_to_is_waited_for(scene: Scene) -> None:
    for second in range(30):
        scene.write("slow.csv", 1, more=True, start=second)
        assert scene.look(QUIET - 1) is None
    news = scene.look(QUIET)
    assert news is not None
    assert news.rows == 30


def test_what_never_comes_to_rest_is_warned_of_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    for second in range(100):
        scene.write("log.csv", 1, more=True, start=second)
        assert scene.look(QUIET - 1) is None
    assert caplog.text.count("needs schedule.cron instead") == 1


def test_nothing_is_told_while_a_run_is_to_read_it_anyway(scene: Scene) -> None:
    scene.write("a.csv", 3)
    scene.queued = 1
    assert scene.after_quiet() is None
    scene.read()
    scene.queued = 0
    assert scene.look(QUIET) is None
    scene.write("b.csv", 3)
    assert scene.after_quiet() is not None


def test_what_a_run_did_not_read_is_told_again_with_what_comes_on_top(scene: Scene) -> None:
    scene.write("broken.csv", 3)
    assert scene.after_quiet() is not None
    # Its run has failed, and nothing was noted.
    assert scene.look(QUIET) is None
    scene.write("more.csv", 4)
    news = scene.after_quiet()
    assert news is not None
    assert (news.files, news.rows) == (2, 7)


def test_rows_are_waited_for_and_not_files(tmp_path: Path) -> None:
    scene = Scene(tmp_path, min_new_rows=10)
    scene.write("old.csv", 100)
    scene.read()
    assert scene.after_quiet() is None
    scene.write("old.csv", 6, more=True, start=100)
    assert scene.after_quiet() is None
    scene.restart()
    scene.write("new.csv", 3)
    assert scene.after_quiet() is None
    scene.write("old.csv", 1, more=True, start=106)
    news = scene.after_quiet()
    assert news is not None
    assert (news.files, news.rows) == (2, 10)


def test_a_file_that_is_touched_brings_no_row_and_one_written_anew_brings_all(tmp_path: Path) -> None:
    scene = Scene(tmp_path, min_new_rows=2)
    path = scene.write("a.csv", 5)
    scene.read()
    assert scene.after_quiet() is None
    path.touch()
    assert scene.after_quiet() is None
    assert scene.memory.content[ROWS] != {}
    scene.write("a.csv", 5, start=1)
    news = scene.after_quiet()
    assert news is not None
    assert news.rows == 5


def test_a_file_that_cannot_be_read_starts_a_run_that_says_so(tmp_path: Path) -> None:
    scene = Scene(tmp_path, min_new_rows=1000)
    (tmp_path / "bad.csv").write_text('text,label\n"never closed,yes\n')
    news = scene.after_quiet()
    assert news is not None
    assert "bad.csv" in news.uncounted[0]
    assert "is not closed" in news.line()


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "later", paths=(str(tmp_path / "later"), str(tmp_path / "x*.csv")))
    assert scene.after_quiet() is None
    scene.folder.mkdir()
    scene.write("a.csv", 1)
    assert scene.after_quiet() is not None


def test_what_is_wrong_with_a_path_is_an_error(tmp_path: Path) -> None:
    scene = Scene(tmp_path, paths=(str(tmp_path / "a.json"),))
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="not a known format"):
        scene.look()


def test_counts_that_another_version_wrote_are_made_anew(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.memory.content[ROWS] = {"/a.csv": {"1-1": {"lines": 3}}}
    scene.write("a.csv", 2)
    news = scene.after_quiet()
    assert news is not None
    assert news.rows == 2
    assert "counted anew" in caplog.text


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["land", "append"]), st.integers(0, 3)),
        st.tuples(st.sampled_from(["look", "start", "read", "fail", "restart"]), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=int(os.environ.get("RETRAINER_EXAMPLES", "40")))
@given(STEPS)
def test_nothing_is_lost_and_no_two_runs_wait(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        act: dict[str, Callable[[int], object]] = {
            "land": lambda which: scene.write(f"{which}.csv", 2, start=scene.moment),
            "append": lambda which: scene.write(f"{which}.csv", 1, more=True, start=scene.moment),
            "look": lambda _: look(scene),
            "start": lambda _: start(scene),
            "read": lambda _: end(scene, well=True),
            "fail": lambda _: end(scene, well=False),
            "restart": lambda _: scene.restart(),
        }
        for name, which in steps:
            act[name](which)
            assert scene.queued <= 1
        scene.restart()
        for _ in range(3):
            look(scene)
            look(scene)
            end(scene, well=True)
            start(scene)
            end(scene, well=True)
        assert scene.memory.content.get(TAKEN, {"files": {}})["files"] == scene.files()


def look(scene: Scene) -> None:
    if scene.look(QUIET) is not None:
        scene.queued += 1


def start(scene: Scene) -> None:
    if scene.queued and scene.reading is None:
        scene.queued -= 1
        scene.reading = scene.files()


def end(scene: Scene, *, well: bool) -> None:
    if scene.reading is not None and well:
        scene.note("run", scene.reading)
    scene.reading = None


def test_rows_of_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\none\tyes\ntwo\tno\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n{"text": "three"}\n')
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"text,label\none,yes\n"))
    pq.write_table(pa.table({"text": ["a"] * 70}), tmp_path / "d.parquet")
    (tmp_path / "e.parquet").write_text("damaged")
    counts = {file.name: count(file, {}) for file in data_files([str(tmp_path)]).values()}
    assert {name: one.rows for name, one in counts.items()} == {
        "a.tsv": 2,
        "b.jsonl": 3,
        "c.csv.gz": 1,
        "d.parquet": 70,
        "e.parquet": None,
    }
    assert "not parquet, or damaged" in counts["e.parquet"].problem


def test_a_bucket_is_watched_by_etag(s3_bucket: str, s3_endpoint: str) -> None:
    scene = Scene(Path("/nowhere"), paths=(f"s3://{s3_bucket}/in/",))
    assert scene.after_quiet() is None
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for name, rows in (("a", "one,yes\ntwo,no\n"), ("b", "three,yes\n")):
        client.put_object(Bucket=s3_bucket, Key=f"in/{name}.csv", Body=f"text,label\n{rows}".encode())
    news = scene.after_quiet()
    assert news is not None
    assert (news.files, news.rows) == (2, 3)
    scene.read()
    client.put_object(Bucket=s3_bucket, Key="in/b.csv", Body=b"text,label\nthree,yes\nfour,no\n")
    news = scene.after_quiet()
    assert news is not None
    assert (news.files, news.rows) == (1, 1)


def test_a_queue_says_when_to_look(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("sqs", endpoint_url=s3_endpoint)
    queue = client.create_queue(QueueName=s3_bucket)["QueueUrl"]
    bell = Bell(queue)
    assert bell.rang(), "what is there when the watch begins is looked at"
    assert not bell.rang()
    for number in range(13):
        client.send_message(QueueUrl=queue, MessageBody=f"an object, {number}")
    assert bell.rang()
    assert not bell.rang()
    assert "Messages" not in client.receive_message(QueueUrl=queue)
    monkeypatch.setattr("retrainer.airflow.bell.RELIST_SECONDS", -1.0)
    assert bell.rang(), "a bucket that tells the queue nothing is not forgotten"
    with pytest.raises(StorageError, match="gone"):
        Bell(queue + "-gone").rang()


def test_rows_that_a_failed_run_has_read_count_again_with_what_comes_next(tmp_path: Path) -> None:
    scene = Scene(tmp_path, min_new_rows=10)
    scene.write("a.csv", 12)
    scene.note("first", scene.files())
    scene.write("b.csv", 11)
    assert scene.after_quiet() is not None
    scene.note("second", scene.files())
    scene.failed.add("second")
    # By itself it would start one run after another, which would fail alike.
    assert scene.after_quiet() is None

    scene.write("c.csv", 1)
    news = scene.after_quiet()

    assert news is not None, "one row more is enough beside the eleven"
    assert (news.files, news.rows) == (2, 12)
    # A run that fails after a failed one leaves what the last good one had read.
    scene.note("third", scene.files())
    scene.failed.add("third")
    scene.write("d.csv", 1)
    news = scene.after_quiet()
    assert news is not None
    assert [Path(name).name for name in news.names] == ["b.csv", "c.csv", "d.csv"]
    # A run that ends well has read them all.
    scene.note("fourth", scene.files())
    scene.write("e.csv", 9)
    assert scene.after_quiet() is None
    scene.write("f.csv", 1)
    news = scene.after_quiet()
    assert news is not None
    assert news.rows == 10


def test_a_file_that_a_failed_run_has_read_anew_is_as_new_as_it_was(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.write("a.csv", 5)
    scene.note("first", scene.files())
    first = scene.files()
    scene.write("a.csv", 3, more=True, start=5)
    scene.note("second", scene.files())
    assert versions_of(scene.memory.content[TAKEN], failed=True) == first
    assert versions_of(scene.memory.content[TAKEN], failed=False) == scene.files()
    assert versions_of(None, failed=False) == {}
    # What was remembered before failures counted.
    assert versions_of({"run_id": "old", "files": first}, failed=True) == first
