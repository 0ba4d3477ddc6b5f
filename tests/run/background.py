"""An engine for tests: each job is a process of this machine that outlives whoever started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from retrainer.chain.jobs import Job
from retrainer.run.engines import JobState


class Background:
    """Starts the command of a job in a session of its own, and finds it again by its name.

    :param folder: what is known of jobs; two engines of one folder are the same one.
    :param python: interpreter of the jobs.
    """

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self._folder = folder
        self._python = python
        self.submitted = 0
        folder.mkdir(exist_ok=True)

    def submit(self, job: Job) -> None:
        self.submitted += 1
        try:
            (self._folder / job.name).mkdir()
        except FileExistsError:
            return
        with (self._folder / job.name / "log").open("wb") as log:
            # A shell that notes the exit code, for this process may be gone by then.
            process = subprocess.Popen(
                ["sh", "-c", f'"$@"; echo $? > {self._folder / job.name / "code"}', "sh", *job.command(self._python)],
                env={**os.environ, **job.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self._folder / job.name / "pid").write_text(str(process.pid))

    def state(self, job: Job) -> JobState:
        code = self._folder / job.name / "code"
        if not code.parent.exists():
            return JobState("gone")
        if not code.exists() or not code.read_text():
            return JobState("running")
        number = int(code.read_text())
        return JobState("succeeded") if number == 0 else JobState("failed", f"exit code {number}")

    def stop(self, job: Job) -> None:
        with suppress(ProcessLookupError, FileNotFoundError):
            os.killpg(self.pid(job), signal.SIGTERM)
            (self._folder / job.name / "code").write_text("143")

    def kill(self, job: Job) -> None:
        """As the death of its host does."""
        os.killpg(self.pid(job), signal.SIGKILL)
        (self._folder / job.name / "code").write_text("137")

    def vanish(self, job: Job) -> None:
        """As if it had never been there."""
        os.killpg(self.pid(job), signal.SIGKILL)
        (self._folder / job.name).rename(self._folder / f"gone-{job.name}")

    def pid(self, job: Job) -> int:
        return int((self._folder / job.name / "pid").read_text())
