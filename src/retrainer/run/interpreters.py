"""Start the interpreter of a step: its command, its environment, its files, and its end.

The process is ``python -m retrainer.work STEP REQUEST.json`` in a session of its own. It ends with its parent,
however the parent ends: a guard process beside it (``work/guard.py``) watches both and kills the whole group.
Not here: what it says (``processes.py``), which are started ahead of their request (``ahead.py``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from retrainer.chain import StepRequest, step_named
from retrainer.chain.model_store import variables_with_keys
from retrainer.errors import ResourceError
from retrainer.run.devices import Lease
from retrainer.spec.publish import Publish
from retrainer.storage.errors import filesystem_errors

GRACE_SECONDS = 2.0

# Threads of torch that wait for each other by spinning take the core from whoever they wait for: on two cores shared
# with Airflow's own processes training took four times as long, and four times the CPU time.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


class Interpreter:
    """One process of a step. A context manager: leaving it ends the process and all it started.

    :param step: the step's name.
    :param python: interpreter that has the training libraries; this one by default.
    """

    def __init__(self, step: str, python: str | None = None) -> None:
        self.step = step
        self._python = python or sys.executable
        self._process: subprocess.Popen[bytes] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack, filesystem_errors(tempfile.gettempdir()):
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrainer-")))
            self.messages.touch()
            stack.callback(self.end)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    @property
    def messages(self) -> Path:
        """The file of what the process says."""
        return self._folder / "messages.jsonl"

    @property
    def _request(self) -> Path:
        return self._folder / "request.json"

    @property
    def _early(self) -> Path:
        """The output of a process that has no log yet."""
        return self._folder / "early.log"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, once it is started."""
        assert self._process is not None, "the process is started by start or start_ahead"
        return self._process

    def start(self, request: StepRequest, log_file: Path, *, given: Mapping[str, str], devices: Lease) -> None:
        """Start it with its request.

        :param log_file: where its own output goes.
        :param given: variables beside this process's own.
        :param devices: that it may use.
        :raises ResourceError: there is no such interpreter, or the disk is full.
        """
        self._write(request)
        environment = {**self._inherited(request.pipeline.publish), **given, **devices.environment}
        with filesystem_errors(str(log_file)):
            log = log_file.open("ab")
        with log:
            self._spawn((), environment, log.fileno(), devices.descriptors, stdin=subprocess.DEVNULL)

    def start_ahead(self, publish: Publish, *, devices: Lease, turn: int, ready: int) -> None:
        """Start it before there is a request; it loads its libraries, and waits for ``ask``.

        :param publish: of the pipeline that the request will be of.
        :param turn: descriptor of a pipe that closes when it may begin to load; -1 for at once.
        :param ready: descriptor of a pipe that it closes when it has loaded.
        """
        environment = {**self._inherited(publish), **devices.environment}
        pipes = (ready,) if turn < 0 else (turn, ready)
        with self._early.open("w+b") as log:  # which the process itself copies into its log
            self._spawn(("--ahead", str(turn), str(ready)), environment, log.fileno(), pipes, stdin=subprocess.PIPE)
        assert self.process.stdin is not None
        self._open.callback(self.process.stdin.close)

    def ask(self, request: StepRequest, log_file: Path) -> None:
        """Give a process that was started ahead its request.

        :param log_file: where its own output goes, also that from before, once it has loaded.
        :raises ResourceError: the disk is full.
        """
        self._write(request)
        with filesystem_errors(str(log_file)):
            log_file.touch()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError), self.process.stdin as stdin:  # it died, and is not waited for in vain
            stdin.write(os.fsencode(log_file.absolute()) + b"\n")

    def keep_output(self, log_file: Path) -> None:
        """Append what a process said that ended before it had a log of its own."""
        # Of a full disk the error of the step tells, if it has one; this output explains it at most.
        with suppress(OSError):
            if self._early.exists() and (said := self._early.read_bytes()):
                with log_file.open("ab") as log:
                    log.write(said)

    def _write(self, request: StepRequest) -> None:
        with filesystem_errors(tempfile.gettempdir()):
            self._request.write_bytes(request.to_json())

    def _inherited(self, publish: Publish) -> dict[str, str]:
        """This process's variables; without a private key, for every step but the one that signs."""
        private = frozenset() if step_named(self.step).signs else variables_with_keys(publish)
        return {**THREADS, **{name: value for name, value in os.environ.items() if name not in private}}

    def _spawn(
        self,
        options: tuple[str, ...],
        environment: Mapping[str, str],
        log: int,
        descriptors: tuple[int, ...],
        *,
        stdin: int,
    ) -> None:
        try:
            self._process = subprocess.Popen(
                [self._python, "-m", "retrainer.work", *options, self.step, str(self._request)],
                stdin=stdin,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **environment,
                    "RETRAINER_MESSAGES": str(self.messages),
                    "RETRAINER_PARENT": str(os.getpid()),
                    "PYTHONUNBUFFERED": "1",
                    "TOKENIZERS_PARALLELISM": "false",
                },
                start_new_session=True,
                pass_fds=descriptors,
            )
        except OSError as error:
            raise ResourceError(
                f"cannot start the interpreter: {error.strerror}",
                where=self._python,
                hint="set trainer_python to a Python that has airflow-retrainer[train]",
            ) from None

    def end(self, grace: float = GRACE_SECONDS) -> bool:
        """End the process and all it started: SIGTERM, then SIGKILL after ``grace`` seconds. Safe to call twice.

        :return: whether there was anything to end.
        """
        if self._process is None or self._process.poll() is not None:
            return False
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._signal(signal.SIGKILL)
        # Bounded: in a signal handler that interrupts a wait of this thread, nobody gets the lock that one holds.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        return True

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
