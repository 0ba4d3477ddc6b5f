"""Rotation of keys: what an old key signed is signed by a new one, after the old signature was checked.

The way to a new key: readers pin the old and the new one, publishers sign with the new one, what is live is signed
here, readers drop the old. Nothing is signed because it lies there: each version and pointer needs the signature of a
key that is trusted, except in a store that was begun without keys, where somebody has to vouch for it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrainer.errors import IntegrityError, NotFoundError, SignatureError
from retrainer.storage import Storage
from retrainer.store.channels import Pointer
from retrainer.store.signing import Keyring, Signer
from retrainer.store.store import ModelStore, Store

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
    every_version: bool = False,
    trust_unsigned: bool = False,
) -> Iterator[Signed]:
    """Sign what a model's channels serve, and the channels. A second time, it changes nothing.

    :param storage: that of the store.
    :param old: keys whose signatures count; those of ``signer`` do anyway.
    :param every_version: also the versions that no channel serves; what none of the keys signed is left as it is.
    :param trust_unsigned: also sign what nobody signed, once its files and its history proved to be whole.
    :return: a line for each thing, as it is done: of each channel its version, then its pointer.
    :raises SignatureError: what is live is not signed by one of these keys, or was altered. Nothing more is signed.
    """
    keys = Keyring((*(old.keys if old else ()), signer.public))
    rotation = _Rotation(
        new=Store(storage, signer=signer, trusted=Keyring((signer.public,))).model(model),
        checked=Store(storage, signer=signer, trusted=keys).model(model),
        unchecked=Store(storage, signer=signer).model(model),
        trust_unsigned=trust_unsigned,
    )
    live: set[str] = set()
    channels = rotation.checked.channels()
    for channel in [] if channels else rotation.checked.lost_channels():
        rotation.checked.newest_pointer(channel)  # says that it was deleted: nothing to sign would look like a success
    for channel in channels:
        version = rotation.champion(channel)
        if version not in live:
            live.add(version)
            yield rotation.sign_version(version)
        yield rotation.sign_channel(channel)
    if every_version:
        for info in rotation.unchecked.versions():
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

    def champion(self, channel: str) -> str:
        """The version of a channel, once its pointer was checked."""
        try:
            pointer = self.checked.pointer(channel)
        except SignatureError as error:
            pointer = self.unchecked.pointer(channel)
            self._allow(error, unsigned=pointer is not None and pointer.signature is None)
            self.unchecked.verify_channel(channel)  # nobody vouches for it, so at least it has to be whole
        if pointer is None:
            raise NotFoundError(
                f"the channel '{channel}' is gone", where=f"model {self.checked.name}", hint="somebody else deleted it"
            )
        return pointer.version

    def sign_version(self, version: str) -> Signed:
        """Sign a version, once the signature of a trusted key was checked."""
        what = f"version {version}"
        if _reads(self.new, version):
            return Signed(self.new.name, what, "signed already")
        try:
            self.checked.manifest(version)
        except SignatureError as error:
            self._allow(error, unsigned=not self.unchecked.signatures(version))
            with tempfile.TemporaryDirectory(prefix="retrainer-sign-") as folder:
                self.unchecked.fetch(version, Path(folder))
            self.unchecked.sign_version(version)
        else:
            self.checked.sign_version(version)
        return Signed(self.new.name, what, "signed")

    def sign_if_trusted(self, version: str) -> Signed:
        """The same for a version that nobody serves: what cannot be trusted is left."""
        try:
            return self.sign_version(version)
        except (IntegrityError, NotFoundError) as error:
            return Signed(self.new.name, f"version {version}", "left", problem=error.message)

    def sign_channel(self, channel: str) -> Signed:
        """Sign a pointer that ``champion`` let pass."""
        already = self._pointer(self.new, channel) is not None
        trusted = self.checked if self._pointer(self.checked, channel) is not None else self.unchecked
        trusted.sign_pointer(channel)  # also when it is signed already: a killed run may have left the journal behind
        return Signed(self.new.name, f"channel {channel}", "signed already" if already else "signed")

    @staticmethod
    def _pointer(model: ModelStore, channel: str) -> Pointer | None:
        try:
            return model.pointer(channel)
        except SignatureError:
            return None

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


def _reads(model: ModelStore, version: str) -> bool:
    """Whether a version is signed by a key that this reader trusts."""
    try:
        model.manifest(version)
    except SignatureError:
        return False
    return True
