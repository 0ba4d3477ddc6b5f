"""Start the processes of later steps while one runs, so that they have loaded their libraries when they are asked for.

Importing what a step needs takes one core seconds; tracing a graph or loading a trainer leaves the other one idle.
``Step.loads_beside`` says beside which step there is time for it. Beside one that measures nothing loads, and where
memory is short nothing is started ahead. Not here: the process itself (``interpreters.py``).
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from retrainer.chain import Stage, step_named
from retrainer.chain.definition import Step
from retrainer.errors import RetrainerError
from retrainer.run.devices import HIDDEN
from retrainer.run.free_memory import available_bytes
from retrainer.run.interpreters import Interpreter
from retrainer.spec.model import Pipeline

# Of those that wait, one takes 0.2 to 0.55 GB, and what waits at once 0.9 GB. The rest is for the step that works.
LEAST_MEMORY = 4_000_000_000


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A process that waits.

    :param loaded: descriptor of a pipe that closes at its other end when the process has loaded, or is gone.
    """

    interpreter: Interpreter
    loaded: int

    def has_loaded(self) -> bool:
        poll = select.poll()
        poll.register(self.loaded, select.POLLIN)
        return bool(poll.poll(0))

    def end(self) -> None:
        os.close(self.loaded)
        with ExitStack() as stack:
            stack.push(self.interpreter)


class Ahead:
    """Processes that wait for their request. A context manager: leaving it ends those that were never asked.

    A run does not depend on them: one that cannot be started, or has died meanwhile, is started when its step is due.

    :param stages: that the run goes through, in order.
    :param python: interpreter that has the training libraries; this one by default.
    """

    def __init__(self, pipeline: Pipeline, stages: Sequence[Stage], python: str | None = None) -> None:
        self._pipeline = pipeline
        self._stages = stages
        self._python = python
        self._waiting: dict[str, _Waiting] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as stack:
            for waiting in self._waiting.values():
                stack.callback(waiting.end)
            self._waiting.clear()

    def start_beside(self, stage: Stage) -> None:
        """Start what may load while a stage works, one after another in the order in which they will be asked for."""
        names = self._beside(stage)
        if not names or available_bytes() < LEAST_MEMORY:
            return
        turn = -1
        try:
            for name in names:
                turn = self._start(name, turn)
        except (OSError, RetrainerError):  # too many files or processes, a full disk: told when the step is due
            return

    def _beside(self, stage: Stage) -> list[str]:
        """The steps after a stage that load beside it, and for which none waits yet."""
        names = []
        for later in self._stages[self._stages.index(stage) + 1 :]:
            if later.step.name == stage.step.name:
                break  # it comes once more, and is nearer to what follows then
            if later.step.loads_beside == stage.step.name and self._may_wait(later.step):
                names.append(later.step.name)
        return [name for name in names if name not in self._waiting]

    def _may_wait(self, step: Step[Any]) -> bool:
        """Whether its process needs nothing that is given to a process at its start, or to several at once.

        A private key is not given to one that waits: it would lie in the memory of an idle process for hours.
        """
        resources, publish = self._pipeline.resources, self._pipeline.publish
        if step.signs and publish.sign_with is not None:
            return False
        return not step.takes_resources or (
            resources.engine == "local" and not resources.gpus and resources.processes == 1
        )

    def _start(self, name: str, turn: int) -> int:
        """Start one process.

        :param turn: descriptor of a pipe that closes when it may begin to load; -1 for at once.
        :return: the same for the process after it; it is closed with this one.
        """
        after, ready = os.pipe()
        try:
            with ExitStack() as stack:
                interpreter = stack.enter_context(Interpreter(name, self._python))
                interpreter.start_ahead(self._pipeline.publish, devices=HIDDEN, turn=turn, ready=ready)
                stack.pop_all()
        except BaseException:
            os.close(after)
            raise
        finally:
            os.close(ready)
        self._waiting[name] = _Waiting(interpreter, after)
        return after

    def take(self, name: str) -> Interpreter | None:
        """The process that waits for the request of a step, if there is one and it lives; it is the caller's to end.

        If the step measures, others that have not loaded yet are ended: they would take a core from what is measured.
        """
        taken = self._waiting.pop(name, None)
        if step_named(name).measures:
            for other in [name for name, waiting in self._waiting.items() if not waiting.has_loaded()]:
                self._waiting.pop(other).end()
        if taken is None:
            return None
        if taken.interpreter.process.poll() is not None:
            taken.end()
            return None
        os.close(taken.loaded)
        return taken.interpreter
