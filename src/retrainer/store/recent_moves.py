"""What a reader can afford to check of a channel before it believes a pointer: the moves since it last looked.

A whole history may be thousands of entries, one request after the other; that is ``channel_check.py`` and fsck. A
reader that follows a channel reads one entry a move, and one that is new to it the last few.
"""

from __future__ import annotations

from retrainer.errors import ReplayError, StoragePermissionError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.history import walk_named
from retrainer.store.journal import Journal
from retrainer.store.names import pointer_key

# A second or two from a bucket, the first time; afterwards only what is new.
RECENT_MOVES = 32


def check_recent_moves(storage: Storage, pointer: Pointer, *, known: Pointer | None) -> None:
    """Check the entries of the history that led to a pointer, and that the journal has no later move.

    A channel that moves on just now looks like one whose older pointer was put back: read the pointer again, and
    believe the error only when it is still the same.

    :param known: a pointer of this channel that was checked before; the history is followed down to it, but for no
        more than ``RECENT_MOVES`` entries.
    :raises IntegrityError: an entry is missing or was altered.
    :raises ReplayError: the journal has a later move.
    """
    # Entries are named by their content: one that was checked stands for all before it.
    checked = known.history if known is not None else None
    for number, (name, _) in enumerate(walk_named(storage, pointer), start=1):
        if name == checked or number == RECENT_MOVES:
            break
    if _goes_on(storage, pointer):
        raise ReplayError(
            f"an older pointer was put back: it is of move {pointer.sequence}, and the journal has a later one",
            where=storage.where(pointer_key(pointer.model, pointer.channel)),
            hint="find out by whom; 'retrainer fsck --repair' restores the newest pointer from the journal",
        )


def _goes_on(storage: Storage, pointer: Pointer) -> bool:
    journal = Journal(storage, pointer.model, pointer.channel)
    try:
        return journal.read(pointer.sequence + 1) is not None
    except StoragePermissionError:
        # Without the permission to list, a bucket does not tell what is missing from what is forbidden.
        return False
