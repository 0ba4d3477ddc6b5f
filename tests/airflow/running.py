"""A real Airflow that tests drive over its REST API, the processes that it starts for a training, and its device."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from demo.airflow_server import AirflowServer
from demo.rest_client import RestClient
from tests.airflow.harness import Project


class Device:
    """A GPU that only ``nvidia-smi`` knows of, to be leased."""

    def __init__(self, folder: Path) -> None:
        self.name = f"GPU-{uuid.uuid4()}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        binary = folder / "bin" / "nvidia-smi"
        binary.parent.mkdir()
        binary.write_text(f'#!/bin/sh\necho "0, {self.name}"\n')
        binary.chmod(0o755)
        self.environment = {
            "PATH": f"{binary.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TMPDIR": str(self.temporary),
        }

    @property
    def lock(self) -> Path:
        return self.temporary / f"retrainer-devices-{os.getuid()}" / self.name

    def is_leased(self) -> bool:
        """Whether some process holds it open, which is how long a lease lasts."""
        held = self.lock.stat()
        for entry in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                found = entry.stat()
            except OSError:  # ended meanwhile, or another user's
                continue
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return True
        return False


class Running:
    """A server with a client that is logged in."""

    def __init__(self, server: AirflowServer, client: RestClient) -> None:
        self.server = server
        self.client = client

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
        """Wait for something true, and return it."""
        found: list[Any] = []

        def holds() -> bool:
            found[:] = [condition()]
            return bool(found[0])

        self.server.wait_for(holds, what, seconds=seconds)
        return found[0]

    def state(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        return {task.task_id: task.state for task in self.client.tasks(dag_id, run_id)}.get(task_id)

    def until_ended(self, dag_id: str, run_id: str, seconds: float = 300.0) -> dict[str, str | None]:
        ended = {"success", "failed"}
        self.until(lambda: self.client.run_state(dag_id, run_id) in ended, f"the run of {dag_id}", seconds)
        return {task.task_id: task.state for task in self.client.tasks(dag_id, run_id)}

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        return "\n".join(line.text for line in self.client.log(dag_id, run_id, task_id, try_number))


def approve(running: Running, dag_id: str, run_id: str, answer: str = "Approve", reason: str | None = None) -> str:
    """Answer the question of the run as the user would; what was shown to them."""
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approval/-1/hitlDetails"
    # Airflow loses an answer that comes while the asking task's process has not ended, as no person's would.
    asked = re.compile(rf"TaskInstance Finished: .*task_id=approval, run_id={re.escape(run_id)},.*awaiting_input")
    log = running.server.home / "scheduler.log"
    running.until(lambda: asked.search(log.read_text()), "the approval to ask", 400)
    assert running.state(dag_id, run_id, "approval") == "awaiting_input"
    shown = running.client.get(path)
    running.client.patch(path, {"chosen_options": [answer], "params_input": {"reason": reason}})
    return str(shown["body"])


def checkpoints(project: Project) -> list[int]:
    """The steps of which a complete checkpoint lies in the work folder."""
    markers = (project.artifacts / ".work" / "train").glob("*/checkpoint-*/retrainer_complete.json")
    return sorted(int(marker.parent.name.rpartition("-")[2]) for marker in markers)


def step_processes(server: AirflowServer, step: str) -> list[int]:
    """The processes of a step that run now, of all runs."""
    found = []
    for process in server.processes():
        with suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            # The guard is a fork of the step with the same command line; the step leads the group.
            if b"retrainer.work" in command and step.encode() in command and os.getpgid(process) == process:
                found.append(process)
    return found


def step_process(server: AirflowServer, step: str) -> int | None:
    """The process of a step that runs now."""
    return next(iter(step_processes(server, step)), None)


def parent_of(process: int) -> int:
    stat = Path(f"/proc/{process}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def group(leader: int) -> list[int]:
    """The processes of a step's group that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found
