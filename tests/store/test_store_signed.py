"""A signed store on a folder and in a bucket: a reader who pinned the key is served by its owner or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import ChampionChanged, IntegrityError, ReplayError, SignatureError, UserError
from retrainer.storage import Storage
from retrainer.store import Keyring, Manifest, ModelStore, Move, Signer, Store
from retrainer.store.rotation import Signed, sign_again
from retrainer.store.signing_keys import load_signer, make_key_pair

MakeBundle = Callable[[str], tuple[Path, Manifest]]
Publish = Callable[..., str]

HINT = "news/channels/production/latest.json"


def move_key(number: int, channel: str = "production") -> str:
    return f"news/channels/{channel}/{number:010d}.json"


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Signer, Signer]:
    """The publisher's key, and another."""
    folder = tmp_path_factory.mktemp("keys")
    one, other = (load_signer(f"file:{make_key_pair(folder / name).private}") for name in ("release", "other"))
    return one, other


@pytest.fixture
def signer(signers: tuple[Signer, Signer]) -> Signer:
    return signers[0]


@pytest.fixture
def other(signers: tuple[Signer, Signer]) -> Signer:
    return signers[1]


@pytest.fixture
def publish(storage: Storage, bundle: MakeBundle) -> Publish:
    """Publishes a bundle of that content over the present champion, signed or not."""

    def run(content: str, signer: Signer | None, channel: str = "production", trusted: Keyring | None = None) -> str:
        folder, manifest = bundle(content)
        model = Store(storage, signer=signer, trusted=trusted).model("news")
        newest = model.newest_move(channel)
        return model.publish(
            folder,
            manifest,
            channel=channel,
            actor="ada",
            reason=f"publish {content}",
            decision=None,
            expected=newest.to_version if newest else None,
        ).version

    return run


@pytest.fixture
def pinned(storage: Storage, signer: Signer) -> ModelStore:
    """The store as a reader sees it who pinned the publisher's key."""
    return Store(storage, trusted=Keyring((signer.public,))).model("news")


def signature_file(version: str, signer: Signer) -> str:
    return f"news/versions/{version}/signatures/{signer.public.key_id}.json"


def edit(storage: Storage, key: str, **changes: Any) -> None:
    text = json.dumps(json.loads(storage.read(key)) | changes, indent=2) + "\n"
    storage.write(key, text.encode())


def test_what_is_published_with_a_key_is_read_with_its_public_one(
    storage: Storage, publish: Publish, pinned: ModelStore, signer: Signer, bundle: MakeBundle, tmp_path: Path
) -> None:
    first, second = publish("one", signer), publish("two", signer)
    assert pinned.champion("production") == bundle("two")[1]
    assert pinned.fetch(first, tmp_path / "copy") == bundle("one")[1]
    assert [entry.to_version for entry in pinned.history("production")] == [second, first]
    assert [info.version for info in pinned.versions(limit=20)] == [second, first]
    (signature,) = pinned.signatures(second)
    assert signature.signature.key_id == signer.public.key_id
    assert pinned.verify_channel("production") == pinned.newest_move("production")
    # Who pins nothing reads it as any other store.
    assert Store(storage).model("news").champion("production") == bundle("two")[1]


def test_an_unsigned_store_is_not_read_with_a_pinned_key(publish: Publish, pinned: ModelStore, tmp_path: Path) -> None:
    version = publish("one", None)
    for attempt in (
        lambda: pinned.newest_move("production"),
        lambda: pinned.champion("production"),
        lambda: pinned.history("production"),
        lambda: pinned.manifest(version),
        lambda: pinned.fetch(version, tmp_path / "copy"),
    ):
        with pytest.raises(SignatureError, match="not signed"):
            attempt()
    assert not (tmp_path / "copy").exists()


def test_a_removed_signature_of_the_version(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer, tmp_path: Path
) -> None:
    version = publish("one", signer)
    storage.delete(signature_file(version, signer))
    attempts: list[Callable[[], object]] = [
        lambda: pinned.champion("production"),
        lambda: pinned.fetch(version, tmp_path / "copy"),
    ]
    for attempt in attempts:
        with pytest.raises(SignatureError, match="not signed by a key that is trusted"):
            attempt()
    assert publish("one", signer) == version  # the publisher puts it back
    assert pinned.champion("production") is not None


def test_a_removed_signature_of_the_newest_move(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer
) -> None:
    publish("one", signer)
    edit(storage, move_key(1), signature=None)
    storage.delete(HINT)
    with pytest.raises(SignatureError, match="move 1 is not signed") as caught:
        pinned.champion("production")
    assert caught.value.where == storage.where(move_key(1))


