"""New data starts a run: the asset that stands for it, the trigger that watches for it, and what a run notes of it.

The trigger runs in Airflow's triggerer, beside others: whatever takes time happens in a thread. Not here: what counts
as new, and when it is told (``watch.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from airflow.sdk import Asset, AssetWatcher, DagRunState
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from retrainer.airflow.bell import Bell
from retrainer.airflow.connections import s3_access
from retrainer.airflow.settings import Settings
from retrainer.airflow.watch import TAKEN, News, Watch, Watched, taken_by, versions_of
from retrainer.errors import RetrainerError
from retrainer.sources.arrivals import data_files, listing
from retrainer.spec import Pipeline
from retrainer.spec.delimited import Csv
from retrainer.spec.model import Schedule
from retrainer.storage import S3Access, is_s3, use_access

logger = logging.getLogger(__name__)

POLL_SECONDS = 10.0
# Data that could not be looked at for so long starts a run, which fails, and so is seen.
_PATIENCE_SECONDS = 3600.0
# A role's credentials last for an hour at least.
_ACCESS_SECONDS = 900.0
# What a first task may be in before it has ended. "null" is Airflow's word for a task that nobody has scheduled yet.
_NOT_ENDED = [
    *("null", "scheduled", "queued", "running", "restarting", "deferred", "up_for_retry", "up_for_reschedule"),
]


class NewDataTrigger(BaseEventTrigger):  # type: ignore[misc]
    """Watches files, folders, globs and ``s3://`` prefixes; each event says what is new.

    At least once: what no run has read is told, after a restart of the triggerer once more, unless a run of the DAG
    is there that has yet to read it. However many files come while one runs, there is one such run. The watermark
    is what a run read, which ``IngestDatasetOperator`` notes in the asset's state store when the asset is among its
    ``inlets``; ``retrain_dag`` sees to that.

    :param asset: name of the asset whose watcher this is; its state store holds the watermark.
    :param dag_id: the DAG that the asset starts, and ``task_id`` the task in it that reads the data.
    :param paths: absolute.
    :param csv: what the pipeline says of files of rows and fields, as ``dataset.csv``.
    :param min_new_rows: rows in new and changed files that are enough.
    :param quiet_seconds: for so long no file may have come or changed.
    :param queue: URL of an SQS queue that the bucket tells of new objects; it is then listed when a message came.
    :param aws_conn_id: connection of type ``aws`` for buckets; by default that of the deployment's settings.
    :param poll_seconds: between two looks; by default ten, and less where data may be taken sooner.
    """

    def __init__(
        self,
        *,
        asset: str,
        dag_id: str,
        task_id: str,
        paths: Sequence[str],
        csv: Mapping[str, Any] | None = None,
        min_new_rows: int = 1,
        quiet_seconds: float = 30.0,
        queue: str | None = None,
        aws_conn_id: str | None = None,
        poll_seconds: float | None = None,
    ) -> None:
        super().__init__()
        self.asset = asset
        self.dag_id = dag_id
        self.task_id = task_id
        self.paths = list(paths)
        self.csv = None if csv is None else dict(csv)
        self.min_new_rows = min_new_rows
        self.quiet_seconds = quiet_seconds
        self.queue = queue
        self.aws_conn_id = aws_conn_id
        self.poll_seconds = poll_seconds
        self._access: tuple[float, S3Access | None] | None = None
        self._bell = Bell(queue) if queue else None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class and its arguments. The name of the asset makes them unlike those of any other asset."""
        what = ("asset", "dag_id", "task_id", "paths", "csv")
        how = ("min_new_rows", "quiet_seconds", "queue", "aws_conn_id", "poll_seconds")
        arguments = {name: getattr(self, name) for name in (*what, *how)}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the trigger is cancelled."""
        assert self.asset_state_store is not None, "Airflow gives every watcher of an asset its state store"
        watched = Watched(
            paths=tuple(self.paths),
            csv=None if self.csv is None else Csv.model_validate(self.csv),
            min_new_rows=self.min_new_rows,
            quiet_seconds=self.quiet_seconds,
        )
        memory = self.asset_state_store[Asset(self.asset)]
        watch = Watch(watched, memory, self._run_to_come, self._has_failed, self._reached, logger)
        trouble = _Trouble()
        failed = False
        while True:
            news = None
            try:
                # After a failure, too: what the bell rang for has not been looked at.
                if failed or not watch.at_rest or await asyncio.to_thread(self._rang):
                    news = await watch.look()
            except (RetrainerError, AirflowRuntimeError) as error:
                failed = True
                if trouble.is_new(str(error)):
                    logger.warning("%s: looking for new data failed, and is tried again: %s", self.asset, error)
                if trouble.is_to_be_told():
                    yield TriggerEvent({"problem": str(error)})
            else:
                trouble, failed = _Trouble(), False
                if news is not None:
                    logger.info("%s: %s", self.asset, news.line())
                    yield TriggerEvent(news.model_dump(mode="json"))
            await asyncio.sleep(self.poll_seconds or min(POLL_SECONDS, max(1.0, self.quiet_seconds / 2)))

    async def _run_to_come(self) -> bool:
        """Whether a run is there that has yet to read the data. One that reads now may have begun too early to see
        all of it; when it has ended, what it noted tells.
        """
        return await asyncio.to_thread(self._count_runs_to_come) > 0

    async def _has_failed(self, run_id: str) -> bool:
        return await asyncio.to_thread(run_has_failed, self.dag_id, run_id)

    def _count_runs_to_come(self) -> int:
        queued = RuntimeTaskInstance.get_dr_count(dag_id=self.dag_id, states=["queued"])
        if queued or not RuntimeTaskInstance.get_dr_count(dag_id=self.dag_id, states=["running"]):
            return int(queued)
        return int(RuntimeTaskInstance.get_ti_count(dag_id=self.dag_id, task_ids=[self.task_id], states=_NOT_ENDED))

    def _rang(self) -> bool:
        if self._bell is None:
            return True
        with self._reached():
            return self._bell.rang()

    @contextmanager
    def _reached(self) -> Iterator[None]:
        if not any(map(is_s3, self.paths)):
            yield
            return
        now = time.monotonic()
        if self._access is None or now - self._access[0] > _ACCESS_SECONDS:
            conn_id = Settings(aws_conn_id=self.aws_conn_id).resolved().aws_conn_id
            self._access = (now, s3_access(conn_id))
        with use_access(self._access[1]):
            yield


class _Trouble:
    """Looks that failed, one after another."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._said = ""
        self._told = False

    def is_new(self, text: str) -> bool:
        """Whether something else went wrong the time before."""
        before, self._said = self._said, text
        return text != before

    def is_to_be_told(self) -> bool:
        """Whether it has lasted so long that a run must show it; true once."""
        lasting = not self._told and time.monotonic() - self._since > _PATIENCE_SECONDS
        self._told = self._told or lasting
        return lasting


