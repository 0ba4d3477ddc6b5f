"""Run a step in a process of its own, relay what it says, and leave nothing of it behind.

Not here: how the process is started (``interpreters.py``), what to run (``chain/``) and what it does (``work/``).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from retrainer.artifacts.locks import Say
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepRef, StepRequest, step_named
from retrainer.chain.messages import Done, Failed, Log, Message, parse_message
from retrainer.errors import StepError, StepKilled
from retrainer.run.ahead import Ahead
from retrainer.run.devices import lease
from retrainer.run.folders import RunFolder
from retrainer.run.interpreters import GRACE_SECONDS, Interpreter
from retrainer.storage.errors import filesystem_errors

POLL_SECONDS = 0.1
# Lines of the log that an error quotes when the process ended without a word.
TAIL_LINES = 15

OnMessage = Callable[[Message], None]


def run_step(
    request: StepRequest | StepRef,
    *,
    on_message: OnMessage,
    python: str | None = None,
    started: Callable[[StepProcess], None] | None = None,
    environment: Mapping[str, str] | None = None,
    ahead: Ahead | None = None,
) -> StepRef:
    """Run a step unless its artifact is there already.

    :param request: what a planner of the chain returned; a reference passes through.
    :param on_message: called in this thread with each message of the process.
    :param python: interpreter that has the training libraries; this one by default.
    :param started: is given the process before it is waited for, so that a signal handler can end it.
    :param environment: variables of the process beside this one's own, such as credentials. They stand nowhere else:
        not in its request, its arguments or its log.
    :param ahead: what waits for its request; without ``environment``, which cannot be given to it any more.
    :raises RetrainerError: the error that the step raised, of the same class.
    :raises StepKilled: the process was ended from outside.
    """
    if isinstance(request, StepRef):
        return request
    artifacts = Artifacts(request.root)
    reused = artifacts.find(request.step, request.digest) is not None
    if not reused:
        with StepProcess(
            request,
            log_file=RunFolder(artifacts, request).log_file,
            python=python,
            environment=environment,
            say=lambda line: on_message(Log(text=line)),
            waiting=ahead.take(request.step) if ahead is not None and not environment else None,
        ) as process:
            if started is not None:
                started(process)
            for message in process.follow():
                on_message(message)
    return reference_to(request, reused=reused)


def reference_to(request: StepRequest, *, reused: bool) -> StepRef:
    """The reference to the artifact of a request, which is noted in the run's folder, too.

    :param reused: nothing ran for it.
    :raises ArtifactError: it is not there.
    """
    artifacts = Artifacts(request.root)
    manifest = artifacts.get(request.step, request.digest)
    ref = step_named(request.step).reference(manifest, request, reused=reused)
    RunFolder(artifacts, request).record(ref)
    return ref


class StepProcess:
    """One step's process. A context manager: leaving it ends the process and all it started.

    :param log_file: where the process's own output goes.
    :param python: interpreter; this one by default.
    :param environment: variables beside this process's own.
    :param say: is told what is waited for before the process can start.
    :param waiting: a process of this step that was started ahead, to be asked instead of starting one.
    :param gpus: that it leases; by default those of a host.
    :param helps: it is one of several, of which another one makes the artifact and says so.
    """

    def __init__(
        self,
        request: StepRequest,
        *,
        log_file: Path,
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        say: Say = lambda line: None,
        waiting: Interpreter | None = None,
        gpus: int | None = None,
        helps: bool = False,
    ) -> None:
        self.request = request
        self._say = say
        self.log_file = log_file
        self._python = python
        self._given = dict(environment or {})
        self._waiting = waiting
        self._gpus = request.pipeline.resources.gpus_of_a_node if gpus is None else gpus
        self._helps = helps
        self._interpreter: Interpreter | None = None
        self._terminated = False
        self._open = ExitStack()

    def __enter__(self) -> Self:
        step = step_named(self.request.step)
        wanted = self._gpus if step.takes_resources else 0
        with ExitStack() as stack:
            if self._waiting is not None:
                stack.push(self._waiting)
            devices = stack.enter_context(lease(wanted, holder=self.request.holder, say=self._say))
            with filesystem_errors(str(self.log_file)):
                self.log_file.parent.mkdir(parents=True, exist_ok=True)
            if self._waiting is not None:
                self._interpreter = self._waiting
                self._interpreter.ask(self.request, self.log_file)
            else:
                self._interpreter = stack.enter_context(Interpreter(step.name, self._python))
                self._interpreter.start(self.request, self.log_file, given=self._given, devices=devices)
            stack.callback(self.terminate)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    @property
    def pid(self) -> int:
        """Process id, also the id of its group and session."""
        return self._process.pid

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._interpreter is not None, "the process is started by entering the context"
        return self._interpreter.process

    def follow(self) -> Iterator[Message]:
        """Yield messages until the process ends.

        :raises RetrainerError: the error that the process reported, of the same class.
        :raises StepKilled: it was ended by a signal.
        :raises StepError: it ended without a word.
        """
        process = self._process
        assert self._interpreter is not None
        parent = os.getppid()
        failure: Failed | None = None
        finished = False
        with self._interpreter.messages.open("rb") as stream:
            pending = b""
            while True:
                ended = process.poll() is not None
                pending += stream.read()
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    message = _parse(line)
                    if isinstance(message, Failed):
                        failure = failure or message  # what failed first explains what failed after it
                    elif isinstance(message, Done):
                        finished = True
                    yield message
                if ended:
                    break
                if os.getppid() != parent:
                    self.terminate()
                    raise StepKilled("the process that started this task is gone; training was stopped")
                _await_end(process.pid)
        self._interpreter.keep_output(self.log_file)
        self._raise_for(failure, finished)

    def _raise_for(self, failure: Failed | None, finished: bool) -> None:
        code = self._process.returncode
        step = self.request.step
        if failure is not None:
            raise failure.as_error()
        if self._terminated or code < 0:
            name = signal.Signals(-code).name if code < 0 else "a request"
            raise StepKilled(
                f"the {step} process was ended by {name}",
                where=str(self.log_file),
                hint="out of memory, if nobody stopped it"
                if code == -signal.SIGKILL and not self._terminated
                else None,
            )
        if code != 0 or not (finished or self._helps):
            raise StepError(
                f"the {step} process ended with exit code {code}:\n{self._tail()}", where=str(self.log_file)
            )

    def _tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def terminate(self, grace: float = GRACE_SECONDS) -> None:
        """End the process and all it started: SIGTERM, then SIGKILL after ``grace`` seconds. Safe to call twice."""
        if self._interpreter is not None and self._process.poll() is None:
            self._terminated = True
            self._interpreter.end(grace)


def _await_end(pid: int) -> None:
    """Wait for the end of a process, or a short while. Without the lock of ``Popen.wait``, which a handler of a signal
    that ends the process could then never get.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(POLL_SECONDS * 1000)
    finally:
        os.close(descriptor)


def _parse(line: bytes) -> Message:
    try:
        return parse_message(line)
    except ValidationError:
        return Log(level="warning", text=f"unreadable message from the step: {line[:200]!r}")
