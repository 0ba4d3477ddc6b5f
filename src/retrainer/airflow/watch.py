"""A watch over training data: looks again and again, and tells once what is new, when it is whole and enough.

What a run has read is the watermark, and the run itself notes it when its first task has read the data. So nothing is
lost however often a watch is ended and begun again: what no run has read is told again, unless a run that is yet to
read is there already. A run that failed for good has read nothing: its rows count again with those that come next.
Not here: Airflow's triggers and its store of states (``new_data.py``), what a version of a file is and how rows are
counted (``sources/arrivals.py``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from retrainer.errors import IntegrityError
from retrainer.records import Record
from retrainer.sources.arrivals import Count, added, changed, count, data_files, listing, version_of
from retrainer.sources.files import SourceFile
from retrainer.spec.delimited import Csv

TAKEN, ROWS = "taken", "rows"
"""What is remembered of a pipeline's data: what a run read last, and how many rows files have."""

# So many names tell what a batch is; the rest is a number.
_MOST_NAMED = 20
# So long after it was first seen, data that never comes to rest is worth a warning.
_RESTLESS_SECONDS = 900.0


class Memory(Protocol):
    """What outlives the watch."""

    async def aget(self, key: str, default: Any = None) -> Any:
        """The value that was set last."""

    async def aset(self, key: str, value: Any) -> None:
        """Keep a value."""


class Watched(Record):
    """What is watched.

    :param paths: files, folders and globs, absolute, or ``s3://``.
    :param min_new_rows: rows that are enough to tell.
    :param quiet_seconds: for so long nothing may have come or changed.
    """

    paths: tuple[str, ...]
    csv: Csv | None = None
    min_new_rows: int = 1
    quiet_seconds: float = 30.0


class News(Record):
    """What is new since a run last read the data.

    :param files: how many are new or have changed.
    :param rows: how many they bring, of those that could be counted.
    :param names: of some of them.
    :param uncounted: what is wrong with those that could not be read. The run that reads them says it, too.
    """

    files: int
    rows: int
    names: tuple[str, ...]
    uncounted: tuple[str, ...] = ()

    def line(self) -> str:
        """In one line, for people."""
        more = f", and {self.files - len(self.names)} more" if self.files > len(self.names) else ""
        problems = "".join(f"; {problem}" for problem in self.uncounted)
        return f"{self.rows:,} rows in {self.files:,} files: {', '.join(self.names)}{more}{problems}"


