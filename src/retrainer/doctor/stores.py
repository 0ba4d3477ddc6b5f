"""Places that runs write to: reached, read, listed, written, and whether they keep the promise of conditional writes.

What is tried with is an object that publishing leaves, too; it is removed where it was not there before and may be.
In a folder it lies in a temporary folder. Not here: what is in a store (``retrainer fsck``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from retrainer.chain.model_store import check_channel, model_of
from retrainer.doctor.findings import Finding, finding, problem
from retrainer.errors import NotFoundError, RetrainerError, StorageError, StoragePermissionError
from retrainer.storage import Storage, deadline, is_s3, open_storage
from retrainer.storage.errors import filesystem_errors
from retrainer.storage.files import FileStorage
from retrainer.storage.keys import RESERVED
from retrainer.store.conditional import probe_key, require_conditional_writes

if TYPE_CHECKING:
    from retrainer.doctor.deployment import Deployment
    from retrainer.spec import Pipeline

# Of a model that nobody can publish, for a place where no model is named. Policies allow what ends like this.
NO_MODEL = ".doctor"
# For one place, so that a server that does not answer does not hold up the others for long.
SECONDS = 60.0
# S3 refuses requests that are further off.
MOST_SKEW = 15 * 60.0
# More is worth a look: moves and decisions are dated by the machine that makes them.
SOME_SKEW = 60.0


def look_at_buckets(deployment: Deployment) -> Iterator[Finding]:
    """How buckets are reached, as far as that is known without asking one."""
    if isinstance(deployment.access, RetrainerError):
        yield problem("access", deployment.access)
    else:
        yield Finding("ok", "access", deployment.reached_by)


def look_at_stores(deployment: Deployment) -> Iterator[Finding]:
    """The store of each pipeline; in a bucket each model's part of it, because policies may differ."""
    folders: set[str] = set()
    for pipeline in deployment.pipelines:
        url = pipeline.publish.store
        if url not in folders:
            yield from look_at(deployment, url, model=pipeline.name, what=f"store of {pipeline.name}")
        if not is_s3(url):
            folders.add(url)
        yield finding(f"channel of {pipeline.name}", partial(_channel, deployment, pipeline))


def _channel(deployment: Deployment, pipeline: Pipeline) -> str:
    with _reaching(deployment, pipeline.publish.store):
        return channel_of(pipeline)


def _reaching(deployment: Deployment, url: str) -> AbstractContextManager[None]:
    """Folders need nothing of what buckets need."""
    return deployment.reaching_buckets() if is_s3(url) else nullcontext()


def look_at_artifacts(deployment: Deployment) -> Iterator[Finding]:
    """Where the steps keep their outputs."""
    if deployment.artifact_root is None:
        yield Finding("ok", "artifact root", "a folder beside each pipeline file")
    else:
        yield from look_at(deployment, deployment.artifact_root, model=NO_MODEL, what="artifact root")


def look_at(deployment: Deployment, url: str, *, model: str, what: str) -> Iterator[Finding]:
    """One place, as tasks reach it."""
    try:
        with _reaching(deployment, url):
            storage = open_storage(url)
        yield from place_findings(storage, model, what)
    except RetrainerError as error:
        yield problem(what, error)


def place_findings(storage: Storage, model: str, what: str, *, seconds: float = SECONDS) -> Iterator[Finding]:
    """Whether a place can be used.

    :param model: whose part of it is tried.
    :param seconds: for a bucket to answer all of it.
    """
    folder = storage.local_path()
    if folder is None:
        with deadline(seconds):
            yield from list(_bucket_findings(storage, model, what))
    else:
        yield from _folder_findings(folder, what)


def channel_of(pipeline: Pipeline) -> str:
    """What the channel of a pipeline serves, in words; reads the newest move.

    :raises RetrainerError: the store cannot be read, or the pipeline may not move the channel.
    """
    url, channel = pipeline.publish.store, pipeline.publish.channel
    folder = open_storage(url).local_path()
    if folder is not None:
        require_writable(folder)
    model = model_of(pipeline)
    check_channel(pipeline.publish, model.newest_move(channel))
    champion = model.champion(channel)
    return f"{url}, {channel} " + (f"serves version {champion.version}" if champion else "serves nothing yet")


