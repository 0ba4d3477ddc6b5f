"""Moves of a channel that somebody altered, or on a storage that fails: nothing is signed unseen, or made twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.errors import (
    IntegrityError,
    NotFoundError,
    ReplayError,
    SignatureError,
    StorageError,
    StoragePermissionError,
    UserError,
)
from retrainer.storage import Storage, open_storage
from retrainer.store import Keyring, Manifest, ModelStore, Pointer, Signer, Store
from retrainer.store.fsck import check_store, repair
from retrainer.store.rotation import sign_again

MakeBundle = Callable[[str], tuple[Path, Manifest]]
Publish = Callable[..., str]

PRODUCTION = "news/channels/production.json"
STAGING = "news/channels/staging.json"
NOW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(tmp_path / "store")


@pytest.fixture
def model(storage: Storage) -> ModelStore:
    return ModelStore(storage, "news")


@pytest.fixture
def publish(storage: Storage, bundle: MakeBundle) -> Publish:
    """Publishes a bundle of that content over the present champion."""

    def run(content: str, channel: str = "production", *, signer: Signer | None = None, at: Any = storage) -> str:
        folder, manifest = bundle(content)
        model = ModelStore(at, "news", signer=signer)
        expected = newest.to_version if (newest := model.newest_move(channel)) else None
        return model.publish(
            folder, manifest, channel=channel, actor="ada", reason="", decision=None, expected=expected
        ).version

    return run


def key() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


def journal(sequence: int, channel: str = "production") -> str:
    return f"news/journal/{channel}/{sequence:010d}.json"


def version_of(model: ModelStore, channel: str = "production") -> str:
    newest = model.newest_move(channel)
    assert newest is not None
    return newest.to_version


def edit(storage: Storage, key: str, **changes: Any) -> bytes:
    sound = storage.read(key)
    storage.write(key, (json.dumps(json.loads(sound) | changes, indent=2) + "\n").encode())
    return sound


def plant(storage: Storage, publish: Publish, tmp_path: Path, *, channel: str, journal_too: bool = False) -> str:
    """What somebody does who may write and has no key: a whole store of their own, copied in."""
    other = open_storage(tmp_path / "evil")
    version = publish("evil", channel, at=other)
    for info in other.list():
        if "/channels/" not in info.key and ("/journal/" not in info.key or journal_too):
            storage.write(info.key, other.read(info.key))
    storage.write(f"news/channels/{channel}.json", other.read(f"news/channels/{channel}.json"))
    return version


# What a move signs


def test_a_planted_source_is_not_promoted_and_signed(storage: Storage, publish: Publish, tmp_path: Path) -> None:
    signer = key()
    model = ModelStore(storage, "news", signer=signer)
    staged = publish("one", "staging", signer=signer)
    model.promote("production", from_channel="staging", actor="ada", reason="")
    evil = plant(storage, publish, tmp_path, channel="staging")
    for channel in ("production", "canary"):  # the second was never published: the model's journal tells
        with pytest.raises(SignatureError, match="the pointer is not signed") as caught:
            model.promote(channel, from_channel="staging", actor="ada", reason="")
        assert "--public-key" in str(caught.value.hint)
        assert "--trust-unsigned" in str(caught.value.hint)
    with pytest.raises(SignatureError, match=f"the version {evil} is not signed"):
        model.promote("production", version=evil, actor="ada", reason="")
    with pytest.raises(SignatureError, match=f"the version {evil} is not signed"):
        model.rollback("production", to=evil, actor="ada", reason="")
    reader = ModelStore(storage, "news", trusted=Keyring((signer.public,)))
    assert version_of(reader) == staged
    with pytest.raises(SignatureError):
        reader.manifest(evil)


def test_a_planted_pointer_is_not_moved_and_signed(storage: Storage, publish: Publish, tmp_path: Path) -> None:
    signer = key()
    publish("one", signer=signer)
    publish("two", signer=signer)
    before = {info.key: info.etag for info in storage.list("news/versions/")}
    model = ModelStore(storage, "news", signer=signer)
    # A history of two moves, so that a rollback has somewhere to go; the journal says the same of the second.
    other = open_storage(tmp_path / "evil")
    for content in ("bad", "worse"):
        publish(content, at=other)
    for info in other.list():
        if "/channels/" in info.key or "/history/" in info.key or info.key == journal(2):
            storage.write(info.key, other.read(info.key))
    assert json.loads(storage.read(journal(1)))["signature"]
    attempts: list[Callable[[], object]] = [
        lambda: model.rollback("production", actor="ada", reason=""),
        lambda: publish("three", signer=signer),
        lambda: publish("worse", signer=signer),
    ]
    for attempt in attempts:
        with pytest.raises(SignatureError, match="the pointer is not signed"):
            attempt()
    assert {info.key: info.etag for info in storage.list("news/versions/")} == before


def test_a_channel_of_another_key_is_moved_when_that_is_named(storage: Storage, publish: Publish) -> None:
    old, new = key(), key()
    one = publish("one", signer=old)
    publish("two", signer=old)
    with pytest.raises(SignatureError, match=f"signed by the key {old.public.key_id}, which is not trusted") as caught:
        publish("three", signer=new)
    assert "name it beside your own with --public-key" in str(caught.value.hint)
    both = Keyring((old.public, new.public))
    moved = ModelStore(storage, "news", signer=new, trusted=both).rollback("production", actor="ada", reason="")
    assert moved.version == one
    assert publish("three", signer=new)


def test_what_was_never_signed_is_moved_and_signed(storage: Storage, publish: Publish) -> None:
    signer = key()
    publish("one")
    staged = publish("two", "staging")
    model = ModelStore(storage, "news", signer=signer)
    assert model.promote("production", from_channel="staging", actor="ada", reason="").version == staged
    reader = ModelStore(storage, "news", trusted=Keyring((signer.public,)))
    assert version_of(reader) == staged
    # What nobody signed counts again once somebody vouched for it.
    with pytest.raises(SignatureError):
        model.rollback("production", actor="ada", reason="")
    list(sign_again(storage, "news", signer=signer, old=None, every_version=True, trust_unsigned=True))
    assert model.rollback("production", actor="ada", reason="").moved


# What a move goes by


def test_an_older_source_that_was_put_back_is_not_promoted(
    storage: Storage, model: ModelStore, publish: Publish
) -> None:
    publish("one", "staging")
    older = storage.read(STAGING)
    two = publish("two", "staging")
    newest = storage.read(STAGING)
    storage.write(STAGING, older)
    with pytest.raises(ReplayError, match="an older pointer was put back"):
        model.promote("production", from_channel="staging", actor="ada", reason="")
    assert model.newest_move("production") is None
    storage.delete(STAGING)
    with pytest.raises(IntegrityError, match="the pointer of the channel 'staging' was deleted"):
        model.promote("production", from_channel="staging", actor="ada", reason="")
    storage.write(STAGING, newest)
    sound = edit(storage, STAGING, manifest_sha256="0" * 64)
    with pytest.raises(IntegrityError, match="another in the journal"):
        model.promote("production", from_channel="staging", actor="ada", reason="")
    storage.delete(journal(2, "staging"))  # then the manifest tells
    with pytest.raises(IntegrityError, match="not the one that was published"):
        model.promote("production", from_channel="staging", actor="ada", reason="")
    storage.write(STAGING, sound)
    assert model.promote("production", from_channel="staging", actor="ada", reason="").version == two


def test_a_source_that_moves_on_meanwhile_is_read_again(storage: Storage, model: ModelStore, publish: Publish) -> None:
    publish("one", "staging")

    class Moving(Failing):
        def read(self, key: str) -> bytes:
            if key == journal(2, "staging") and not self.hits:
                self.hits.append(key)
                publish("two", "staging")
            return bytes(self._storage.read(key))

    moving: Any = Moving(storage, "", times=0)
    moved = ModelStore(moving, "news").promote("production", from_channel="staging", actor="ada", reason="")
    assert moved.version == version_of(model, "staging")
    assert moving.hits


# Storages that fail


class Failing:
    """A storage that fails writes to keys that hold a text, before or after they took effect."""

    def __init__(
        self,
        storage: Storage,
        part: str,
        *,
        times: int = 1,
        after: bool = False,
        error: type[StorageError] = StorageError,
    ) -> None:
        self._storage = storage
        self._part = part
        self._times = times
        self._after = after
        self._error = error
        self.blind = False
        self.hits: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def write(self, key: str, data: bytes, **options: Any) -> str:
        if self._part not in key or len(self.hits) >= self._times:
            return self._storage.write(key, data, **options)
        self.hits.append(key)
        if self._after:
            self._storage.write(key, data, **options)
        raise self._error("cannot reach the server", where=key)

    def read_with_etag(self, key: str) -> tuple[bytes, str]:
        if self.blind and self.hits and self._part in key:
            raise StorageError("still cannot reach the server", where=key)
        return self._storage.read_with_etag(key)


@pytest.fixture
def three(publish: Publish) -> list[str]:
    return [publish(content) for content in ("one", "two", "three")]


def failing(storage: Storage, part: str, **how: Any) -> tuple[ModelStore, Failing]:
    broken: Any = Failing(storage, part, **how)
    return ModelStore(broken, "news"), broken


@pytest.mark.parametrize("action", ["rollback", "promote"])
def test_a_move_whose_journal_cannot_be_written_is_made(
    storage: Storage, model: ModelStore, three: list[str], action: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, _ = failing(storage, "/journal/", times=9)
    if action == "rollback":
        moved = broken.rollback("production", actor="ada", reason="")
    else:
        moved = broken.promote("production", version=three[1], actor="ada", reason="")
    assert (moved.moved, moved.version, moved.sequence) == (True, three[1], 4)
    assert "move 4 of 'production' is made; the next move notes it" in caplog.text
    assert [sequence for sequence, _ in model.journal("production")] == [3, 2, 1]
    model.rollback("production", to=three[2], actor="ada", reason="")
    assert [sequence for sequence, _ in model.journal("production")] == [5, 4, 3, 2, 1]
    assert model.verify_channel("production") is not None


def test_a_rollback_whose_answer_is_lost_is_made_once(storage: Storage, model: ModelStore, three: list[str]) -> None:
    broken, _ = failing(storage, "/channels/", after=True)
    moved = broken.rollback("production", actor="ada", reason="")
    assert (moved.moved, moved.version, version_of(model)) == (True, three[1], three[1])
    assert model.verify_channel("production") is not None


@pytest.mark.parametrize("after", [False, True])
def test_a_rollback_of_which_nobody_knows_whether_it_is_made(
    storage: Storage, model: ModelStore, three: list[str], after: bool
) -> None:
    broken, fault = failing(storage, "/channels/", after=after)
    fault.blind = True
    with pytest.raises(StorageError, match="cannot reach the server") as caught:
        broken.rollback("production", actor="ada", reason="")
    assert "may have moved" in str(caught.value.hint)
    assert f"--to {three[1]}" in str(caught.value.hint)
    # What the hint says ends at the same version either way.
    assert model.rollback("production", to=three[1], actor="ada", reason="").moved is not after
    assert version_of(model) == three[1]
    assert model.history("production", limit=1)[0].sequence == 4


def test_a_rollback_that_failed_before_its_swap(storage: Storage, model: ModelStore, three: list[str]) -> None:
    broken, _ = failing(storage, "/channels/")
    with pytest.raises(StorageError, match="cannot reach the server") as caught:
        broken.rollback("production", actor="ada", reason="")
    assert "history" in str(caught.value.hint)
    refused, _ = failing(storage, "/channels/", error=StoragePermissionError)
    with pytest.raises(StoragePermissionError) as caught:
        refused.rollback("production", actor="ada", reason="")
    assert caught.value.hint is None  # it was refused: nothing can have moved
    assert version_of(model) == three[2]


# Rollbacks


def test_a_rollback_after_one_that_went_forward(model: ModelStore, three: list[str]) -> None:
    model.rollback("production", to=three[0], actor="ada", reason="")
    model.rollback("production", to=three[2], actor="ada", reason="")
    assert model.rollback("production", actor="ada", reason="").version == three[0]
    with pytest.raises(NotFoundError, match="no champion before"):
        model.rollback("production", actor="ada", reason="")


def test_a_reason_that_is_no_text(model: ModelStore, three: list[str]) -> None:
    for actor, reason in (("ada", "\udcff"), ("\udcff", "bad")):
        with pytest.raises(UserError, match="is not text"):
            model.rollback("production", actor=actor, reason=reason)
    assert version_of(model) == three[2]


# What readers are told


def pointer_of(storage: Storage) -> Pointer:
    return Pointer.from_json(storage.read(PRODUCTION), where=PRODUCTION)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("changed", ["moved_at", "origin"])
def test_an_unsigned_pointer_that_was_altered(
    storage: Storage, model: ModelStore, publish: Publish, known: bool, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrainer.store.recent_moves.RECENT_MOVES", 2)
    for content in ("one", "two", "three"):
        publish(content)
    before = model.newest_move("production") if known else None
    publish("four")
    for written in (True, False):
        value = {"moved_at": "2020-01-01T00:00:00.000000+00:00", "origin": "0" * 64}[changed]
        sound = edit(storage, PRODUCTION, **{changed: value})
        if written or changed == "moved_at":
            with pytest.raises(IntegrityError):
                model.check_recent(pointer_of(storage), known=before)
        storage.write(PRODUCTION, sound)
        model.check_recent(pointer_of(storage), known=before)
        if written:
            storage.delete(journal(4))
    # The same pointer as was seen, but for that.
    edit(storage, PRODUCTION, **{changed: value})
    known_pointer = Pointer.from_json(sound, where=PRODUCTION)
    if changed == "moved_at":
        with pytest.raises(IntegrityError, match="the pointer was altered"):
            model.check_recent(pointer_of(storage), known=known_pointer)


def test_another_origin_makes_the_history_be_read_again(storage: Storage, model: ModelStore, publish: Publish) -> None:
    for content in ("one", "two"):
        publish(content)
    known = model.newest_move("production")
    publish("three")
    storage.delete(journal(3))
    edit(storage, PRODUCTION, origin="0" * 64)
    with pytest.raises(IntegrityError, match="does not continue"):
        model.check_recent(pointer_of(storage), known=known)


def test_an_entry_that_was_seen_is_not_read_again(storage: Storage, model: ModelStore, publish: Publish) -> None:
    publish("one")
    publish("two")
    known = model.newest_move("production")
    assert known is not None
    sound = storage.read(f"news/history/{known.history}.json")
    storage.delete(f"news/history/{known.history}.json")
    publish("three")
    now = pointer_of(storage)
    model.check_recent(now, known=known)
    with pytest.raises(IntegrityError, match="is missing") as caught:
        model.check_recent(now, known=None)
    assert "readers that start anew refuse the channel" in str(caught.value.hint)
    with pytest.raises(IntegrityError, match="does not continue"):
        model.check_recent(now, known=known.model_copy(update={"sequence": 1}))
    storage.write(f"news/history/{known.history}.json", sound)
    model.check_recent(now, known=None)


def test_a_journal_that_cannot_be_read_says_nothing_against_its_move(
    storage: Storage, model: ModelStore, publish: Publish
) -> None:
    publish("one")
    storage.write(journal(1), b"damaged")
    model.check_recent(pointer_of(storage), known=None)


def test_what_is_told_of_a_channel_goes_by_its_journal(storage: Storage, model: ModelStore, publish: Publish) -> None:
    publish("one")
    older = storage.read(PRODUCTION)
    publish("two")
    newest = storage.read(PRODUCTION)
    asked: list[Callable[[], object]] = [
        lambda: model.newest_move("production"),
        lambda: model.champion("production"),
        lambda: model.history("production"),
        lambda: model.champion_at("production", NOW),
    ]
    storage.write(PRODUCTION, older)
    for question in asked:
        with pytest.raises(ReplayError, match="an older pointer was put back"):
            question()
    storage.delete(PRODUCTION)
    for question in asked:
        with pytest.raises(IntegrityError, match="was deleted") as caught:
            question()
        assert "fsck --repair" in str(caught.value.hint)
    assert model.channels() == []
    assert model.lost_channels() == ["production"]
    assert Store(storage).models() == ["news"]
    with pytest.raises(IntegrityError, match="was deleted"):
        list(sign_again(storage, "news", signer=key(), old=None, trust_unsigned=True))
    storage.write(PRODUCTION, newest)
    assert model.lost_channels() == []
    for question in asked:
        question()


@pytest.mark.parametrize("time", ["", "yesterday", "2030-01-01T00:00:00", "0001-01-01T00:00:00+23:00"])
def test_a_time_that_is_none(storage: Storage, model: ModelStore, publish: Publish, time: str) -> None:
    publish("one")
    edit(storage, PRODUCTION, moved_at=time)
    with pytest.raises(IntegrityError, match="not a valid Pointer: moved_at"):
        model.newest_move("production")


# Forks


def fork(storage: Storage, model: ModelStore, publish: Publish) -> tuple[str, str]:
    """Two moves of the number 3: the pointer and its history say one, the journal another."""
    publish("one")
    publish("two")
    kept = publish("three")
    real = storage.read(journal(3))
    storage.write(PRODUCTION, storage.read(journal(2)))
    storage.delete(journal(3))
    other = model.rollback("production", actor="eve", reason="").version
    storage.write(journal(3), real)
    return other, kept


def test_a_fork_is_resolved_for_the_pointer(storage: Storage, model: ModelStore, publish: Publish) -> None:
    pointed, written = fork(storage, model, publish)
    assert "channel-forked" in [finding.code.value for finding in check_store(storage).findings]
    with pytest.raises(IntegrityError, match="move 3 of the channel 'production' is another in the journal") as caught:
        publish("four")
    assert caught.value.where == storage.where(journal(3))
    assert "delete this entry of the journal" in str(caught.value.hint)
    storage.delete(journal(3))
    assert model.rollback("production", to=written, actor="ada", reason="").previous == pointed
    assert model.verify_channel("production") is not None
    assert check_store(storage).sound


def test_a_fork_is_resolved_for_the_journal(storage: Storage, model: ModelStore, publish: Publish) -> None:
    _, written = fork(storage, model, publish)
    with pytest.raises(IntegrityError) as caught:
        model.check_recent(pointer_of(storage), known=None)
    assert "copy it over the pointer" in str(caught.value.hint)
    storage.write(PRODUCTION, storage.read(journal(3)))
    assert check_store(storage).sound
    assert version_of(model) == written
    publish("four")
    assert model.verify_channel("production") is not None


def test_junk_where_the_next_move_is_to_be_written_down(storage: Storage, model: ModelStore, publish: Publish) -> None:
    publish("one")
    storage.write(journal(2), b"junk")
    attempts: list[Callable[[], object]] = [
        lambda: publish("two"),
        lambda: model.check_recent(pointer_of(storage), known=None),
    ]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="not a valid Pointer") as caught:
            attempt()
        assert caught.value.where == storage.where(journal(2))
        assert "delete it" in str(caught.value.hint)
    list(repair(storage, check_store(storage)))
    storage.delete(journal(2))
    publish("two")
    assert model.verify_channel("production") is not None
