"""What ends while a look is under way: the classifier, its watching, the process. A store may never answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import UserError
from retrainer.serve import AsyncClassifier, Classifier
from retrainer.serve.file_locks import take
from retrainer.serve.retention import use_lock
from tests.serve.conftest import PublishedStore, Sick, eventually, load, relabelled

SOON = 20.0
MOVE = "/0000000002.json"
PROGRAM = """
import sys
from retrainer.serve import Classifier

classify = Classifier.from_store(sys.argv[1], "trails", cache_dir=sys.argv[2])
print("loaded", flush=True)
sys.stdin.readline()
classify.watch(0.05)
print("watching", flush=True)
sys.stdin.readline()
print("ending", flush=True)
"""


class Hanging:
    """A store that does not answer for a key: whoever asks waits."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._answered = threading.Event()

    def entered(self) -> bool:
        """Whether somebody asked."""
        return self._entered.is_set()

    def answer(self) -> None:
        """What is there, now and from now on."""
        self._answered.set()

    def wait(self, handler: Any) -> None:
        self._entered.set()
        self._answered.wait(60)
        handler._forward()


@contextmanager
def hanging(sick: Sick, part: str) -> Iterator[Hanging]:
    found = Hanging()
    sick[part] = found.wait
    try:
        yield found
    finally:
        found.answer()


@pytest.fixture
def store(bucket: PublishedStore) -> PublishedStore:
    """In a bucket, through a proxy."""
    return bucket


def test_closing_waits_for_no_look(store: PublishedStore, cache: Path, tmp_path: Path, sick: Sick) -> None:
    """And what the look finds afterwards is dropped, with its place in the cache."""
    classify = load(store, cache)
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    with hanging(sick, MOVE) as move, ThreadPoolExecutor(4) as pool:
        look = pool.submit(classify.refresh)
        eventually(move.entered, "nobody looked")
        start = time.monotonic()
        for closing in [pool.submit(classify.close) for _ in range(2)]:
            closing.result(60)
        assert not classify.refresh()
        assert time.monotonic() - start < SOON
        assert not look.done()
        with pytest.raises(UserError, match="was closed"):
            classify("the trail is open")
        with pytest.raises(UserError, match="was closed"):
            classify.watch()
        move.answer()
        assert look.result(60) is False
    assert classify._served is None
    assert (cache / "trails" / "versions" / second).is_dir()
    assert take(use_lock(cache / "trails", second), "exclusive", wait=False) is not None


def test_closing_frees_the_model_while_a_look_hangs(store: PublishedStore, cache: Path, sick: Sick) -> None:
    classify = load(store, cache)
    version = classify.version
    with hanging(sick, MOVE) as move, ThreadPoolExecutor(1) as pool:
        look = pool.submit(classify.refresh)
        eventually(move.entered, "nobody looked")
        classify.close()
        hold = take(use_lock(cache / "trails", version), "exclusive", wait=False)
        assert hold is not None, "the look keeps the model"
        move.answer()
        look.result(60)


def test_another_interval_while_a_look_hangs(store: PublishedStore, cache: Path, sick: Sick) -> None:
    """A loop of asyncio calls this, and must go on; and there is still one thread."""

    async def change() -> None:
        classify = await AsyncClassifier.from_store(store.url, "trails", cache_dir=cache)
        with hanging(sick, MOVE) as move:
            classify.watch(0.01)
            while not move.entered():
                await asyncio.sleep(0.01)
            start = time.monotonic()
            classify.watch(0.02)
            assert time.monotonic() - start < SOON
            assert watching() == 1
        while classify.status.checked_at is None or classify.classifier._watcher is None:
            await asyncio.sleep(0.01)
        before = classify.status.checked_at
        while classify.status.checked_at == before:  # it goes on looking
            await asyncio.sleep(0.01)
        await classify.close()

    asyncio.run(asyncio.wait_for(change(), 60))
    assert watching() == 0


def watching() -> int:
    return sum(thread.name.startswith("retrainer-watch") for thread in threading.enumerate())


def test_a_shorter_interval_counts_at_once(store: PublishedStore, cache: Path) -> None:
    with load(store, cache) as classify:
        classify.watch(3600)
        before = classify.status.checked_at
        classify.watch(0.01)
        eventually(lambda: classify.status.checked_at != before, "the old interval still counts")
        assert classify._follower is not None
        assert classify._follower.interval == 0.01


def test_watching_from_several_threads_is_one_thread(store: PublishedStore, cache: Path) -> None:
    classify = load(store, cache)
    start = threading.Barrier(8)

    def watch(_: int) -> None:
        start.wait()
        classify.watch(3600)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(watch, range(8)))
    assert watching() == 1
    classify.close()
    assert watching() == 0


def test_a_status_beside_one_that_closes(store: PublishedStore, cache: Path) -> None:
    """It is whole, or says that the classifier was closed."""
    for _ in range(5):
        classify = load(store, cache)
        classify.watch(3600)
        start = threading.Barrier(3)

        def ask(classify: Classifier = classify, start: threading.Barrier = start) -> str:
            start.wait()
            try:
                while True:
                    _ = classify.status.watching
            except UserError as error:
                return error.message

        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask) for _ in range(2)]
            start.wait()
            classify.close()
            assert [future.result(60) for future in asked] == ["this classifier was closed"] * 2


@contextmanager
def program(store: PublishedStore, cache: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, store.url, str(cache)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        try:
            yield process
        finally:
            process.kill()


def go_on(process: subprocess.Popen[str], to: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == f"{to}\n"


def end(process: subprocess.Popen[str]) -> None:
    go_on(process, "ending")
    time.sleep(0.5)  # its main thread ends


def test_a_process_that_ends_during_a_look(store: PublishedStore, cache: Path, tmp_path: Path, sick: Sick) -> None:
    """The look comes to its end first, and nothing is said of pools that are gone."""
    with program(store, cache) as process:
        second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
        with hanging(sick, MOVE) as move:
            go_on(process, "watching")
            eventually(move.entered, "nobody looked")
            end(process)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert (cache / "trails" / "versions" / second).is_dir()


def test_a_process_does_not_wait_for_a_store_that_never_answers(store: PublishedStore, cache: Path, sick: Sick) -> None:
    with program(store, cache) as process, hanging(sick, MOVE) as move:
        go_on(process, "watching")
        eventually(move.entered, "nobody looked")
        end(process)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_process_does_not_wait_for_a_download_that_hangs(
    store: PublishedStore, cache: Path, tmp_path: Path, sick: Sick
) -> None:
    """Its threads belong to pools that the interpreter would wait for."""
    with program(store, cache) as process:
        second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
        with hanging(sick, f"{second}/bundle.json") as file:
            go_on(process, "watching")
            eventually(file.entered, "nobody fetched it")
            end(process)
            assert process.wait(30) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
