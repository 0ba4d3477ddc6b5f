"""A real ``retrainer serve`` process for tests, and a store with a model of texts and one of pairs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from retrainer.store import Manifest, Store
from tests.serve.conftest import manifest_of


class ServerProcess:
    """``retrainer serve`` with these arguments, on a free port unless one is given.

    :ivar url: where it serves.
    :ivar output: what it printed before it served.
    :ivar http: a client of it, with one keep-alive connection.
    """

    def __init__(self, folder: Path, store: Path | str, *arguments: object, **environment: str) -> None:
        self._log = folder / "server.log"
        command = [sys.executable, "-m", "retrainer.cli", "serve", str(store), *map(str, arguments)]
        if "--port" not in command:
            command += ["--port", "0"]
        if "--cache-dir" not in command:
            command += ["--cache-dir", str(folder / "cache")]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environment}
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout.readline()
        found = re.search(r" at (http://\S+:(\d+))", self.output)
        assert found is not None, f"did not start: {self.output}\n{self.log}"
        self.url, self.port = found[1], int(found[2])
        self.http = httpx.Client(base_url=self.url, timeout=30)

    @property
    def log(self) -> str:
        """What it logged so far."""
        return self._log.read_text()

    @property
    def example(self) -> str:
        """How the first model is asked; waits until it is ready."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def wait_until(self, condition: str, path: str = "/readyz", **headers: str) -> httpx.Response:
        """Ask until the answer's text contains that.

        :raises TimeoutError: it does not.
        """
        answer = None
        for _ in range(1500):
            answer = self.http.get(path, headers=headers)
            if condition in answer.text:
                return answer
            time.sleep(0.02)
        raise TimeoutError(f"{answer.text if answer else ''}\n{self.log}")

    def wait_until_ready(self) -> None:
        self.wait_until('"ready":true')

    def wait_until_logged(self, text: str) -> None:
        for _ in range(1500):
            if text in self.log:
                return
            time.sleep(0.02)
        raise TimeoutError(self.log)

    def predict(self, model: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/v1/models/{model}:predict", json=body)

    def stop(self) -> int:
        """End it if it runs, as a person would. Its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


def manifest(bundle: Path, model: str, accuracy: float = 0.9) -> Manifest:
    return manifest_of(bundle, accuracy=accuracy).model_copy(update={"model": model})


def publish(store: Path | str, bundle: Path, model: str, *, accuracy: float = 0.9, channel: str = "production") -> str:
    """Publish a bundle; another accuracy makes another version."""
    found = Store.open(store).model(model)
    before = found.champion(channel)
    return found.publish(
        bundle,
        manifest(bundle, model, accuracy),
        channel=channel,
        actor="test",
        reason="a test",
        decision=None,
        expected=before.version if before else None,
    ).version
