"""The server's process ends when it is told to: at any moment, and whatever its store does."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from retrainer.errors import NotFoundError, StorageError, StoragePermissionError
from retrainer.server.models import is_definite
from tests.server.process import ServerProcess, publish

# What a process may take that has nothing left to answer; Kubernetes kills after 30 s.
SOON = 15


class Staller(threading.Thread):
    """Hands connections on to a server; while it stalls, takes every byte and gives none.

    :ivar held: pieces that were not handed on.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(daemon=True)
        address = urlsplit(upstream)
        self._upstream = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.stalls = threading.Event()
        self.held = threading.Event()

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        try:
            while piece := source.recv(65536):
                if asks and self.stalls.is_set():
                    self.held.set()
                    continue
                target.sendall(piece)
        except OSError:
            pass
        finally:
            target.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def staller(s3_endpoint: str) -> Iterator[Staller]:
    staller = Staller(s3_endpoint)
    staller.start()
    yield staller
    staller.close()


@pytest.mark.parametrize("ready", [False, True])
def test_a_store_that_does_not_answer_does_not_hold_up_the_end(
    bundle: Path, staller: Staller, s3_bucket: str, tmp_path: Path, ready: bool
) -> None:
    url = f"s3://{s3_bucket}/models"
    publish(url, bundle, "trails")
    if not ready:
        staller.stalls.set()
    server = ServerProcess(
        tmp_path, url, "trails", "--drain-seconds", 0, "--watch-interval", 0.2, AWS_ENDPOINT_URL=staller.url
    )
    try:
        if ready:
            server.wait_until_ready()
            staller.stalls.set()
        assert staller.held.wait(20)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SOON) == 0
    finally:
        server.stop()
    assert "Traceback" not in server.log


def test_a_signal_right_after_the_start(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for number in range(5):
        server = ServerProcess(tmp_path, tmp_path / "store", "trails", "--drain-seconds", 0)
        try:
            time.sleep(0.03 * number)
            server.process.send_signal(signal.SIGTERM if number % 2 else signal.SIGINT)
            assert server.process.wait(SOON) == 0, server.log
        finally:
            server.stop()
        assert "Traceback" not in server.log


def test_strict_ends_for_what_waiting_does_not_change() -> None:
    assert is_definite(NotFoundError("no such model"))
    assert is_definite(StoragePermissionError("access denied"))
    assert not is_definite(StorageError("cannot be reached"))


def test_metrics_tell_that_the_store_is_gone(bundle: Path, staller: Staller, s3_bucket: str, tmp_path: Path) -> None:
    """Started from the cache without a store: the recommended alerts can fire."""
    url = f"s3://{s3_bucket}/models"
    publish(url, bundle, "trails")
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    for environment in ({"AWS_ENDPOINT_URL": staller.url}, away):
        server = ServerProcess(tmp_path, url, "trails", "--drain-seconds", 0, "--watch-interval", 0.2, **environment)
        try:
            server.wait_until_ready()
            figures = server.http.get("/metrics").text
        finally:
            assert server.stop() == 0
        gone = environment is away
        assert f'retrainer_model_offline{{model="trails"}} {gone:d}.0' in figures
        assert 'retrainer_store_look_age_seconds{model="trails"} ' in figures
        assert 'retrainer_model_watching{model="trails"} 1.0' in figures
        failed = [line for line in figures.splitlines() if line.startswith("retrainer_model_failed_looks{")]
        assert (float(failed[0].rpartition(" ")[2]) > 0) == gone
