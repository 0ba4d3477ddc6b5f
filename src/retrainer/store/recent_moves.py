"""What a reader can afford to check of a channel before it believes a pointer: the moves since it last looked.

A whole history may be thousands of entries, one request after the other; that is ``channel_check.py`` and fsck. A
reader that follows a channel reads one entry a move, and one that is new to it the last few.
"""

from __future__ import annotations

from itertools import islice

from retrainer.errors import IntegrityError, ReplayError, StoragePermissionError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.history import walk_named
from retrainer.store.journal import Journal
from retrainer.store.names import pointer_key
from retrainer.store.parallel import in_parallel

# A second or two from a bucket, the first time; afterwards only what is new.
RECENT_MOVES = 32


def check_recent_moves(storage: Storage, pointer: Pointer, *, known: Pointer | None) -> None:
    """Check the entries of the history that led to a pointer, and what the journal says of it.

    A channel that moves on just now looks like one whose older pointer was put back: read the pointer again, and
    believe the error only when it is still the same.

    :param known: a pointer of this channel that was checked before; the history is followed down to it, but for no
        more than ``RECENT_MOVES`` entries.
    :raises IntegrityError: an entry is missing or was altered, or the journal has another move of that number.
    :raises ReplayError: the journal has a later move.
    """
    # One of another origin is no part of this history, or one of the two was altered: what was seen proves nothing.
    checked = known if known is not None and known.origin == pointer.origin else None
    for _ in islice(walk_named(storage, pointer, known=checked), RECENT_MOVES):
        pass
    check_journal(storage, pointer)


def check_journal(storage: Storage, pointer: Pointer) -> None:
    """Check that the journal has no later move than a pointer's, and no other in its place; two requests at once.

    Errors as of ``check_recent_moves``.
    """
    journal = Journal(storage, pointer.model, pointer.channel)

    def read(sequence: int) -> Pointer | None:
        try:
            return journal.read(sequence)
        except StoragePermissionError:
            # Without the permission to list, a bucket does not tell what is missing from what is forbidden.
            return None
        except IntegrityError:
            if sequence > pointer.sequence:
                raise
            return None  # a damaged note of this move says nothing against it, and fsck names it

    own, later = in_parallel(read, (pointer.sequence, pointer.sequence + 1))
    if later is not None:
        raise ReplayError(
            f"an older pointer was put back: it is of move {pointer.sequence}, and the journal has a later one",
            where=storage.where(pointer_key(pointer.model, pointer.channel)),
            hint="find out by whom; 'retrainer fsck --repair' restores the newest pointer from the journal",
        )
    if own is not None:
        journal.agree(pointer, own)
