"""The classifier that a service calls: texts in, ranked labels out, always from the version that its channel names."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

from retrainer.errors import IntegrityError, UserError
from retrainer.serve import forks, heap
from retrainer.serve.cache import ModelCache
from retrainer.serve.cached_version import AUTO, Verify, default_cache
from retrainer.serve.following import DEFAULT_INTERVAL, Follower, Progress, load_version
from retrainer.serve.loading import load_checked
from retrainer.serve.predictions import Prediction, Response, check_top_k
from retrainer.serve.served import Served
from retrainer.serve.status import Status
from retrainer.serve.texts import Text, checked, is_single
from retrainer.serve.watching import Watcher
from retrainer.storage import S3Access
from retrainer.store.manifest import Manifest
from retrainer.store.names import MANIFEST
from retrainer.store.signing import Keyring
from retrainer.store.signing_keys import public_keys_from_environment

log = logging.getLogger(__name__)

UNPUBLISHED = "unpublished"


class Classifier:
    """A published text classifier. Calls from several threads are safe, and go on while a new version takes over.

    Made by ``from_store`` or ``from_folder``. A call is answered by one version from its start to its end.
    """

    def __init__(
        self, served: Served, *, model: str, again: Callable[[], Served], follower: Follower | None = None
    ) -> None:
        self._served: Served | None = served
        self._model = model
        self._again = again
        self._follower = follower
        self._watcher: Watcher | None = None
        # One look at a time; a call never waits for it.
        self._looking = threading.Lock()
        self._trim_again = False
        self._inherited = False
        self._resume: float | None = None
        forks.tell_in_children(self)

    @classmethod
    def from_store(
        cls,
        url: str | Path,
        model: str,
        *,
        channel: str = "production",
        version: str | None = None,
        precision: str = AUTO,
        cache_dir: str | Path | None = None,
        threads: int | None = None,
        public_keys: str | Path | Iterable[str | Path] | None = None,
        access: S3Access | None = None,
        verify: Verify = "all",
    ) -> Self:
        """Load what a channel of a store points at, through a verified local cache.

        Where the store cannot be reached, the version is loaded that answered last on this host, and a warning is
        logged.

        :param url: ``s3://bucket/prefix``, ``file:///folder`` or a path.
        :param version: that one, whatever the channel points at.
        :param precision: ``fp32``, ``int8``, or ``auto``: int8 where its golden rows agree on this CPU.
        :param cache_dir: ``$RETRAINER_CACHE/models``, else ``~/.cache/retrainer/models``, when ``None``.
        :param threads: threads of one call; the usable cores when ``None``.
        :param public_keys: ``ed25519:...``, the path of a file that holds such a key, or several of them. What none of
            them signed is refused. ``$RETRAINER_PUBLIC_KEYS`` when ``None``; where that is not set, no signature is
            asked for.
        :param access: how a bucket is reached; ``None`` for what the environment says.
        :param verify: ``all``: every file of a new version is fetched and checked, and one that was altered refuses the
            version, be it a plot. ``served``: only the files that are used.
        :raises NotFoundError: no such model, channel or version.
        :raises IntegrityError: a file was altered, or the model does not answer as where it was made.
        :raises SignatureError: a public key is given, and it did not sign what is there.
        :raises ReplayError: the channel points where it pointed before a move that this host has seen.
        :raises StorageError: the store cannot be reached, and nothing is in the cache.
        """
        folder = Path(cache_dir) if cache_dir is not None else default_cache()
        open_cache = partial(ModelCache, url, model, folder, trusted=_pinned(public_keys), access=access, verify=verify)
        if version is not None:
            named = partial(load_version, open_cache, version, precision=precision, threads=threads)
            return cls(named(), model=model, again=named)
        follower = Follower(open_cache, channel, precision=precision, threads=threads)
        return cls(follower.first(), model=model, again=follower.again, follower=follower)

    @classmethod
    def from_folder(cls, folder: str | Path, *, precision: str = AUTO, threads: int | None = None) -> Self:
        """Load a bundle from a folder: one that was just exported, or a version that was fetched.

        :raises IntegrityError: a file is missing or damaged, or the model does not answer as where it was made.
        """
        load = partial(_load_folder, Path(folder), precision=precision, threads=threads)
        served = load()
        model = served.manifest.model if served.manifest is not None else Path(folder).resolve().name
        return cls(served, model=model, again=load)

    @property
    def version(self) -> str:
        """The version that answers; ``unpublished`` for a bundle without a manifest."""
        return self._current().version

    @property
    def manifest(self) -> Manifest | None:
        """What was published; ``None`` for a bundle without a manifest."""
        return self._current().manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels."""
        return self._current().predictor.info.labels

    @property
    def task(self) -> str:
        """``text-classification`` or ``text-pair-classification``."""
        return self._current().predictor.info.task

    @property
    def precision(self) -> str:
        """Of the graph that answers."""
        return self._current().predictor.precision

    @overload
    def __call__(self, texts: Text, *, top_k: int | None = 1) -> list[Prediction]: ...

    @overload
    def __call__(self, texts: list[str] | list[tuple[str, str]], *, top_k: Literal[1] = 1) -> list[Prediction]: ...

    @overload
    def __call__(
        self, texts: list[str] | list[tuple[str, str]], *, top_k: int | None
    ) -> list[list[Prediction]] | list[Prediction]: ...

    def __call__(
        self, texts: Text | Iterable[Any], *, top_k: int | None = 1
    ) -> list[Prediction] | list[list[Prediction]]:
        """The best labels of one text, or of each of many.

        :param texts: a ``str``, a pair ``(first, second)`` where the model reads pairs, or a list of either.
        :param top_k: how many labels of each text, best first; ``None`` for all.
        :return: for one text, its labels. For a list, in its order: one label each while ``top_k`` is 1, else a
            list of labels each.
        :raises DataError: a text is not what the model reads.
        """
        check_top_k(top_k)
        served = self._current()
        single = is_single(texts)
        rows = checked([texts] if single else texts, served.predictor.info.task)
        ranked = served.answer(rows, top_k)
        if single:
            return ranked[0]
        return [labels[0] for labels in ranked] if top_k == 1 else ranked

    def respond(self, texts: Iterable[Any], *, top_k: int | None = None) -> Response:
        """The best labels of each of many texts, with the version that gave them.

        :param texts: each a ``str``, or each a pair ``(first, second)``.
        :param top_k: how many labels of each text, best first; ``None`` for all.
        :raises DataError: a text is not what the model reads.
        """
        check_top_k(top_k)
        served = self._current()
        return served.respond(checked(texts, served.predictor.info.task), top_k)

    @property
    def status(self) -> Status:
        """What is served, and why nothing newer is."""
        served = self._current()
        progress = self._follower.progress if self._follower is not None else Progress()
        return Status(
            model=self._model,
            channel=self._follower.channel if self._follower is not None else None,
            version=served.version,
            precision=served.predictor.precision,
            sequence=served.pointer.sequence if served.pointer is not None else None,
            loaded_at=served.loaded_at,
            checked_at=progress.checked_at,
            watching=self._watcher is not None and self._watcher.alive,
            swaps=progress.swaps,
            refusals=progress.refusals,
            failures_in_a_row=progress.failures_in_a_row,
            problem=progress.problem,
            refused_version=progress.refused_version,
            offline=progress.offline,
        )

    def refresh(self) -> bool:
        """Look at the store once, now, and take over what its channel points at.

        A version that is no good, or a store that cannot be reached, changes nothing and raises nothing: the last good
        version stays, and ``status.problem`` says why. Unlike ``watch``, this tries a version that was refused again
        at once.

        :return: whether another version answers now. ``False`` for a version that was asked for by name.
        """
        return self._look(patient=False)

    def watch(self, interval: float = DEFAULT_INTERVAL) -> None:
        """Follow the channel from now on, in a daemon thread. Called again, it changes the interval.

        :param interval: seconds between looks, give or take a tenth. A look that finds nothing new is one request.
        :raises UserError: there is no channel to follow: the version was asked for by name, or came from a folder.
        """
        if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval < float("inf"):
            raise UserError(f"interval must be a number of seconds above 0; got {interval!r}")
        self._current()
        if self._follower is None:
            raise UserError(
                "there is no channel to watch", hint="load with from_store(url, model, channel=...), without a version"
            )
        self._stop_watching()
        self._follower.interval = interval
        self._watcher = Watcher(self._watch_once, interval, name=f"retrainer-watch-{self._model}")

    def close(self) -> None:
        """Stop watching and let go of the model, once the calls that use it have ended. Calls that come later fail."""
        self._stop_watching()
        with self._looking:
            self._served = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Called in a forked child, which loads the model anew when it is first used there, and watches again."""
        self._inherited = True
        self._looking = threading.Lock()  # a thread that is not here may have held it
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.abandon()
            self._resume = None if watcher.stopped else watcher.interval

    def _current(self) -> Served:
        if self._inherited:
            self._load_again()
        served = self._served
        if served is None:
            raise UserError("this classifier was closed")
        return served

    def _load_again(self) -> None:
        """In a forked child: the sessions and threads of the parent are of no use here."""
        with self._looking:
            if not self._inherited or self._served is None:
                return
            self._served = self._again()
            self._inherited = False
        interval, self._resume = self._resume, None
        if interval is not None:
            self.watch(interval)

    def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()

    def _watch_once(self) -> int:
        """One look of the watching thread; how often the store could not be read in a row."""
        if self._follower is None:
            return 0
        try:
            self._look(patient=True)
        except Exception as error:
            log.exception("looking at the store failed in a way that was not foreseen")
            self._follower.unexpected(error)
        return self._follower.progress.unreachable

    def _look(self, *, patient: bool) -> bool:
        if self._inherited:
            self._load_again()
        with self._looking:
            before = self._served
            if self._follower is None or before is None:
                return False
            found = self._follower.look(before, patient=patient)
            swapped = found is not None and found.version != before.version
            if found is not None:
                self._served = found
            del before
            if swapped or self._trim_again:
                # Once more at the next look: the last call of the old version may still be under way.
                heap.trim()
            self._trim_again = swapped
            return swapped


def _pinned(public_keys: str | Path | Iterable[str | Path] | None) -> Keyring | None:
    if public_keys is None:
        return public_keys_from_environment()
    keyring = Keyring.of(public_keys)
    if keyring is None:
        # Reading everything would be the wrong guess at what an empty list means.
        raise UserError("public_keys names no key", hint="ed25519:... or a path; None for no signatures")
    return keyring


def _load_folder(folder: Path, *, precision: str, threads: int | None) -> Served:
    manifest = _read_manifest(folder / MANIFEST)
    predictor = load_checked(folder, precision=precision, threads=threads)
    return Served(manifest.version if manifest else UNPUBLISHED, manifest, predictor, None, datetime.now(UTC))


def _read_manifest(path: Path) -> Manifest | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IntegrityError(f"the manifest cannot be read: {error.strerror}", where=str(path)) from None
    return Manifest.from_json(data, where=str(path))
