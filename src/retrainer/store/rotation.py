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
from typing import Literal, TypeVar

from retrainer.errors import IntegrityError, NotFoundError, SignatureError
from retrainer.storage import Storage
from retrainer.store.signing import Keyring, Signer
from retrainer.store.store import ModelStore

Done = Literal["signed", "signed already", "left"]
Result = TypeVar("Result")


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
    :raises SignatureError: what is live is not signed by one of these keys, or was altered. Nothing more is signed.
    """
    keys = Keyring((*(old.keys if old else ()), signer.public))
    rotation = _Rotation(
        new=ModelStore(storage, model, signer=signer, trusted=Keyring((signer.public,))),
        checked=ModelStore(storage, model, signer=signer, trusted=keys),
        unchecked=ModelStore(storage, model, signer=signer),
        trust_unsigned=trust_unsigned,
    )
    live: set[str] = set()
    for channel in rotation.checked.channels():
        version, trusted = rotation.champion(channel)
        if version not in live:
            live.add(version)
            yield rotation.sign_version(version)
        already = _signed(lambda name=channel: rotation.new.newest_move(name))  # type: ignore[misc]
        trusted.sign_channel(channel, actor=actor, reason=f"signed with the key {signer.public.key_id}")
        yield Signed(model, f"channel {channel}", "signed already" if already else "signed")
    for info in rotation.unchecked.versions() if every_version else ():
        if info.version not in live:
            yield rotation.sign_if_trusted(info.version)


@dataclass(frozen=True, slots=True)
class _Rotation:
    """One model, read in three ways.

    :ivar new: only what the new key signed.
    :ivar checked: what the new or an old key signed.
    :ivar unchecked: all.
    """

    new: ModelStore
    checked: ModelStore
    unchecked: ModelStore
    trust_unsigned: bool

    def champion(self, channel: str) -> tuple[str, ModelStore]:
        """The version of a channel once its newest move was checked, and the way in which it could be read."""
        model = self.checked
        try:
            move = model.newest_move(channel)
        except SignatureError as error:
            model = self.unchecked
            move = model.newest_move(channel)
            self._allow(error, unsigned=move is not None and move.signature is None)
            model.verify_channel(channel)  # nobody vouches for it, so at least it has to be whole
        if move is None:
            raise NotFoundError(
                f"the channel '{channel}' is gone", where=f"model {model.name}", hint="somebody else deleted it"
            )
        return move.to_version, model

    def sign_version(self, version: str) -> Signed:
        """Sign a version, once the signature of a trusted key was checked."""
        what = f"version {version}"
        if _signed(lambda: self.new.manifest(version)):
            return Signed(self.new.name, what, "signed already")
        try:
            self.checked.sign_version(version)
        except SignatureError as error:
            self._allow(error, unsigned=not self.unchecked.signatures(version))
            with tempfile.TemporaryDirectory(prefix="retrainer-sign-") as folder:
                self.unchecked.fetch(version, Path(folder))
            self.unchecked.sign_version(version)
        return Signed(self.new.name, what, "signed")

    def sign_if_trusted(self, version: str) -> Signed:
        """The same for a version that nobody serves: what cannot be trusted is left."""
        try:
            return self.sign_version(version)
        except (IntegrityError, NotFoundError) as error:
            return Signed(self.new.name, f"version {version}", "left", problem=error.message)

    def _allow(self, error: SignatureError, *, unsigned: bool) -> None:
        """Go on with what nobody signed, where that was asked for."""
        if unsigned and self.trust_unsigned:
            return
        hint = (
            "if this store was begun without keys and you looked at it, sign it with --trust-unsigned"
            if unsigned
            else "name the key that signed it with --public-key"
        )
        raise SignatureError(error.message, where=error.where, hint=hint)


def _signed(read: Callable[[], object]) -> bool:
    """Whether a reader that trusts the new key alone can read something."""
    try:
        read()
    except SignatureError:
        return False
    return True
