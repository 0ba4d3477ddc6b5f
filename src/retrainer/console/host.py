"""What the console asks of whatever it runs in, and the records that it gets. Airflow is one such host.

Not here: any of the answers (``retrainer.airflow.console``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from retrainer.spec import Pipeline


@dataclass(frozen=True, slots=True)
class Shown:
    """A pipeline whose model is shown.

    :ivar dag_id: of the DAG that retrains it: who may read that may see the model.
    """

    pipeline: Pipeline
    dag_id: str

    @property
    def name(self) -> str:
        """Of the model."""
        return self.pipeline.name

    @property
    def store(self) -> str:
        """Its address."""
        return self.pipeline.publish.store


@dataclass(frozen=True, slots=True)
class Broken:
    """A pipeline file that cannot be read."""

    file: str
    problem: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The pipelines of a deployment.

    :ivar root: of the artifacts.
    :ivar problem: why there are none, in words.
    """

    models: tuple[Shown, ...] = ()
    broken: tuple[Broken, ...] = ()
    root: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Runs:
    """How the runs of a pipeline stand.

    :ivar state: of the newest that ended: ``success``, ``failed``; ``None`` while none did.
    :ivar run_id: of that one; ``ended`` when.
    :ivar succeeded: when a run last succeeded.
    :ivar next_at: when the schedule starts the next one; ``None`` where nothing is scheduled.
    :ivar paused: nothing starts by itself.
    """

    state: str | None = None
    run_id: str | None = None
    ended: datetime | None = None
    succeeded: datetime | None = None
    next_at: datetime | None = None
    paused: bool = False


class Visitor(Protocol):
    """Who asks for a page, as the host's authentication knows them."""

    def readable(self, dag_ids: Collection[str]) -> set[str]:
        """Those DAGs of these that they may read: of the others no model is shown."""

    def may_read_texts(self, dag_id: str) -> bool:
        """Whether they may see texts of rows."""


class Host(Protocol):
    """The deployment."""

    def catalogue(self) -> Catalogue:
        """Its pipelines, as they are now."""

    def runs(self, dag_ids: Sequence[str]) -> Mapping[str, Runs]:
        """How the runs of these DAGs stand; those that are not known are left out."""

    def run_decisions(self, dag_id: str, run_id: str) -> Sequence[str]:
        """Digests of the decisions that a run came to, the newest first."""

    def reaching_stores(self) -> AbstractContextManager[None]:
        """How buckets are reached, for the block.

        :raises RetrainerError: that is not known.
        """

    def dag_address(self, dag_id: str, run_id: str | None = None) -> str | None:
        """Where the host shows a DAG or one of its runs; ``None`` where it does not."""


@dataclass(frozen=True, slots=True)
class Everybody:
    """A visitor who may read all; for tests, benchmarks and hosts without users."""

    texts: bool = True
    hidden: frozenset[str] = field(default_factory=frozenset)

    def readable(self, dag_ids: Collection[str]) -> set[str]:
        """All but those that are hidden."""
        return set(dag_ids) - self.hidden

    def may_read_texts(self, dag_id: str) -> bool:
        """As it was made."""
        return self.texts
