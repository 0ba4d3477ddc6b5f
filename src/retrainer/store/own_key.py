"""What somebody may sign who was told of no public key to trust: nothing that was planted in a signed store.

A move signs the version that it goes to and the pointer, and every reader who pinned the key believes both. So where
the channel was signed before, only what this very key signed counts: the pointer that is moved, the one that is
promoted from, and the version. A channel that nobody ever signed is moved as it is; its first signed move begins it.
Not here: the keys that a caller names, which take the place of all this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from retrainer.errors import IntegrityError, SignatureError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.journal import Journal
from retrainer.store.names import is_name
from retrainer.store.parallel import in_parallel
from retrainer.store.signing import Keyring, Signer

# Moves of a journal that are looked at for a signature: the newest, and the first.
_LOOKED_AT = 8


def own_keys(storage: Storage, model: str, channel: str, pointer: Pointer | None, signer: Signer) -> Keyring | None:
    """The key that signs as the one to trust; ``None`` for a channel that was never signed.

    No further request where the pointer is signed, as it is where moves are signed.

    :param pointer: of the channel that is to move. Where it says nothing of signatures the journal does: its own, or
        for a channel that is new those of the model's other channels.
    """
    if pointer is not None:
        signed = pointer.signature is not None or _was_signed(storage, model, channel)
    else:
        others = [name for name in storage.list_folders(f"{model}/journal") if is_name(name)]
        signed = any(_was_signed(storage, model, name) for name in others)
    return Keyring((signer.public,)) if signed else None


def _was_signed(storage: Storage, model: str, channel: str) -> bool:
    journal = Journal(storage, model, channel)

    def signed(sequence: int) -> bool:
        try:
            written = journal.read(sequence)
        except IntegrityError:
            return False
        return written is not None and written.signature is not None

    sequences = journal.sequences()
    return any(in_parallel(signed, {*sequences[:_LOOKED_AT], *sequences[-1:]}))


@contextmanager
def told_what_to_do(own: bool) -> Iterator[None]:
    """Say of a refused signature what the one can do who has the private key.

    :param own: whether it is only for the rule above that a signature was asked for.
    """
    try:
        yield
    except SignatureError as error:
        if not own:
            raise
        raise SignatureError(
            error.message,
            where=error.where,
            hint="the channel is signed, and a move signs what it goes to; if another key signed this, name it beside "
            "your own with --public-key (a pipeline: trusted_keys); if nobody did and you looked at it, use 'retrainer "
            "sign --all --trust-unsigned' first; if it should be signed by your key, find out who altered the store",
        ) from None