class Watch:
    """Looks at data, and says what is new.

    :param memory: what outlives the watch.
    :param run_to_come: whether a run is there that has yet to read the data.
    :param has_failed: whether a run, by its id, failed for good.
    :param reached: a context in which the files can be listed and read; entered in another thread.
    """

    def __init__(
        self,
        watched: Watched,
        memory: Memory,
        run_to_come: Callable[[], Awaitable[bool]],
        has_failed: Callable[[str], Awaitable[bool]],
        reached: Callable[[], AbstractContextManager[object]],
        log: logging.Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watched = watched
        self._memory = memory
        self._run_to_come = run_to_come
        self._has_failed = has_failed
        self._reached = reached
        self._log = log
        self._clock = clock
        self._now: dict[str, str] | None = None
        self._seen_at = self._moved_since = clock()
        self._warned = False
        self._told: dict[str, str] = {}
        self._settled: dict[str, str] | None = None

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing to do until the data changes."""
        return self._settled is not None and self._now == self._settled

    async def look(self) -> News | None:
        """Look once. What is told is told once: until it is read, only what comes on top of it is told again.

        :raises UserError: the data cannot be listed or read.
        """
        files, now = await asyncio.to_thread(self._list)
        if now != self._now:
            if self._now is None or self.at_rest:
                self._moved_since, self._warned = self._clock(), False
            self._now, self._seen_at = now, self._clock()
        if self.at_rest or not self._is_quiet():
            return None
        taken = await self._taken()
        new = changed(now, taken)
        fresh = changed(new, self._told)
        if fresh and await self._run_to_come():
            return None
        news = await self._counted({url: files[url] for url in new}, files, taken)
        self._settled = now
        if not fresh:
            return None
        if news.rows < self._watched.min_new_rows and not news.uncounted:
            self._log.info("new, and not enough for a run (%d rows): %s", self._watched.min_new_rows, news.line())
            return None
        self._told = new
        return news

    async def _taken(self) -> dict[str, str]:
        """The watermark."""
        content = await self._memory.aget(TAKEN)
        return versions_of(content, failed=bool(content) and await self._has_failed(content["run_id"]))

    def _list(self) -> tuple[dict[str, SourceFile], dict[str, str]]:
        with self._reached():
            files = data_files(self._watched.paths, self._watched.csv)
            return files, listing(files)

    def _is_quiet(self) -> bool:
        now = self._clock()
        quiet = now - self._seen_at >= self._watched.quiet_seconds
        if not quiet and not self._warned and now - self._moved_since > _RESTLESS_SECONDS:
            self._warned = True
            self._log.warning(
                "files have come or changed for %.0f minutes without %g s in which none did, so no run was started; "
                "a file that is always written to needs schedule.cron instead",
                (now - self._moved_since) / 60,
                self._watched.quiet_seconds,
            )
        return quiet

    async def _counted(self, new: Mapping[str, SourceFile], files: Mapping[str, SourceFile], taken: Any) -> News:
        """Count the rows of what is new, and remember them.

        Where a number of rows is waited for, also those of files that were read before: they may grow.
        """
        assert self._now is not None
        known = self._remembered(await self._memory.aget(ROWS))
        kept = {
            url: {version: one for version, one in versions.items() if version in (self._now.get(url), taken.get(url))}
            for url, versions in known.items()
            if url in self._now
        }
        to_count = files if self._watched.min_new_rows > 1 else new
        for url, file in to_count.items():
            version = self._now.get(url)
            if version is not None and version not in kept.get(url, {}):
                counted = await asyncio.to_thread(self._count, file, kept.get(url, {}))
                if version_of(file) == version:  # else it has changed meanwhile, and the next look sees that
                    kept.setdefault(url, {})[version] = counted
        if kept != known:
            content = {url: {v: one.model_dump(mode="json") for v, one in of.items()} for url, of in kept.items()}
            await self._memory.aset(ROWS, content)
        rows = {url: added(url, self._now[url], taken, kept) for url in new}
        problems = [kept[url][self._now[url]].problem for url in new if self._now[url] in kept.get(url, {})]
        return News(
            files=len(new),
            rows=sum(filter(None, rows.values())),
            names=tuple(sorted(new)[:_MOST_NAMED]),
            uncounted=tuple(filter(None, problems))[:_MOST_NAMED],
        )

    def _remembered(self, content: Any) -> dict[str, dict[str, Count]]:
        try:
            return {
                url: {version: Count.from_content(one, where=ROWS) for version, one in versions.items()}
                for url, versions in (content or {}).items()
            }
        except IntegrityError as error:
            self._log.warning("rows are counted anew: %s", error)
            return {}

    def _count(self, file: SourceFile, earlier: Mapping[str, Count]) -> Count:
        with self._reached():
            return count(file, earlier)


def taken_by(run_id: str, files: Mapping[str, str], before: Mapping[str, str]) -> dict[str, Any]:
    """What is remembered when a run has read the data.

    :param files: the versions before it began to read; what changed since counts as new.
    :param before: those that a run had read before it, and did not fail.
    """
    instead_of = {url: before.get(url) for url, version in files.items() if before.get(url) != version}
    return {"run_id": run_id, "files": dict(files), "instead_of": instead_of}


def versions_of(content: Mapping[str, Any] | None, *, failed: bool) -> dict[str, str]:
    """What has been read of the data, by what is remembered.

    :param failed: the run that read it failed, so that what was read before it counts.
    """
    found: dict[str, str | None] = dict((content or {}).get("files", {}))
    if content and failed:
        found |= content.get("instead_of", {})
    return {url: version for url, version in found.items() if version is not None}