def new_data_asset(
    pipeline: str,
    paths: Sequence[str],
    csv: Csv | None,
    schedule: Schedule,
    *,
    dag_id: str,
    task_id: str,
    aws_conn_id: str | None = None,
) -> Asset:
    """What stands for new rows of a pipeline: its events start the DAG, and say how many there are and where.

    :param pipeline: its name.
    :param paths: of its training data; see ``NewDataTrigger`` for these and the rest.
    """
    name = new_data_name(pipeline)
    trigger = NewDataTrigger(
        asset=name,
        dag_id=dag_id,
        task_id=task_id,
        paths=paths,
        csv=None if csv is None else csv.model_dump(mode="json", exclude_defaults=True),
        min_new_rows=schedule.min_new_rows,
        quiet_seconds=schedule.quiet_seconds,
        queue=schedule.queue,
        aws_conn_id=aws_conn_id,
    )
    watchers = [AssetWatcher(name=name, trigger=trigger)]
    return Asset(name=name, uri=f"x-retrainer://{pipeline}/new-data", group="new-data", watchers=watchers)


def new_data_name(pipeline: str) -> str:
    """The name of that asset."""
    return f"retrainer/{pipeline}/new-data"


def own_inlet(task: Any, pipeline: str) -> Asset | None:
    """The asset of a pipeline's new data, if it is an inlet of the task, which then notes what it read."""
    name = new_data_name(pipeline)
    return next((asset for asset in task.inlets if isinstance(asset, Asset) and asset.name == name), None)


def seen_now(pipeline: Pipeline) -> dict[str, str]:
    """The versions of the training data at this moment. To be taken before a run reads it."""
    source = pipeline.dataset.train
    return listing(data_files(source, pipeline.dataset.csv)) if isinstance(source, tuple) else {}


def note_taken(context: Any, asset: Asset, seen: Mapping[str, str]) -> None:
    """Note in the asset's state store what a run has read, and what counts if it fails later."""
    memory, run = context["asset_state_store"][asset], context["dag_run"]
    content = memory.get(TAKEN)
    # A run that is cleared has not succeeded with what it read the time before.
    failed = bool(content) and (content["run_id"] == run.run_id or run_has_failed(run.dag_id, content["run_id"]))
    memory.set(TAKEN, taken_by(run.run_id, seen, versions_of(content, failed=failed)))


def run_has_failed(dag_id: str, run_id: str) -> bool:
    """Whether a run failed for good. One that was deleted has not: nobody wants its rows again."""
    try:
        return bool(RuntimeTaskInstance.get_dagrun_state(dag_id, run_id) == DagRunState.FAILED)
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") != HTTPStatus.NOT_FOUND:
            raise
        return False


def started_by(context: Any) -> list[str]:
    """What the events of new data that started a run said, a line for each."""
    events = (context.get("triggering_asset_events") or {}).values()
    payloads = [(event.extra or {}).get("payload") for found in events for event in found if _is_ours(event.asset.name)]
    return [str(one.get("problem") or News.from_content(one, where="event").line()) for one in payloads if one]


def _is_ours(name: str) -> bool:
    return name == new_data_name(name.removeprefix("retrainer/").removesuffix("/new-data"))