def test_signatures_by_another_key(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer, other: Signer
) -> None:
    """Somebody who may write to the store, and has a key of their own, publishes."""
    publish("one", signer)
    version = publish("two", other, trusted=Keyring((signer.public, other.public)))
    with pytest.raises(SignatureError, match=f"signed by the key {other.public.key_id}, which is not trusted here"):
        pinned.champion("production")
    with pytest.raises(SignatureError, match="not signed by a key that is trusted"):
        pinned.manifest(version)
    # Their signature in the place of the trusted one's.
    record = json.loads(storage.read(signature_file(version, other)))
    record["signature"]["key_id"] = signer.public.key_id
    storage.write(signature_file(version, signer), json.dumps(record).encode())
    with pytest.raises(SignatureError, match="does not hold"):
        pinned.manifest(version)
    signature = json.loads(storage.read(move_key(2)))["signature"]
    edit(storage, move_key(2), signature=signature | {"key_id": signer.public.key_id})
    storage.delete(HINT)
    with pytest.raises(SignatureError, match="does not hold"):
        pinned.newest_move("production")


def test_an_edited_move(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer, bundle: MakeBundle
) -> None:
    first = publish("one", signer)
    publish("two", signer)
    sound, hint = storage.read(move_key(2)), storage.read(HINT)
    now = Move.from_json(sound, where="here")
    for changes in (
        {"to_version": first},
        {"manifest_sha256": "0" * 64},
        {"previous": "0" * 64},
        {"at": "2020-01-01T00:00:00.000000+00:00"},
        {"origin": "0" * 64},
        {"reason": "another"},
    ):
        edit(storage, move_key(2), **changes)
        with pytest.raises(IntegrityError):
            pinned.champion("production")
        storage.delete(HINT)  # whoever may write can do that, too
        with pytest.raises(SignatureError, match="does not hold"):
            pinned.champion("production")
        storage.write(move_key(2), sound)
        storage.write(HINT, hint)
    # Another number is another move.
    storage.write(move_key(3), sound.replace(b'"sequence": 2', b'"sequence": 3'))
    with pytest.raises(IntegrityError):
        pinned.champion("production")
    storage.delete(move_key(3))
    assert pinned.newest_move("production") == now


def test_an_edited_manifest(publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer) -> None:
    version = publish("one", signer)
    key = f"news/versions/{version}/manifest.json"
    sound = storage.read(key)
    # The name of the version covers its content, the signature each byte.
    edits = {sound + b"\n": "another manifest", sound.replace(b"World", b"Wrold"): "not the one that was published"}
    for data, message in edits.items():
        storage.write(key, data)
        with pytest.raises(IntegrityError, match=message):
            pinned.manifest(version)
        with pytest.raises(IntegrityError, match="not the one that was published"):
            pinned.champion("production")
        storage.write(key, sound)
    assert pinned.champion("production") is not None


def test_the_signature_of_another_version(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer
) -> None:
    first, second = publish("one", signer), publish("two", signer)
    storage.write(signature_file(second, signer), storage.read(signature_file(first, signer)))
    with pytest.raises(SignatureError, match="of another version"):
        pinned.champion("production")


def test_a_version_that_was_swapped_below_its_move(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer, other: Signer
) -> None:
    """An attacker's bundle, whole in itself, under the name of a version that the owner signed."""
    first = publish("one", signer)
    attack = publish("two", other, "attack")
    for name in ("manifest.json", "config.json", "README.md", "onnx/model.onnx"):
        storage.write(f"news/versions/{first}/{name}", storage.read(f"news/versions/{attack}/{name}"))
    with pytest.raises(IntegrityError, match="not the one that was published"):
        pinned.champion("production")


def test_the_move_of_another_channel_or_model(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer
) -> None:
    publish("one", signer)
    publish("two", signer, "staging")
    storage.write(move_key(1), storage.read(move_key(1, "staging")))
    with pytest.raises(IntegrityError, match="is move 1 of the channel 'staging'"):
        pinned.champion("production")
    edit(storage, move_key(1), channel="production")
    storage.delete(HINT)
    with pytest.raises(SignatureError, match="does not hold"):
        pinned.champion("production")
    mail = "mail/channels/production/0000000001.json"
    storage.write(mail, storage.read(move_key(1, "staging")))
    edit(storage, mail, channel="production", model="mail")
    with pytest.raises(SignatureError, match="does not hold"):
        Store(storage, trusted=Keyring((signer.public,))).model("mail").champion("production")


