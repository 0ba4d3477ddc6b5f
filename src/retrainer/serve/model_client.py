"""What a service calls, whatever the task: loads what its channel names, follows it, and swaps between two calls.

Not here: what is asked of it (``classifier.py``, ``generator.py``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, get_args

from retrainer.errors import UserError
from retrainer.serve import forks, heap
from retrainer.serve.cache import ModelCache
from retrainer.serve.cached_version import AUTO, Verify, default_cache
from retrainer.serve.engine import ENDS
from retrainer.serve.errands import ending
from retrainer.serve.folder import load_folder
from retrainer.serve.following import DEFAULT_INTERVAL, START_SECONDS, Follower, load_version
from retrainer.serve.loading import Answers, Loading, check_seconds
from retrainer.serve.served import Served
from retrainer.serve.status import Progress, Status
from retrainer.serve.watching import Watcher
from retrainer.storage import S3Access
from retrainer.store.manifest import Manifest
from retrainer.store.move import Move
from retrainer.store.signing import Keyring
from retrainer.store.signing_keys import public_keys_from_environment

log = logging.getLogger(__name__)


class ModelClient:
    """A published model. Calls from several threads are safe, and go on while a new version takes over.

    Made by ``from_store`` or ``from_folder``. A call is answered by one version from its start to its end.

    :cvar answers_with: what its models answer with; others are refused.
    :cvar called: what an object is called in a sentence.
    """

    answers_with: ClassVar[Answers]
    called: ClassVar[str]

    def __init__(
        self, served: Served, *, model: str, again: Callable[[], Served], follower: Follower | None = None
    ) -> None:
        self._served: Served | None = served
        self._model = model
        self._again = again
        self._follower = follower
        self._watcher: Watcher | None = None
        # One look at a time; a call never waits for it, and neither does closing.
        self._looking = threading.Lock()
        # For a moment each time, to change what is served and who watches.
        self._changing = threading.Lock()
        self._closed = False
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
        store_timeout: float = START_SECONDS,
        load_timeout: float | None = None,
    ) -> Self:
        """Load what a channel of a store points at, through a verified local cache.

        Where the store cannot be reached, or does not answer soon, or this host has no room for what is new there, the
        version is loaded that answered last on this host, and a warning is logged.

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
        :param store_timeout: seconds that this waits for the store where a version answered on this host before, which
            then answers again. While files of a new version arrive, the time does not run.
        :param load_timeout: seconds that loading a version and asking its golden rows may take, now and later; half a
            minute, and a second for each 10 MB of the graph, when ``None``.
        :raises NotFoundError: no such model, channel or version.
        :raises IntegrityError: a file was altered, or the model does not answer as where it was made.
        :raises SignatureError: a public key is given, and it did not sign what is there.
        :raises ReplayError: the channel points where it pointed before a move that this host has seen.
        :raises StorageError: the store cannot be reached, and nothing is in the cache.
        :raises ResourceError: the cache cannot be written, memory ran out, or an earlier load of the version was given
            up and has not ended in this process; and nothing is in the cache that could answer instead.
        :raises UserError: ``precision``, ``threads``, ``verify``, ``public_keys`` or a number of seconds cannot be
            used, or ``url``, ``model``, ``channel`` or ``version`` is not text.
        :raises WrongTask: the model is of another kind.
        """
        loading = Loading(precision, threads, load_timeout, cls.answers_with)
        check_seconds("store_timeout", store_timeout)
        if verify not in get_args(Verify):
            raise UserError(f"verify must be one of {', '.join(get_args(Verify))}; got {verify!r}")
        folder = _path("cache_dir", cache_dir) if cache_dir is not None else default_cache()
        open_cache = partial(ModelCache, url, model, folder, trusted=_pinned(public_keys), access=access, verify=verify)
        if version is not None:
            named = partial(load_version, open_cache, version, loading)
            return cls(named(), model=model, again=named)
        follower = Follower(open_cache, channel, loading, store_timeout=store_timeout)
        return cls(follower.first(), model=model, again=follower.again, follower=follower)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        precision: str = AUTO,
        threads: int | None = None,
        load_timeout: float | None = None,
    ) -> Self:
        """Load a bundle from a folder: one that was just exported, or a version that was fetched.

        Where a ``manifest.json`` lies in it, the files that are read are compared with that, so ``version`` is what it
        says.

        :raises IntegrityError: a file is missing, damaged, or not the one that the manifest names; or the model does
            not answer as where it was made.
        :raises ResourceError: memory ran out, or an earlier load of it was given up and has not ended in this process.
        :raises UserError: ``folder``, ``precision``, ``threads`` or ``load_timeout`` cannot be used.
        :raises WrongTask: the model is of another kind.
        """
        path = _path("folder", folder)
        load = partial(load_folder, path, Loading(precision, threads, load_timeout, cls.answers_with))
        served = load()
        model = served.manifest.model if served.manifest is not None else path.resolve().name
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
    def task(self) -> str:
        """Of the version that answers, such as ``text-classification``."""
        return str(self._current().predictor.info.task)

    @property
    def precision(self) -> str:
        """Of the graph that answers."""
        return str(self._current().predictor.precision)

    def pinned(self) -> Served:
        """The version that answers now. It goes on answering for whoever holds it, when another has taken over."""
        return self._current()

    @property
    def status(self) -> Status:
        """What is served, and why nothing newer is: all of it of one version, also while another takes over."""
        served = self._current()
        watcher = self._watcher
        progress = self._follower.progress if self._follower is not None else Progress()
        return Status(
            model=self._model,
            channel=self._follower.channel if self._follower is not None else None,
            version=served.version,
            precision=served.predictor.precision,
            sequence=served.move.sequence if served.move is not None else None,
            loaded_at=served.loaded_at,
            watching=watcher is not None and watcher.alive,
            labels=served.predictor.info.labels,
            task=served.predictor.info.task,
            max_length=served.manifest.max_length if served.manifest is not None else None,
            **asdict(progress),
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

        :param interval: seconds between looks, give or take a tenth; the first comes after a random part of it. A look
            that finds nothing new is one request.
        :raises UserError: there is no channel to follow: the version was asked for by name, or came from a folder.
        """
        check_seconds("interval", interval)
        self._current()
        follower = self._follower
        if follower is None:
            raise UserError(
                "there is no channel to watch", hint="load with from_store(url, model, channel=...), without a version"
            )
        with self._changing:
            if self._closed:
                raise self._was_closed()
            follower.interval = interval
            if self._watcher is not None and self._watcher.alive:
                self._watcher.interval = interval
            else:
                self._watcher = Watcher(self._watch_once, interval, name=f"retrainer-watch-{self._model}")

    def close(self) -> None:
        """Stop watching and let go of the model, once the calls that use it have ended. Calls that come later fail.

        A look that is under way, at a store that does not answer perhaps, is waited for a few seconds. Where it takes
        longer, it comes to its end in its thread, and what it finds is dropped.
        """
        with self._changing:
            self._closed = True
            self._served = None
            watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def after_fork(self) -> None:
        """Called in a forked child, which loads the model anew when it is first used there, and watches again."""
        self._inherited = True
        self._looking = threading.Lock()  # a thread that is not here may have held it, or the other one
        self._changing = threading.Lock()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.abandon()
            self._resume = None if watcher.stopped else watcher.interval

    def _current(self) -> Served:
        if self._inherited:
            self._load_again()
        served = self._served
        if served is None:
            raise self._was_closed()
        return served

    def _was_closed(self) -> UserError:
        return UserError(f"this {self.called} was closed")

    def _load_again(self) -> None:
        """In a forked child: the sessions and threads of the parent are of no use here."""
        with self._looking:
            if not self._inherited or self._closed:
                return
            if not self._replace(self._again()):
                return
            self._inherited = False
        interval, self._resume = self._resume, None
        if interval is not None:
            self.watch(interval)

    def _replace(self, served: Served) -> bool:
        """Let that answer from now on; ``False`` when nothing shall any more."""
        with self._changing:
            if self._closed:
                return False
            self._served = served
            return True

    def _watch_once(self) -> int:
        """One look of the watching thread; how often the store could not be read in a row."""
        if self._follower is None:
            return 0
        try:
            self._look(patient=True)
        except ENDS:
            raise
        except BaseException as error:  # a panic of Rust is no Exception, and would end the thread without a word
            if ending():
                return 0  # what a look needs is gone, and so is whoever would read of it
            log.exception("looking at the store failed in a way that was not foreseen")
            self._follower.unexpected(error)
        return self._follower.unreachable

    def _look(self, *, patient: bool) -> bool:
        if self._closed:
            return False  # without waiting for a look that may still be under way
        if self._inherited:
            self._load_again()
        with self._looking:
            before = self._served
            if self._follower is None or before is None:
                return False
            move = before.move
            del before  # a look may take long, and the client may be closed meanwhile
            found = self._follower.look(move, patient=patient)
            swapped = False
            if isinstance(found, Move):
                self._named_by(found)
            elif found is not None and not self._closed:
                self._follower.took_over(found)  # first: whoever sees the new version finds it counted
                swapped = self._replace(found)
            del found
            if swapped or self._trim_again:
                # Once more at the next look: the last call of the old version may still be under way.
                heap.trim()
            self._trim_again = swapped
            return swapped

    def _named_by(self, move: Move) -> None:
        """Note that a later move of the channel led to the version that answers."""
        served = self._served
        if served is not None:
            self._replace(replace(served, move=move))


def _path(name: str, given: Any) -> Path:
    if not isinstance(given, str | PathLike):
        raise UserError(f"{name} must be a path; got {given!r}")
    return Path(given)


def _pinned(public_keys: str | Path | Iterable[str | Path] | None) -> Keyring | None:
    if public_keys is None:
        return public_keys_from_environment()
    keyring = Keyring.of(public_keys)
    if keyring is None:
        # Reading everything would be the wrong guess at what an empty list means.
        raise UserError("public_keys names no key", hint="ed25519:... or a path; None for no signatures")
    return keyring
