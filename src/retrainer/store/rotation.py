"""Signing a store anew: what an old key signed is signed by a new one, after the old signature was checked.

The way to a new key: readers pin the old and the new one, publishers sign with the new one, what is live is signed
here, readers drop the old. Nothing is signed because it is there: each version and channel needs the signature of a
key that is trusted, except in a store that was begun without keys, where somebody has to vouch for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrainer.errors import IntegrityError, NotFoundError, SignatureError
from retrainer.storage import Storage
from retrainer.store.signing import Keyring, Signer
from retrainer.store.store import ModelStore

Done = Literal["signed", "signed already", "left"]


@dataclass(frozen=True, slots=True)
class Signed:
    """What became of one version or channel.

    :ivar what: ``version 0123456789abcdef`` or ``channel production``.
    :ivar problem: why it was left.
    """

    model: str
    what: str
    done: Done
    problem: str | None = None


def sign_again(
    storage: Storage,
    model: str,
    *,
    signer: Signer,
    old: Keyring | None,
    actor: str,
    every_version: bool = False,
    trust_unsigned: bool = False,
) -> Iterator[Signed]:
    """Sign what a model's channels serve, and the channels. A second time, it changes nothing.

    :param storage: that of the store.
    :param old: keys whose signatures count; those of ``signer`` do anyway.
    :param actor: who signs, for the moves that say so.
    :param every_version: also the versions that no channel serves; what none of the keys signed is left as it is.
    :param trust_unsigned: also sign what nobody signed, once its files and its history proved to be whole.
    :return: a line for each thing, as it is done: of each channel its version, then itself.
    :raises ChampionChanged: a channel was moved after it was looked at. It is not signed.
    :raises SignatureError: what is live is not signed by one of these keys, or was altered. Nothing more is signed.
    """
    keys = Keyring((*(old.keys if old else ()), signer.public))
    # The model read in three ways: only what the new key signed, what the new or an old key signed, all.
    new, checked, unchecked = (
        ModelStore(storage, model, signer=signer, trusted=trusted)
        for trusted in (Keyring((signer.public,)), keys, None)
    )

    def sign_version(version: str) -> Signed:
        if _is_read(lambda: new.manifest(version)):
            return Signed(model, f"version {version}", "signed already")
        try:
            checked.sign_version(version)
        except SignatureError as error:
            _allow(error, unsigned=not unchecked.signatures(version), trust_unsigned=trust_unsigned)
            with tempfile.TemporaryDirectory(prefix="retrainer-sign-") as folder:
                unchecked.fetch(version, Path(folder))
            unchecked.sign_version(version)
        return Signed(model, f"version {version}", "signed")

    live: set[str] = set()
    for channel in checked.channels():
        believed = checked
        try:
            newest = checked.newest_move(channel)
        except SignatureError as error:
            believed = unchecked
            newest = unchecked.newest_move(channel)
            unsigned = newest is not None and newest.signature is None
            _allow(error, unsigned=unsigned, trust_unsigned=trust_unsigned)
            unchecked.verify_channel(channel)  # nobody vouches for it, so at least it has to be whole
        if newest is None:
            continue
        if newest.to_version not in live:
            live.add(newest.to_version)
            yield sign_version(newest.to_version)
        reason = f"signed with the key {signer.public.key_id}"
        signed = believed.sign_channel(channel, actor=actor, reason=reason, expected=newest)
        yield Signed(model, f"channel {channel}", "signed already" if signed == newest else "signed")
    for info in unchecked.versions() if every_version else ():
        if info.version in live:
            continue
        try:
            yield sign_version(info.version)
        except (IntegrityError, NotFoundError) as error:  # nobody serves it: what cannot be trusted is left
            yield Signed(model, f"version {info.version}", "left", problem=error.message)


def _allow(error: SignatureError, *, unsigned: bool, trust_unsigned: bool) -> None:
    """Go on with what nobody signed, where that was asked for."""
    if unsigned and trust_unsigned:
        return
    hint = (
        "if this store was begun without keys and you looked at it, sign it with --trust-unsigned"
        if unsigned
        else "name the key that signed it with --public-key"
    )
    raise SignatureError(error.message, where=error.where, hint=hint)


def _is_read(read: Callable[[], object]) -> bool:
    """Whether a reader that trusts the new key alone can read something."""
    try:
        read()
    except SignatureError:
        return False
    return True