def test_an_older_state_put_back(publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer) -> None:
    """Its signature holds, so only the hint tells, or a reader who has seen the later one."""
    first, _ = publish("one", signer), publish("two", signer)
    seen = pinned.newest_move("production")
    later = storage.read(move_key(2))
    storage.delete(move_key(2))
    for attempt in (
        lambda: pinned.newest_move("production"),
        lambda: pinned.verify_channel("production"),
        lambda: publish("three", signer),
        lambda: list(sign_again(storage, "news", signer=signer, old=None, actor="ada")),
    ):
        with pytest.raises(ReplayError, match="the newest moves of the channel 'production' were deleted"):
            attempt()
    storage.delete(HINT)  # then only who has seen it can tell, and is told by the number
    newest = pinned.newest_move("production", seen=seen)
    assert newest is not None
    assert (newest.to_version, newest.sequence) == (first, 1)
    storage.write(move_key(2), later)
    assert pinned.newest_move("production") == seen


def test_what_the_hint_says_of_older_moves_is_not_believed_with_a_pinned_key(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer
) -> None:
    """An older state was put back, its owner went on from there, and the hint was made to lead to what was seen."""
    publish("one", signer)
    hint = storage.read(HINT)
    publish("two", signer)
    seen = pinned.newest_move("production")
    assert seen is not None
    storage.delete(move_key(2))
    storage.write(HINT, hint)
    for content in ("three", "four", "five"):
        publish(content, signer)
    hashes = json.loads(storage.read(HINT))["hashes"]
    edit(storage, HINT, hashes=[*hashes[:2], seen.sha256, hashes[3]])
    with pytest.raises(ReplayError, match="move 2 of the channel 'production' is another one than was seen before"):
        pinned.newest_move("production", seen=seen)


def test_a_signed_channel_is_not_moved_without_a_key(storage: Storage, publish: Publish, signer: Signer) -> None:
    first, second = publish("one", signer), publish("two", signer)
    model = Store(storage).model("news")
    for attempt in (
        lambda: publish("three", None),
        lambda: model.rollback("production", actor="ada", reason=""),
        lambda: model.promote("production", version=first, actor="ada", reason=""),
    ):
        with pytest.raises(UserError, match="the channel 'production' is signed"):
            attempt()
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.to_version == second


def test_a_move_signs_what_it_moves_to(storage: Storage, publish: Publish, pinned: ModelStore, signer: Signer) -> None:
    """A version that was put unsigned, on a channel without a key, is promoted by somebody who has one."""
    version = publish("one", None, "staging")
    model = Store(storage, signer=signer).model("news")
    model.promote("production", from_channel="staging", actor="ada", reason="looks good")
    champion = pinned.champion("production")
    assert champion is not None
    assert champion.version == version
    with pytest.raises(SignatureError):
        pinned.newest_move("staging")


# Rotation


def reader(storage: Storage, *signers: Signer) -> ModelStore:
    return Store(storage, trusted=Keyring(tuple(signer.public for signer in signers))).model("news")


def test_rotation(publish: Publish, storage: Storage, signer: Signer, other: Signer) -> None:
    first, second, staged = publish("one", signer), publish("two", signer), publish("three", signer, "staging")
    old = Keyring((signer.public,))
    done = list(sign_again(storage, "news", signer=other, old=old, actor="ada"))
    assert done == [
        Signed("news", f"version {second}", "signed"),
        Signed("news", "channel production", "signed"),
        Signed("news", f"version {staged}", "signed"),
        Signed("news", "channel staging", "signed"),
    ]
    # Readers of the new key, and of both, are served; nothing has moved.
    for model in (reader(storage, other), reader(storage, signer, other)):
        newest = model.newest_move("production")
        assert newest is not None
        assert (newest.to_version, newest.from_version, newest.action, newest.sequence) == (second, second, "sign", 3)
        assert model.champion("production") is not None
        assert model.champion("staging") is not None
        assert model.verify_channel("production") == newest
    with pytest.raises(SignatureError):
        reader(storage, signer).champion("production")
    with pytest.raises(SignatureError):
        reader(storage, other).manifest(first)
    # Again, it changes nothing.
    before = {info.key: info.etag for info in storage.list()}
    again = list(sign_again(storage, "news", signer=other, old=old, actor="ada"))
    assert [line.done for line in again] == ["signed already"] * 4
    assert {info.key: info.etag for info in storage.list()} == before
    # What is not live follows when it is asked for, and then a rollback to it is read by the new key alone.
    assert list(sign_again(storage, "news", signer=other, old=old, actor="ada", every_version=True))[4:] == [
        Signed("news", f"version {first}", "signed")
    ]
    assert reader(storage, other).manifest(first).version == first
    # The old key is dropped: the new one alone is enough to go on.
    assert publish("four", other)
    assert reader(storage, other).champion("production") is not None


