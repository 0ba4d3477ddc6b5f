"""Start the processes of later steps while one runs, so that they have loaded their libraries when they are asked for.

Importing what a step needs takes one core seconds; tracing a graph or loading a trainer leaves the other one idle.
``Step.loads_beside`` says beside which step there is time for it. Not here: the process itself (``interpreters.py``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from retrainer.chain import Stage, step_named
from retrainer.errors import RetrainerError
from retrainer.run.devices import HIDDEN
from retrainer.run.interpreters import Interpreter
from retrainer.spec.model import Pipeline


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
        self._waiting: dict[str, Interpreter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as stack:
            for interpreter in self._waiting.values():
                stack.push(interpreter)
            self._waiting.clear()

    def start_beside(self, stage: Stage) -> None:
        """Start what may load while a stage works, one after another in the order in which they will be asked for."""
        turn = -1
        try:
            for step in self._beside(stage):
                ready = self._start(step, turn)
                if turn >= 0:
                    os.close(turn)
                turn = ready
        except (OSError, RetrainerError):  # too many files or processes, a full disk: told when the step is due
            return
        finally:
            if turn >= 0:
                os.close(turn)

    def _beside(self, stage: Stage) -> list[str]:
        """The steps after a stage that load beside it, and for which none waits yet."""
        names = []
        for later in self._stages[self._stages.index(stage) + 1 :]:
            if later.step.name == stage.step.name:
                break  # it comes once more, and is nearer to what follows then
            if later.step.loads_beside == stage.step.name and self._has_no_devices(later.step.name):
                names.append(later.step.name)
        return [name for name in names if name not in self._waiting]

    def _has_no_devices(self, name: str) -> bool:
        """Whether its process needs nothing that is given to a process at its start, or to several at once."""
        resources = self._pipeline.resources
        return not step_named(name).takes_resources or (not resources.gpus and resources.processes == 1)

    def _start(self, name: str, turn: int) -> int:
        """Start one process.

        :param turn: descriptor of a pipe that closes when it may begin to load; -1 for at once.
        :return: the same for the process after it.
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
        self._waiting[name] = interpreter
        return after

    def take(self, name: str) -> Interpreter | None:
        """The process that waits for the request of a step, if there is one and it lives; it is the caller's to end."""
        interpreter = self._waiting.pop(name, None)
        if interpreter is not None and interpreter.process.poll() is not None:
            with interpreter:
                return None
        return interpreter
