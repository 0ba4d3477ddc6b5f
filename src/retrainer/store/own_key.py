"""What somebody may sign who was told of no public key to trust: nothing that was planted in a signed store.

A move signs the version that it goes to and itself, and every reader who pinned the key believes both. So where the
channel was signed before, only what this very key signed counts: the newest move of the channel that is moved, that of
the one that is promoted from, and the version. A channel that nobody ever signed is moved as it is; its first signed
move begins it. Not here: the keys that a caller names, which take the place of all this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from retrainer.errors import IntegrityError, SignatureError
from retrainer.storage import Storage
from retrainer.store.log import ChannelLog
from retrainer.store.move import Move
from retrainer.store.parallel import in_parallel
from retrainer.store.reading import list_channels
from retrainer.store.signing import Keyring, Signer

# Moves of a channel that are looked at for a signature: the newest, and the first.
_LOOKED_AT = 8


def own_keys(storage: Storage, model: str, newest: Move | None, signer: Signer) -> Keyring | None:
    """The key that signs as the one to trust; ``None`` for a channel that was never signed.

    No further request where the newest move is signed, as it is where moves are signed.

    :param newest: move of the channel that is to move. Where it is not signed those before it tell; for a channel
        that is new, those of the model's other channels.
    """
    if newest is not None and newest.signature is not None:
        return Keyring((signer.public,))
    channels = [newest.channel] if newest is not None else list_channels(storage, model)
    signed = any(_signs(ChannelLog(storage, model, channel)) for channel in channels)
    return Keyring((signer.public,)) if signed else None


def _signs(log: ChannelLog) -> bool:
    try:
        newest = log.head().move
    except IntegrityError:
        return True  # nobody can tell, so what is signed has to prove itself

    def signed(sequence: int) -> bool:
        try:
            move = log.read(sequence)
        except IntegrityError:
            return False
        return move is not None and move.signature is not None

    return newest is not None and any(
        in_parallel(signed, {1, *range(max(newest.sequence - _LOOKED_AT, 1), newest.sequence + 1)})
    )


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
