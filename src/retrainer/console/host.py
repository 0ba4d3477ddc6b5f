"""What the console asks of whatever it runs in, and the records that it gets. Airflow is one such host.

Not here: any of the answers (``retrainer.airflow.console``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from retrainer.chain.trial import Trial, Tried
from retrainer.spec import Pipeline

MOST_QUESTIONS = 500
"""That wait for a person and are shown; a host gives one more where there are more."""


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


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said, or what was taken for it when the time was over.

    :ivar by: ``None`` where nobody answered.
    """

    options: tuple[str, ...]
    at: datetime
    by: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """What a task asks a person.

    :ivar until: when it is too late to answer; ``None`` where that never is.
    :ivar people: names of those who are asked; ``ids`` as the host knows them. Empty for everybody who may.
    :ivar gate: what the gate said of it, as in the event of the decision; empty where that is not known.
    """

    dag_id: str
    run_id: str
    task_id: str
    subject: str
    since: datetime
    until: datetime | None = None
    people: tuple[str, ...] = ()
    ids: frozenset[str] = frozenset()
    answer: Answer | None = None
    gate: Mapping[str, Any] = field(default_factory=dict)
    map_index: int = -1


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """A task of a run.

    :ivar name: in the host's UI.
    :ivar state: as Airflow calls it; ``None`` before anything is known.
    :ivar tries: how often it was started.
    :ivar pool: where it waits for a place.
    :ivar returned: its reference to what the step left, or what else it gave.
    :ivar kept: what it left while it ran: ``progress``, ``checkpoint``, ``run_folder``, ``problem``.
    """

    task_id: str
    name: str
    state: str | None
    map_index: int = -1
    tries: int = 0
    began: datetime | None = None
    ended: datetime | None = None
    pool: str = ""
    returned: Any = None
    kept: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run and its tasks, in the order in which they began.

    :ivar by: who started it; ``None`` where nobody did.
    :ivar conf: what it was asked.
    """

    dag_id: str
    run_id: str
    state: str
    kind: str = "manual"
    by: str | None = None
    note: str | None = None
    queued: datetime | None = None
    began: datetime | None = None
    ended: datetime | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[TaskSeen, ...] = ()
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class Mover:
    """The DAG that moves channels.

    :ivar models: that it can move.
    :ivar problem: why it moves nothing, in words.
    """

    dag_id: str
    models: frozenset[str] = frozenset()
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """With what a visitor came, to be shown once more to the host's own API in their name.

    :ivar headers: of the request: who asks and from where.
    :ivar address: of the visitor, and the port, for the host's log.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    address: tuple[str, int] = ("", 0)


class Visitor(Protocol):
    """Who asks for a page, as the host's authentication knows them."""

    def readable(self, dag_ids: Collection[str]) -> set[str]:
        """Those DAGs of these that they may read: of the others no model is shown."""

    def may_read_texts(self, dag_id: str) -> bool:
        """Whether they may see texts of rows, and what else only logs say."""

    def may_start(self, dag_id: str) -> bool:
        """Whether they may start a run of that DAG."""

    def may_answer(self, questions: Sequence[Question]) -> Sequence[bool]:
        """Of each whether they may answer it, and are one of those who are asked."""


class Host(Protocol):
    """The deployment."""

    def catalogue(self) -> Catalogue:
        """Its pipelines, as they are now."""

    def runs(self, dag_ids: Sequence[str]) -> Mapping[str, Runs]:
        """How the runs of these DAGs stand; those that are not known are left out."""

    def reaching_stores(self) -> AbstractContextManager[None]:
        """How buckets are reached, for the block.

        :raises RetrainerError: that is not known.
        """

    def dag_address(self, dag_id: str, run_id: str | None = None, task_id: str | None = None) -> str | None:
        """Where the host shows a DAG, one of its runs or a task of that; ``None`` where it does not."""

    def question_address(self, question: Question) -> str | None:
        """Where the host takes the answer; ``None`` where it does not."""

    def questions(self, dag_ids: Collection[str]) -> Sequence[Question]:
        """What waits for a person in runs of these DAGs, the oldest first, up to one more than ``MOST_QUESTIONS``.

        As cheap for many DAGs as for one.
        """

    def run(self, dag_id: str, run_id: str) -> RunSeen | None:
        """A run as it stands; ``None`` where there is none."""

    def mover(self) -> Mover:
        """The DAG that moves channels."""

    async def start(self, credentials: Credentials, dag_id: str, conf: Mapping[str, Any], note: str) -> str:
        """Start a run in the visitor's name, by the host's own rules; its id.

        :raises NotAllowed: they may not.
        :raises UserError: the DAG does not take such a ``conf``, or no runs at present.
        """

    def origins(self) -> Collection[str]:
        """Where the host's own pages come from, as browsers name it: ``https://airflow.example.com``."""

    def trials(self) -> Trials | None:
        """Who answers a text on trial; ``None`` where that is not switched on."""


class Trials(Protocol):
    """Asks versions, apart from this process."""

    def ask(self, trial: Trial) -> Tried:
        """The answer of a version to one text.

        :raises Busy: another text is being answered, or there is no memory for it.
        :raises RetrainerError: what came in between.
        """


@dataclass(frozen=True, slots=True)
class Everybody:
    """A visitor who may read all; for tests, benchmarks and hosts without users."""

    texts: bool = True
    hidden: frozenset[str] = field(default_factory=frozenset)
    starts: bool = True

    def readable(self, dag_ids: Collection[str]) -> set[str]:
        """All but those that are hidden."""
        return set(dag_ids) - self.hidden

    def may_read_texts(self, dag_id: str) -> bool:
        """As it was made."""
        return self.texts

    def may_start(self, dag_id: str) -> bool:
        """As it was made."""
        return self.starts

    def may_answer(self, questions: Sequence[Question]) -> Sequence[bool]:
        """Whoever may start something."""
        return [self.starts] * len(questions)
