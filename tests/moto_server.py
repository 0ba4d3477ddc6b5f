"""An S3 server over HTTP for tests: moto's, in a process of its own, which honours conditional writes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

START_SECONDS = 60.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def moto_server(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Its endpoint; it ends with the block.

    :param environment: all variables of the server; by default those of this process.
    """
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        _wait_until_up(server, endpoint)
        yield endpoint
    finally:
        server.terminate()
        server.wait(10)


def _wait_until_up(server: subprocess.Popen[bytes], endpoint: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError("the S3 server did not start")
        with suppress(OSError):
            # Not of S3, so that it is no action that a server with users counts.
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).read()
            return
        time.sleep(0.05)
    raise RuntimeError("the S3 server does not answer")
