"""A store that is read with pinned keys: unsigned, altered and replaced things are refused, and nothing is signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.errors import IntegrityError, SignatureError, UserError
from retrainer.storage import Storage, open_storage
from retrainer.store import Keyring, Manifest, ModelStore, Signer, Store
from tests.store.conftest import publish

MakeBundle = Callable[[str], tuple[Path, Manifest]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def storage(url: str) -> Storage:
    return open_storage(url)


def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def old() -> Signer:
    return signer()


@pytest.fixture
def new() -> Signer:
    return signer()


Open = Callable[..., ModelStore]


@pytest.fixture
def opened(url: str) -> Open:
    """The model, signing with a key and trusting others."""

    def open_model(signer: Signer | None = None, *trusted: Signer) -> ModelStore:
        keys = Keyring(tuple(key.public for key in trusted)) if trusted else None
        return Store.open(url, signer=signer, trusted=keys).model("news")

    return open_model


def edit(storage: Storage, key: str, **changes: Any) -> bytes:
    sound = storage.read(key)
    storage.write(key, (json.dumps(json.loads(sound) | changes, indent=2) + "\n").encode())
    return sound


HINT = "news/channels/production/latest.json"


def move_key(number: int) -> str:
    return f"news/channels/production/{number:010d}.json"


def test_what_is_published_with_a_key_is_read_with_it(
    opened: Open, old: Signer, bundle: MakeBundle, tmp_path: Path
) -> None:
    published = publish(opened(old), bundle("one"))
    reader = opened(None, old)
    newest = reader.newest_move("production")
    assert newest is not None
    assert newest.signature is not None
    assert newest.signature.key_id == old.public.key_id
    assert reader.champion("production") == reader.manifest(published.version) == bundle("one")[1]
    reader.fetch(published.version, tmp_path / "copy")
    (signature,) = reader.signatures(published.version)
    assert (signature.statement.version, signature.statement.manifest_sha256) == (
        published.version,
        newest.manifest_sha256,
    )
    assert opened().signatures(published.version) == (signature,)
    assert reader.verify_channel("production") == newest
    assert [info.problem for info in reader.versions(limit=3)] == [None]
    # Who pinned nothing reads it too.
    assert opened().champion("production") == bundle("one")[1]


def test_an_unsigned_store_is_refused(opened: Open, old: Signer, bundle: MakeBundle, tmp_path: Path) -> None:
    version = publish(opened(), bundle("one")).version
    reader = opened(None, old)
    of_channel: list[Callable[[], object]] = [
        lambda: reader.newest_move("production"),
        lambda: reader.champion("production"),
        lambda: reader.history("production"),
        lambda: reader.verify_channel("production"),
        lambda: publish(opened(old, old), bundle("two"), version),
        lambda: opened(old, old).rollback("production", to=version, actor="", reason=""),
        lambda: opened(old, old).sign_channel("production", actor="", reason=""),
    ]
    for attempt in of_channel:
        with pytest.raises(SignatureError, match="move 1 is not signed"):
            attempt()
    of_version: list[Callable[[], object]] = [
        lambda: reader.manifest(version),
        lambda: reader.fetch(version, tmp_path / "copy"),
        lambda: opened(old, old).sign_version(version),
    ]
    for attempt in of_version:
        with pytest.raises(SignatureError, match=f"version {version} is not signed by a key that is trusted"):
            attempt()
    assert reader.signatures(version) == opened().signatures(version) == ()
    assert not (tmp_path / "copy").exists()


def test_a_removed_or_altered_signature(
    storage: Storage, opened: Open, old: Signer, new: Signer, bundle: MakeBundle
) -> None:
    one = publish(opened(old), bundle("one")).version
    two = publish(opened(old), bundle("two"), one).version
    reader = opened(None, new, old)
    hint = storage.read(HINT)
    for changes, message in (
        ({"at": "2030-01-01T00:00:00.000000+00:00"}, "does not hold: it was altered"),
        ({"to_version": one}, "does not hold: it was altered"),
        ({"signature": None}, "move 2 is not signed"),
    ):
        sound = edit(storage, move_key(2), **changes)
        with pytest.raises(IntegrityError, match="its hash is not that of the hint"):
            reader.newest_move("production")
        storage.delete(HINT)
        with pytest.raises(SignatureError, match=message):
            reader.newest_move("production")
        storage.write(move_key(2), sound)
        storage.write(HINT, hint)
    key = f"news/versions/{two}/signatures/{old.public.key_id}.json"
    other = storage.read(key.replace(two, one))
    sound = storage.read(key)
    for content, message in (
        (other, f"of another version or of another manifest: news {one}"),
        (sound.replace(b'"value": "', b'"value": "AAAA'), "the signature of the version does not hold"),
        (b"{}", "not a valid VersionSignature"),
    ):
        storage.write(key, content)
        with pytest.raises(SignatureError, match=message) as caught:
            reader.champion("production")
        assert caught.value.where == storage.where(key)
    storage.delete(key)
    with pytest.raises(SignatureError, match="is not signed by a key that is trusted"):
        reader.champion("production")
    # Publishing the same again completes what is missing.
    assert publish(opened(old, old), bundle("two"), one).moved is False
    assert storage.read(key) == sound
    assert reader.champion("production") == bundle("two")[1]


def test_a_manifest_that_somebody_replaced_is_not_what_was_signed(
    storage: Storage, opened: Open, old: Signer, bundle: MakeBundle
) -> None:
    version = publish(opened(old), bundle("one")).version
    key = f"news/versions/{version}/manifest.json"
    storage.write(key, storage.read(key) + b"\n")  # the same version by its name, in other bytes
    with pytest.raises(SignatureError, match="of another manifest"):
        opened(None, old).manifest(version)


def test_a_signed_channel_is_not_moved_without_a_key(
    storage: Storage, opened: Open, old: Signer, bundle: MakeBundle
) -> None:
    one = publish(opened(old), bundle("one")).version
    two = publish(opened(old), bundle("two"), one).version
    before = {info.key: info.etag for info in storage.list()}
    model = opened()
    moves: list[Callable[[], object]] = [
        lambda: publish(model, bundle("three"), two),
        lambda: publish(model, bundle("two"), one),
        lambda: model.rollback("production", actor="bob", reason=""),
        lambda: model.promote("production", version=one, actor="bob", reason=""),
    ]
    for attempt in moves:
        with pytest.raises(UserError, match="is signed, and there is no private key"):
            attempt()
    signing: list[Callable[[], object]] = [
        lambda: model.sign_version(one),
        lambda: model.sign_channel("production", actor="", reason=""),
    ]
    for attempt in signing:
        with pytest.raises(UserError, match="no private key to sign with"):
            attempt()
    assert {info.key: info.etag for info in storage.list()} == before


def test_a_store_that_was_begun_without_keys(opened: Open, old: Signer, bundle: MakeBundle) -> None:
    """The first move with a key signs the channel. From then on it moves to what the key signed."""
    one = publish(opened(), bundle("one")).version
    assert publish(opened(old), bundle("one")).moved is False  # the same content: signed as it is
    assert opened(None, old).champion("production") == bundle("one")[1]
    reader = opened(None, old)
    assert [(move.sequence, move.action, move.actor) for move in reader.history("production")] == [
        (2, "sign", "ada"),
        (1, "publish", "ada"),
    ]
    folder, manifest = bundle("aside")
    aside = opened().put_version(folder, manifest)
    with pytest.raises(SignatureError):
        reader.manifest(aside)
    with pytest.raises(SignatureError, match="is not signed by a key") as caught:
        opened(old).promote("production", version=aside, actor="ada", reason="")
    assert "retrainer sign --all --trust-unsigned" in str(caught.value.hint)
    opened(old).sign_version(aside)
    assert opened(old).promote("production", version=aside, actor="ada", reason="").previous == one
    assert reader.champion("production") == manifest
    assert reader.verify_channel("production") is not None


def test_keys_are_rotated(storage: Storage, opened: Open, old: Signer, new: Signer, bundle: MakeBundle) -> None:
    one = publish(opened(old), bundle("one")).version
    both = opened(new, old, new)
    before = opened(None, old).newest_move("production")
    assert before is not None
    signature = both.sign_version(one)
    assert signature.signature.key_id == new.public.key_id
    assert both.sign_version(one) == signature
    assert {found.signature.key_id for found in opened().signatures(one)} == {old.public.key_id, new.public.key_id}
    assert len(opened(None, old, new).signatures(one)) == 2
    signed = both.sign_channel("production", actor="ada", reason="rotated")
    assert both.sign_channel("production", actor="ada", reason="again") == signed
    assert (signed.sequence, signed.action, signed.from_version, signed.to_version) == (2, "sign", one, one)
    assert (signed.previous, signed.cause, signed.reason) == (before.sha256, "maintenance", "rotated")
    assert opened(None, new).champion("production") == bundle("one")[1]
    assert opened(None, new).verify_channel("production") == signed
    with pytest.raises(SignatureError, match="which is not trusted here"):
        opened(None, old).newest_move("production")
    # A move by the new key over what the old one wrote.
    two = publish(both, bundle("two"), one).version
    assert opened(new, new).rollback("production", actor="ada", reason="").version == one
    assert opened(None, new).verify_channel("production") is not None
    assert opened(None, new).manifest(two) == bundle("two")[1]


def test_a_signature_of_a_stranger_counts_for_nothing(
    storage: Storage, opened: Open, old: Signer, new: Signer, bundle: MakeBundle
) -> None:
    one = publish(opened(old), bundle("one")).version
    with pytest.raises(SignatureError, match="which is not trusted here"):
        publish(opened(new), bundle("two"), one)
    publish(opened(new, old, new), bundle("two"), one)  # but whoever can write can move a store
    with pytest.raises(SignatureError, match="which is not trusted here"):
        opened(None, old).champion("production")
    with pytest.raises(SignatureError, match="which is not trusted here"):
        publish(opened(old, old), bundle("three"), bundle("two")[1].version)
    # The stranger's signature under the name of the trusted key.
    two = bundle("two")[1].version
    mine, theirs = (f"news/versions/{two}/signatures/{key.public.key_id}.json" for key in (old, new))
    storage.write(mine, storage.read(theirs))
    with pytest.raises(SignatureError, match="which is not trusted here"):
        opened(None, old).manifest(two)
