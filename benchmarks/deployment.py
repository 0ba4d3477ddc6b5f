"""A deployment made to order, for looking at the console: pipelines, a store, artifacts, months of decisions and moves.

All of it comes from the store's, the ledger's and the gate's own code, with stored answers in place of training; only
the clock is told. Used by ``python -m benchmarks.console``, by the tests of the console and for its pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar, Self
from unittest import mock

import numpy as np
import yaml

from benchmarks.nights import CONTEXT, Ints, Nights
from benchmarks.snapshots import text_of, write_origin
from retrainer.artifacts.evaluation import DriftMeasure, ModelEvidence
from retrainer.artifacts.measures import Latency
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import split_file
from retrainer.console.host import Catalogue, Credentials, Mover, Question, Runs, RunSeen, Shown, Trials
from retrainer.gate.evidence import Evidence
from retrainer.gate.receipt import Receipt
from retrainer.spec import load_pipeline, pipeline_files
from retrainer.store import Cause, Store
from retrainer.work.flips import flips_of

ROWS = 1200
GATE: Mapping[str, Any] = {
    "floors": {"accuracy": 0.8},
    "against_champion": {"metric": "accuracy", "mode": "non_inferiority", "margin": 0.01},
    "slices": {"by": ["label"], "min_rows": 50, "max_drop": 0.02},
    "budgets": {"p95_latency_ms": 20, "size_mb": 120},
    "report_texts": True,
}


class Clock(datetime):
    """A clock that is told what time it is."""

    moment: ClassVar[datetime] = datetime(2026, 9, 1, 2, 0, tzinfo=UTC)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        """The time that it was told, a little later each time."""
        Clock.moment += timedelta(milliseconds=700)
        moment = Clock.moment.astimezone(tz)
        return cls.fromtimestamp(moment.timestamp(), tz)


@contextmanager
def at(moment: datetime) -> Iterator[None]:
    """Everything that is written in the block is written at that time."""
    Clock.moment = moment
    modules = ("moving", "ledger", "summary")
    patches = [mock.patch(f"retrainer.store.{module}.datetime", Clock) for module in modules]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


class History(Nights):
    """Nights that leave what the decide step leaves for people, but the report."""

    def __init__(self, folder: Path, name: str, gate: Mapping[str, Any], *, store: Path, root: str) -> None:
        self.name = name
        super().__init__(folder / "work" / name, ROWS, gate, root=root)
        self.store = store
        self.model = Store.open(store).model(name)
        self._origins: dict[str, dict[str, str]] = {}
        self._moment = datetime.now(UTC)

    def at(self, moment: datetime, name: str, wrong: int, *, seed: int, **more: Any) -> Receipt:
        """A night of that time.

        :param wrong: rows that the challenger has wrong; mostly the same ones for every seed.
        """
        rng = np.random.default_rng(seed)
        order = np.argsort(np.random.default_rng(0).random(ROWS) + 0.04 * rng.random(ROWS))
        self.context = CONTEXT.model_copy(
            update={"run_id": f"scheduled__{moment:%Y-%m-%dT%H:%M:%S}+00:00", "actor": f"airflow:retrain__{self.name}"}
        )
        self._moment = moment
        with at(moment):
            return self.night(f"{self.name}-{name}", np.sort(order[:wrong]), **more)

    def _columns(self, rows: Ints) -> dict[str, Any]:
        sources = np.array(["agency", "newspaper", "blog"])[(rows // 2) % 5 % 3]
        return {"characters": [len(text_of(row)) for row in rows.tolist()], "slice_source": sources}

    def _answers(self, folder: Path, role: str, export: str, rows: Ints) -> ModelEvidence:
        found = super()._answers(folder, role, export, rows)
        slower = int(export[:2], 16) / 256 if found.latency_ms is not None else None
        if slower is None:
            return found
        costs = {
            "latency_ms": Latency(p50=9.0 + slower, p95=11.5 + 2 * slower),
            "rows_per_second": 240.0 - 20 * slower,
            "peak_memory_mb": 410.0 + 30 * slower,
        }
        return found.model_copy(update=costs)

    def _made_of(self, name: str) -> dict[str, str]:
        if name not in self._origins:
            made = (self.name, len(self._origins), self.names, self.labels)
            self._origins[name] = write_origin(Artifacts(self.root), *made, self._moment - timedelta(minutes=40))
        return self._origins[name]

    def _write_papers(self, folder: Path, decision: str, evidence: Evidence, receipt: Receipt) -> None:
        snapshot = Artifacts(self.root).local / "ingest" / receipt.digests["ingest"]
        texts = split_file(snapshot, "test") if receipt.policy.report_texts else None
        if (flips := flips_of(evidence, texts)) is not None:
            flips.save(folder)
        (folder / "report.html").write_text(f"<!DOCTYPE html><title>Report</title><h1>{receipt.verdict}</h1>")


@dataclass
class Deployment:
    """Where everything is.

    :ivar now: when the last thing in it happened, about.
    """

    folder: Path
    now: datetime = datetime(2026, 11, 27, 9, 30, tzinfo=UTC)
    histories: dict[str, History] = field(default_factory=dict)

    @property
    def pipelines(self) -> Path:
        """The folder of the pipeline files."""
        return self.folder / "pipelines"

    @property
    def store(self) -> Path:
        """Of all models."""
        return self.folder / "store"

    @property
    def root(self) -> str:
        """Of the artifacts."""
        return str(self.folder / "artifacts")

    def add(self, name: str, gate: Mapping[str, Any] = GATE, **pipeline: Any) -> History:
        """A pipeline, nothing of which ran yet."""
        self.pipelines.mkdir(parents=True, exist_ok=True)
        content = {
            "name": name,
            "dataset": {"train": "rows.csv"},
            "model": {"base": "distilbert-base-uncased"},
            "metrics": ["accuracy"],
            "gate": dict(gate),
            "publish": {"store": str(self.store)},
            "schedule": {"cron": "@daily"},
            **pipeline,
        }
        (self.pipelines / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        made = self.histories[name] = History(self.folder, name, gate, store=self.store, root=self.root)
        return made


class FolderHost:
    """The deployment to the console, without Airflow.

    :param runs: of the DAGs.
    :ivar seen: its runs, by their ids.
    :ivar asked: what waits for a person.
    :ivar moving: the DAG that moves channels; one that knows all models.
    :ivar started: what was started, each with its ``conf``.
    :ivar answers: who answers texts on trial.
    """

    def __init__(self, deployment: Deployment, runs: Mapping[str, Runs] | None = None) -> None:
        self._deployment = deployment
        self._runs = runs or {}
        self.seen: dict[str, RunSeen] = {}
        self.asked: list[Question] = []
        self.moving: Mover | None = None
        self.started: list[tuple[str, Mapping[str, Any], str]] = []
        self.answers: Trials | None = None

    def catalogue(self) -> Catalogue:
        """Every pipeline of the folder; those that are wrong raise."""
        files = pipeline_files(self._deployment.pipelines)
        loaded = [load_pipeline(file) for file in files]
        models = tuple(Shown(pipeline, dag_id_of(pipeline.name)) for pipeline in loaded)
        return Catalogue(models, root=self._deployment.root)

    def runs(self, dag_ids: Sequence[str]) -> Mapping[str, Runs]:
        """As they were given."""
        return {dag_id: self._runs[dag_id] for dag_id in dag_ids if dag_id in self._runs}

    def questions(self, dag_ids: Collection[str]) -> Sequence[Question]:
        """As they were given."""
        return [one for one in self.asked if one.dag_id in dag_ids]

    def run(self, dag_id: str, run_id: str) -> RunSeen | None:
        """As it was given."""
        found = self.seen.get(run_id)
        return found if found is not None and found.dag_id == dag_id else None

    def mover(self) -> Mover:
        """As it was given."""
        names = frozenset(file.stem for file in self._deployment.pipelines.glob("*.yaml"))
        return self.moving or Mover("operate_models", names)

    async def start(self, credentials: Credentials, dag_id: str, conf: Mapping[str, Any], note: str) -> str:
        """Nothing but noted, as a run that has not begun."""
        run_id = f"manual__{len(self.started)}"
        self.started.append((dag_id, conf, note))
        self.seen[run_id] = RunSeen(
            dag_id, run_id, "queued", by="ada", conf=conf, note=note, queued=self._deployment.now
        )
        return run_id

    def origins(self) -> Collection[str]:
        """None but where it is asked."""
        return []

    def trials(self) -> Trials | None:
        """As it was given."""
        return self.answers

    def reaching_stores(self) -> AbstractContextManager[None]:
        """As the environment says."""
        return nullcontext()

    def dag_address(self, dag_id: str, run_id: str | None = None, task_id: str | None = None) -> str | None:
        """Where Airflow would show it."""
        run = f"/runs/{run_id}" if run_id else ""
        return f"/dags/{dag_id}{run}" + (f"/tasks/{task_id}" if task_id else "")

    def question_address(self, question: Question) -> str | None:
        """Where Airflow would take the answer."""
        return f"{self.dag_address(question.dag_id, question.run_id, question.task_id)}/required_actions"


def dag_id_of(name: str) -> str:
    """As the DAGs of Airflow are called."""
    return f"retrain__{name.replace('-', '_')}"


def runs_of(deployment: Deployment) -> dict[str, Runs]:
    """Runs that fit the small deployment: one failed, one is late, one is paused."""
    now = deployment.now
    well = Runs("success", "scheduled", now - timedelta(hours=7), now - timedelta(hours=7), now + timedelta(hours=14))
    made = dict.fromkeys(map(dag_id_of, deployment.histories), well)
    failed = replace(well, state="failed", ended=now - timedelta(hours=2), succeeded=now - timedelta(days=4))
    return {
        **made,
        dag_id_of("film-reviews"): failed,
        dag_id_of("trail-status"): replace(well, next_at=None, paused=True),
        dag_id_of("first-steps"): Runs(next_at=now + timedelta(hours=14)),
    }


def small_deployment(folder: Path, nights: int = 26, *, now: datetime = Deployment.now) -> Deployment:
    """Six models: one that gets better, one that is refused again and again, one that was rolled back, one with moved
    data, a new one, and one of which nothing is known.

    :param nights: of the first.
    :param now: when the last thing in it happened, about.
    """
    made = Deployment(folder, now)
    start = made.now - timedelta(days=3 * nights, hours=6)
    news = made.add("ag-news")
    rng = np.random.default_rng(7)
    for night in range(nights):
        wrong = int(150 - 70 * night / nights + rng.integers(-14, 15)) + (90 if night % 9 == 5 else 0)
        news.at(start + timedelta(days=3 * night), f"night-{night}", max(wrong, 40), seed=night)
    with at(made.now - timedelta(days=20)):
        news.model.promote("staging", from_channel="production", actor="grace", reason="a trial with the new front end")

    tickets = made.add("support-tickets")
    for night, wrong in enumerate((130, 110, 190, 205, 230, 240)):
        tickets.at(made.now - timedelta(days=30 - 5 * night), f"night-{night}", wrong, seed=night)

    trails = made.add("trail-status", schedule={"on_new_data": True})
    for night, wrong in enumerate((200, 120, 90)):
        trails.at(made.now - timedelta(days=40 - 9 * night), f"night-{night}", wrong, seed=night)
    with at(made.now - timedelta(days=9)):
        trails.model.rollback(
            "production", actor="linus", cause=Cause.REGRESSION, reason="says OPEN for every trail after rain"
        )

    reviews = made.add("film-reviews")
    drift = DriftMeasure(
        kind="labels",
        measure="label shares",
        distance=0.31,
        method="total variation",
        p_value=0.0004,
        detail="Sports 0.2 -> 0.5",
    )
    for night, wrong in enumerate((140, 120, 110)):
        reviews.at(
            made.now - timedelta(days=12 - 4 * night),
            f"night-{night}",
            wrong,
            seed=night,
            **({"drift": (drift,)} if night == 2 else {}),
        )

    made.add("paraphrases").at(made.now - timedelta(hours=7), "night-0", 90, seed=0)
    made.add("first-steps")
    return made
