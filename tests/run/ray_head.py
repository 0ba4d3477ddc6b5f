"""A server that speaks the three calls of Ray's Jobs API as Ray 2.60 does, and fails at the calls that it is told.

Its jobs are processes of this host that run what an agent runs, without Ray.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

CALLS = ("submit", "state", "stop")
# What happens, and whether the call has had its effect before.
FAULTS = ("500", "503", "429", "404", "410", "html", "timeout", "cut", "half")
SILENT_SECONDS = 1.5

_EXISTS = """Traceback (most recent call last):
  File "job_head.py", line 1, in submit_job
RuntimeError: Request failed with status code 400: Traceback (most recent call last):
ValueError: Job with submission_id {name} already exists. Please use a different submission_id.
."""


class RayHead:
    """The server. A context manager.

    :param runs: whether jobs are run; else their state is what a test sets.
    :ivar faults: for each call what happens at the next ones, ``"cut"`` or ``"cut after"``; ``""`` for nothing.
    :ivar jobs: by name, what was handed in, with its ``status``.
    """

    def __init__(self, *, runs: bool = False, token: str | None = None) -> None:
        self.faults: dict[str, deque[str]] = {call: deque() for call in CALLS}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.started = 0
        self._runs = runs
        self._token = token
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        head = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                head._answer(self, "stop" if self.path.endswith("/stop") else "submit", body)

            def do_GET(self) -> None:
                head._answer(self, "state", b"")

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._open = ExitStack()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._open.callback(self._server.server_close)
        self._open.callback(self._server.shutdown)
        self._open.callback(self._end_all)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _end_all(self) -> None:
        for name in self._processes:
            self._end(name, signal.SIGKILL)

    def _answer(self, handler: BaseHTTPRequestHandler, call: str, body: bytes) -> None:
        self.asked.append((call, dict(handler.headers)))
        if self._token is not None and handler.headers.get("Authorization") != f"Bearer {self._token}":
            _send(handler, 401, "Unauthorized: Missing authentication token")
            return
        with self._lock:
            fault, _, when = (self.faults[call].popleft() if self.faults[call] else "").partition(" ")
            status, text = (0, "") if fault and not when else self._act(call, handler.path, body)
        match fault:
            case "":
                _send(handler, status, text)
            case "html":
                _send(handler, 200, "<html>the dashboard is starting</html>")
            case "timeout":
                time.sleep(SILENT_SECONDS)
                handler.close_connection = True
            case "cut":
                handler.close_connection = True
            case "half":
                handler.send_response(status or 200)
                handler.send_header("Content-Length", str(len(text) + 10))
                handler.end_headers()
                handler.wfile.write(text.encode())
                handler.close_connection = True
            case "lost":
                _send(handler, 404, f"Cannot {handler.command} {handler.path}")
            case _:
                _send(handler, int(fault), "<html>no server is available to handle this request</html>")

    def _act(self, call: str, path: str, body: bytes) -> tuple[int, str]:
        if call == "submit":
            return self._submit(json.loads(body))
        name = path.removeprefix("/api/jobs/").removesuffix("/stop")
        if name not in self.jobs:
            return 404, f"Job {name} does not exist"
        self._look(name)
        if call == "state":
            return 200, json.dumps(self.jobs[name])
        running = self.jobs[name]["status"] in {"PENDING", "RUNNING"}
        if running:
            self._end(name, signal.SIGTERM)
            self.jobs[name]["status"] = "STOPPED"
        return 200, json.dumps({"stopped": running})

    def _submit(self, job: dict[str, Any]) -> tuple[int, str]:
        name = job["submission_id"]
        if name in self.jobs:
            return 500, _EXISTS.format(name=name)
        self.started += 1
        self.jobs[name] = {**job, "status": "PENDING", "message": "Job has not started yet.", "type": "SUBMISSION"}
        if self._runs:
            *_, folder = shlex.split(job["entrypoint"])
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "retrainer.run.agent", folder],
                env={**os.environ, **job["runtime_env"]["env_vars"]},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return 200, json.dumps({"job_id": name, "submission_id": name})

    def _look(self, name: str) -> None:
        process = self._processes.get(name)
        if process is None or self.jobs[name]["status"] == "STOPPED":
            return
        code = process.poll()
        status = "RUNNING" if code is None else "FAILED" if code else "SUCCEEDED"
        message = f"Job entrypoint command failed with exit code {code}" if code else ""
        self.jobs[name] |= {"status": status, "message": message}

    def _end(self, name: str, number: signal.Signals) -> None:
        process = self._processes.get(name)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            process.wait()


def _send(handler: BaseHTTPRequestHandler, status: int, text: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(text.encode())))
    handler.end_headers()
    with suppress(OSError):  # who asked has given up
        handler.wfile.write(text.encode())