def require_writable(folder: Path) -> Path:
    """The folder, or the nearest that exists above it, where it would be made.

    :raises StorageError: it is a file, or may not be written to.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise StorageError("is a file, not a folder", where=str(place), hint="name another publish.store")
    if not os.access(place, os.W_OK | os.X_OK):
        raise StorageError("no permission to write", where=str(place), hint="check its owner and mode")
    return place


def _bucket_findings(storage: Storage, model: str, what: str) -> Iterator[Finding]:
    try:
        yield from _clock(storage, what)
        there = _is_there(storage, probe_key(model))
        yield Finding("ok", what, f"{storage.url} answers, and can be read")
    except StorageError as error:  # nothing else would go better
        yield problem(what, error)
        return
    yield _listed(storage, model, what)
    yield from _written(storage, model, what, there=there)


def _clock(storage: Storage, what: str) -> Iterator[Finding]:
    asked = datetime.now(UTC)
    there = storage.server_time()
    if there is None:
        return
    # The server's clock is told to the second.
    skew = abs((there - asked).total_seconds())
    if skew <= SOME_SKEW:
        yield Finding("ok", what, "this machine's clock is that of the server, to the minute")
        return
    late = "behind" if there > asked else "ahead"
    yield Finding(
        "broken" if skew > MOST_SKEW else "warning",
        what,
        f"this machine's clock is {skew:,.0f} s {late} of the server's; requests more than 15 min off are refused",
        "set the clock, with NTP (timedatectl set-ntp true)",
    )


def _is_there(storage: Storage, key: str) -> bool:
    try:
        storage.read(key)
    except NotFoundError:
        return False
    return True


def _listed(storage: Storage, model: str, what: str) -> Finding:
    try:
        next(storage.list(f"{model}/"), None)
    except StoragePermissionError as error:
        text = f"may not be listed ({error.message}): no console, no fsck, and what is absent looks forbidden"
        return Finding("warning", what, text, error.hint)
    except StorageError as error:
        return problem(what, error)
    return Finding("ok", what, "can be listed")


def _written(storage: Storage, model: str, what: str, *, there: bool) -> Iterator[Finding]:
    try:
        written = require_conditional_writes(storage, model)
    except StorageError as error:
        yield problem(what, error)
        # Where nothing may be written nothing is left; of a server that lets both writes pass one object is.
        written = not there and not isinstance(error, StoragePermissionError)
    else:
        yield Finding("ok", what, "can be written, and refuses a conditional write that must fail")
    if written:
        yield from _removed(storage, probe_key(model), what)


def _removed(storage: Storage, key: str, what: str) -> Iterator[Finding]:
    try:
        storage.delete(key)
    except StoragePermissionError:
        text = f"{storage.where(key)} stays, which publishing would leave as well: nothing may be deleted there"
        yield Finding("ok", what, text)
    except StorageError as error:
        yield Finding("warning", what, f"{storage.where(key)} stays: {error.message}", "delete it")


def _folder_findings(folder: Path, what: str) -> Iterator[Finding]:
    try:
        place = require_writable(folder)
        if not folder.exists():
            yield Finding("ok", what, f"{folder} is not there yet, and can be made in {place}")
            return
        with (
            filesystem_errors(str(folder)),
            tempfile.TemporaryDirectory(dir=folder, prefix=f"{RESERVED}doctor-") as tried,
        ):
            storage = FileStorage(Path(tried))
            require_conditional_writes(storage, NO_MODEL)
            written = storage.local_path(probe_key(NO_MODEL)).stat().st_mtime
            skew = abs(written - datetime.now(UTC).timestamp())
    except RetrainerError as error:
        yield problem(what, error)
        return
    yield Finding("ok", what, f"{folder} can be read and written, with locks")
    if skew > SOME_SKEW:
        text = f"this machine's clock and that of the disk of {folder} are {skew:,.0f} s apart"
        yield Finding("warning", what, text, "set both clocks, with NTP (timedatectl set-ntp true)")
