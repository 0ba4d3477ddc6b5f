"""Engines that run a step on another machine, each behind the same three calls.

Light: the library of an engine is loaded when one is connected to. Not here: following a job (``run/remote.py``), what
runs at its other end (``run/agent.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from retrainer.chain.jobs import Job, Phase
from retrainer.spec.resources import Resources

ACTIVE: frozenset[Phase] = frozenset({"waiting", "running"})


@dataclass(frozen=True, slots=True)
class JobState:
    """What an engine says of a job.

    :ivar why: in words for people: what it waits for, why it failed. May be empty.
    :ivar lingers: its training has ended or will not begin, and something of it is left: ``stop`` ends that. Until then
        the state stays the same, so that whoever follows the job notes its end first.
    """

    phase: Phase
    why: str = ""
    lingers: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it may still leave an artifact."""
        return self.phase in ACTIVE

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left that runs."""
        return not (self.is_active or self.lingers)


class Engine(Protocol):
    """Something that runs jobs. Each call ends within a minute, tries again what may pass, and may be repeated.

    All raise ``EngineUnavailable`` where the engine gives no answer in that time, and ``EngineError`` where it refuses.
    """

    def submit(self, job: Job) -> None:
        """Start it, unless a job of its name is there, whatever became of that."""

    def state(self, job: Job) -> JobState:
        """What became of it."""

    def stop(self, job: Job) -> None:
        """End it with all its processes, and return when they have ended or certainly will. Nothing if it is gone."""


# Each module has ``connect(resources, connection)``.
_MODULES = {
    "kubernetes": "retrainer.run.engines.kubernetes",
    "ray": "retrainer.run.engines.ray",
}


def connect(resources: Resources, connection: Any = None) -> Engine | None:
    """The engine that a pipeline names; ``None`` for this machine.

    :param connection: how it is reached, where whoever calls knows; of a kind that the engine's module says.
    :raises EngineError: it cannot be reached like that.
    :raises ResourceError: its library is not installed.
    """
    if resources.engine == "local":
        return None
    engine: Engine = import_module(_MODULES[resources.engine]).connect(resources, connection)
    return engine