def test_rotation_signs_nothing_that_the_old_key_did_not(
    publish: Publish, storage: Storage, signer: Signer, other: Signer, bundle: MakeBundle
) -> None:
    old = Keyring((signer.public,))
    first = publish("one", signer)
    folder, manifest = bundle("planted")
    planted = Store(storage).model("news").put_version(folder, manifest)
    # A planted version is left; a planted move stops it.
    lines = list(sign_again(storage, "news", signer=other, old=old, actor="ada", every_version=True))
    assert [line.done for line in lines] == ["signed", "signed", "left"]
    assert lines[2].what == f"version {planted}"
    hint = storage.read(HINT)
    newest = Store(storage).model("news")._log("production").read(2)
    assert newest is not None
    update = {"sequence": 3, "from_version": first, "to_version": planted, "action": "promote"}
    forged = newest.model_copy(update=update | {"previous": newest.sha256})
    storage.write(move_key(3), forged.written())
    with pytest.raises(SignatureError, match="does not hold"):
        list(sign_again(storage, "news", signer=other, old=old, actor="ada", trust_unsigned=True))
    storage.delete(move_key(3))
    storage.write(HINT, hint)
    # Without the old key nothing tells whether its signature holds.
    third = load_signer_of(signer)
    with pytest.raises(SignatureError, match="not trusted here") as caught:
        list(sign_again(storage, "news", signer=third, old=None, actor="ada", trust_unsigned=True))
    assert "--public-key" in str(caught.value.hint)
    assert not storage.exists(signature_file(first, third))


def load_signer_of(signer: Signer) -> Signer:
    """A key that differs from that one."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    new = Signer(Ed25519PrivateKey.generate())
    assert new.public != signer.public
    return new


def test_a_store_that_was_begun_without_keys(
    publish: Publish, storage: Storage, pinned: ModelStore, signer: Signer
) -> None:
    first, second = publish("one", None), publish("two", None)
    with pytest.raises(SignatureError, match="move 2 is not signed") as caught:
        list(sign_again(storage, "news", signer=signer, old=None, actor="ada"))
    assert "--trust-unsigned" in str(caught.value.hint)
    # Somebody vouches for it; what is damaged is still not signed.
    graph = f"news/versions/{second}/onnx/model.onnx"
    sound = storage.read(graph)
    storage.write(graph, b"damaged")
    with pytest.raises(IntegrityError, match="not the one that was published"):
        list(sign_again(storage, "news", signer=signer, old=None, actor="ada", trust_unsigned=True))
    assert not storage.exists(signature_file(second, signer))
    storage.write(graph, sound)
    lines = list(
        sign_again(storage, "news", signer=signer, old=None, actor="ada", every_version=True, trust_unsigned=True)
    )
    assert [line.done for line in lines] == ["signed"] * 3
    assert pinned.champion("production") is not None
    assert pinned.manifest(first).version == first


def test_a_channel_that_is_moved_after_it_was_looked_at_is_not_signed(
    publish: Publish, storage: Storage, signer: Signer
) -> None:
    publish("one", None)
    lines = sign_again(storage, "news", signer=signer, old=None, actor="ada", trust_unsigned=True)
    assert next(lines).what.startswith("version ")
    publish("two", None)
    with pytest.raises(ChampionChanged, match="the champion changed"):
        next(lines)
    newest = Store(storage).model("news").newest_move("production")
    assert newest is not None
    assert (newest.sequence, newest.signature) == (2, None)


def test_a_rotation_that_was_killed_is_completed(
    publish: Publish, storage: Storage, signer: Signer, other: Signer
) -> None:
    """Killed after each thing that it signs: readers of the old key or of both are served, and again ends it."""
    publish("one", signer)
    publish("two", signer, "staging")
    old = Keyring((signer.public,))
    for steps in range(1, 4):
        assert len(list(islice(sign_again(storage, "news", signer=other, old=old, actor="ada"), steps))) == steps
        for channel in ("production", "staging"):
            assert reader(storage, signer, other).champion(channel) is not None
    list(sign_again(storage, "news", signer=other, old=old, actor="ada"))
    for channel in ("production", "staging"):
        assert reader(storage, other).champion(channel) is not None
        assert reader(storage, other).verify_channel(channel) is not None


def test_no_secret_in_the_store_or_the_log(
    publish: Publish, storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with the loggers of all libraries wide open."""
    import base64

    pair = make_key_pair(tmp_path / "release")
    body = "".join(line for line in pair.private.read_text().splitlines() if "-----" not in line)
    seed = base64.b64decode(body)[-32:]
    secrets = (body, body[-20:], base64.b64encode(seed).decode(), seed.hex())
    with caplog.at_level(logging.DEBUG):
        signer = load_signer(f"file:{pair.private}")
        publish("one", signer)
        publish("two", signer)
        with pytest.raises(UserError) as caught:
            publish("three", None)
    texts = [record.getMessage() for record in caplog.records]
    texts += [storage.read(info.key).decode() for info in storage.list()]
    texts += [str(caught.value), repr(caught.value), repr(signer)]
    assert not [text for text in texts for secret in secrets if secret in text]
