"""Whether all that a channel says holds together: pointer, champion's manifest, history and journal."""

from __future__ import annotations

from retrainer.errors import IntegrityError, NotFoundError, ReplayError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.history import walk_named
from retrainer.store.manifest import Manifest
from retrainer.store.moves import Moves
from retrainer.store.names import pointer_key
from retrainer.store.parallel import in_parallel
from retrainer.store.versions import Versions


def check_channel(storage: Storage, moves: Moves, versions: Versions, channel: str) -> Pointer | None:
    """Check a channel to its first move, and raise the first thing that is wrong.

    :return: the pointer; ``None`` for a channel that never had one.
    :raises ReplayError: an older pointer was put back.
    :raises IntegrityError: pointer, manifest, history or journal was deleted or altered.
    """
    journal = moves.journal(channel)
    # A move is written down after its swap: what is in the journal now, a pointer read later cannot be behind of.
    sequences = journal.sequences()
    pointer = moves.seen(channel).pointer
    if pointer is None:
        if sequences:
            raise moves.deleted(channel)
        return None
    if sequences and sequences[0] > pointer.sequence:
        raise ReplayError(
            f"an older pointer was put back: it is of move {pointer.sequence} and the journal has {sequences[0]}",
            where=storage.where(pointer_key(pointer.model, channel)),
            hint="find out by whom; 'retrainer fsck --repair' restores the newest pointer from the journal",
        )
    manifest_of(versions, pointer)
    history = {entry.sequence: (name, entry.to_version) for name, entry in walk_named(storage, pointer)}
    for sequence, written in zip(sequences, in_parallel(journal.read, sequences), strict=True):
        if written is None:
            continue
        if sequence == pointer.sequence:
            journal.agree(pointer, written)
        elif (written.history, written.version) != history[sequence]:
            raise IntegrityError(
                f"move {sequence} of the channel '{channel}' is another in the journal than in the history",
                where=storage.where(journal.key(sequence)),
                hint="run 'retrainer fsck' on the store",
            )
    return pointer


def manifest_of(versions: Versions, pointer: Pointer) -> Manifest:
    """The manifest of the version that a pointer names, checked against it.

    :raises IntegrityError: it is missing or was altered.
    """
    try:
        return versions.manifest(pointer.version, sha256=pointer.manifest_sha256)
    except NotFoundError as error:
        raise IntegrityError(
            f"the channel '{pointer.channel}' points at a version that is not there: {pointer.version}",
            where=error.where,
            hint="roll the channel back to a version that is",
        ) from None
