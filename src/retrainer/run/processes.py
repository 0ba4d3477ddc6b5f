"""Start a step's process, relay what it says, and leave nothing of it behind.

The process is ``python -m retrainer.work STEP REQUEST.json`` in a session of its own. It ends with its parent,
however the parent ends: a guard process beside it (``work/guard.py``) watches both and kills the whole group.
Not here: what to run (``chain/``) and what it does (``work/``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from retrainer.artifacts.locks import Say
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepRef, StepRequest, step_named
from retrainer.chain.messages import Done, Failed, Log, Message, parse_message
from retrainer.chain.model_store import variables_with_keys
from retrainer.errors import ResourceError, StepError, StepKilled
from retrainer.run.devices import lease
from retrainer.run.folders import RunFolder
from retrainer.storage.errors import filesystem_errors

POLL_SECONDS = 0.1
GRACE_SECONDS = 2.0
# Lines of the log that an error quotes when the process ended without a word.
TAIL_LINES = 15

# Threads of torch that wait for each other by spinning take the core from whoever they wait for: on two cores shared
# with Airflow's own processes training took four times as long, and four times the CPU time.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}

OnMessage = Callable[[Message], None]


def run_step(
    request: StepRequest | StepRef,
    *,
    on_message: OnMessage,
    python: str | None = None,
    started: Callable[[StepProcess], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> StepRef:
    """Run a step unless its artifact is there already.

    :param request: what a planner of the chain returned; a reference passes through.
    :param on_message: called in this thread with each message of the process.
    :param python: interpreter that has the training libraries; this one by default.
    :param started: is given the process before it is waited for, so that a signal handler can end it.
    :param environment: variables of the process beside this one's own, such as credentials. They stand nowhere else:
        not in its request, its arguments or its log.
    :raises RetrainerError: the error that the step raised, of the same class.
    :raises StepKilled: the process was ended from outside.
    """
    if isinstance(request, StepRef):
        return request
    artifacts = Artifacts(request.root)
    run_folder = RunFolder(artifacts, request)
    manifest = artifacts.find(request.step, request.digest)
    reused = manifest is not None
    if not reused:
        with StepProcess(
            request,
            log_file=run_folder.log_file,
            python=python,
            environment=environment,
            say=lambda line: on_message(Log(text=line)),
        ) as process:
            if started is not None:
                started(process)
            for message in process.follow():
                on_message(message)
        manifest = artifacts.get(request.step, request.digest)
    assert manifest is not None
    ref = step_named(request.step).reference(manifest, request, reused=reused)
    run_folder.record(ref)
    return ref


class StepProcess:
    """One step's process. A context manager: leaving it ends the process and all it started.

    :param log_file: where the process's own output goes.
    :param python: interpreter; this one by default.
    :param environment: variables beside this process's own.
    :param say: is told what is waited for before the process can start.
    """

    def __init__(
        self,
        request: StepRequest,
        *,
        log_file: Path,
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        say: Say = lambda line: None,
    ) -> None:
        self.request = request
        self._say = say
        self.log_file = log_file
        self._python = python or sys.executable
        self._given = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._terminated = False
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            with filesystem_errors(tempfile.gettempdir()):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrainer-")))
                request_file = folder / "request.json"
                request_file.write_bytes(self.request.to_json())
                self._messages = folder / "messages.jsonl"
                self._messages.touch()
            wanted = self._devices_wanted()
            devices = stack.enter_context(lease(wanted, holder=self.request.holder, say=self._say))
            with filesystem_errors(str(self.log_file)):
                self.log_file.parent.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context(self.log_file.open("ab"))
            environment = {
                **THREADS,
                **self._inherited(),
                **self._given,
                **devices.environment,
                "RETRAINER_MESSAGES": str(self._messages),
                "RETRAINER_PARENT": str(os.getpid()),
                "PYTHONUNBUFFERED": "1",
                "TOKENIZERS_PARALLELISM": "false",
            }
            self._process = self._spawn(request_file, log.fileno(), environment, devices.descriptors)
            stack.callback(self.terminate)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _inherited(self) -> dict[str, str]:
        """This process's variables; without a private key, for every step but the one that signs."""
        if step_named(self.request.step).signs:
            return dict(os.environ)
        private = variables_with_keys(self.request.pipeline.publish)
        return {name: value for name, value in os.environ.items() if name not in private}

    def _devices_wanted(self) -> int:
        return self.request.pipeline.resources.gpus if step_named(self.request.step).takes_resources else 0

    def _spawn(
        self, request_file: Path, log: int, environment: dict[str, str], descriptors: tuple[int, ...]
    ) -> subprocess.Popen[bytes]:
        command = [self._python, "-m", "retrainer.work", self.request.step, str(request_file)]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=descriptors,
            )
        except OSError as error:
            raise ResourceError(
                f"cannot start the interpreter: {error.strerror}",
                where=self._python,
                hint="set trainer_python to a Python that has airflow-retrainer[train]",
            ) from None

    @property
    def pid(self) -> int:
        """Process id, also the id of its group and session."""
        assert self._process is not None, "the process is started by entering the context"
        return self._process.pid

    def follow(self) -> Iterator[Message]:
        """Yield messages until the process ends.

        :raises RetrainerError: the error that the process reported, of the same class.
        :raises StepKilled: it was ended by a signal.
        :raises StepError: it ended without a word.
        """
        assert self._process is not None, "the process is started by entering the context"
        parent = os.getppid()
        failure: Failed | None = None
        finished = False
        with self._messages.open("rb") as stream:
            pending = b""
            while True:
                ended = self._process.poll() is not None
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
                time.sleep(POLL_SECONDS)
        self._raise_for(failure, finished)

    def _raise_for(self, failure: Failed | None, finished: bool) -> None:
        assert self._process is not None
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
        if code != 0 or not finished:
            raise StepError(
                f"the {step} process ended with exit code {code}:\n{self._tail()}", where=str(self.log_file)
            )

    def _tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def terminate(self, grace: float = GRACE_SECONDS) -> None:
        """End the process and all it started: SIGTERM, then SIGKILL after ``grace`` seconds. Safe to call twice."""
        if self._process is None or self._process.poll() is not None:
            return
        self._terminated = True
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _parse(line: bytes) -> Message:
    try:
        return parse_message(line)
    except ValidationError:
        return Log(level="warning", text=f"unreadable message from the step: {line[:200]!r}")
