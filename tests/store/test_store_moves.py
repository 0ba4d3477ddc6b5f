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
    ResourceError,
    RetrainerError,
    SignatureError,
    StorageError,
    StoragePermissionError,
    UserError,
)
from retrainer.storage import Storage, open_storage
from retrainer.store import Keyring, Manifest, ModelStore, Move, Signer, Store
from retrainer.store.fsck import check_store, repair
from retrainer.store.log import ChannelLog
from retrainer.store.rotation import sign_again

MakeBundle = Callable[[str], tuple[Path, Manifest]]
Publish = Callable[..., str]

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


def move_key(sequence: int, channel: str = "production") -> str:
    return f"news/channels/{channel}/{sequence:010d}.json"


def hint_key(channel: str = "production") -> str:
    return f"news/channels/{channel}/latest.json"


def version_of(model: ModelStore, channel: str = "production") -> str:
    newest = model.newest_move(channel)
    assert newest is not None
    return newest.to_version


def edit(storage: Storage, key: str, **changes: Any) -> bytes:
    sound = storage.read(key)
    storage.write(key, (json.dumps(json.loads(sound) | changes, indent=2) + "\n").encode())
    return sound


def plant(storage: Storage, publish: Publish, tmp_path: Path, *, channel: str) -> str:
    """What somebody does who may write and has no key: a version of their own, and a move to it."""
    other = open_storage(tmp_path / "evil")
    version = publish("evil", channel, at=other)
    for info in other.list("news/versions/"):
        storage.write(info.key, other.read(info.key))
    planted = Move.from_json(other.read(move_key(1, channel)), where=channel)
    log = ChannelLog(storage, "news", channel)
    head = log.head()
    assert head.move is not None
    update = {
        "sequence": head.move.sequence + 1,
        "from_version": head.move.to_version,
        "previous": head.move.sha256,
        "origin": head.move.begun_by,
    }
    move = planted.model_copy(update=update)
    assert log.create(move)
    log.write_hint(head.then(move).hashes, move.sequence)
    return version


# What a move signs


def test_a_planted_source_is_not_promoted_and_signed(storage: Storage, publish: Publish, tmp_path: Path) -> None:
    signer = key()
    model = ModelStore(storage, "news", signer=signer)
    staged = publish("one", "staging", signer=signer)
    model.promote("production", from_channel="staging", actor="ada", reason="")
    evil = plant(storage, publish, tmp_path, channel="staging")
    for channel in ("production", "canary"):  # the second was never published: the model's other channels tell
        with pytest.raises(SignatureError, match="move 2 is not signed") as caught:
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


def test_a_planted_move_is_not_gone_on_from_and_signed(storage: Storage, publish: Publish, tmp_path: Path) -> None:
    signer = key()
    publish("one", signer=signer)
    publish("two", signer=signer)
    plant(storage, publish, tmp_path, channel="production")
    before = {info.key: info.etag for info in storage.list("news/versions/")}
    model = ModelStore(storage, "news", signer=signer)
    attempts: list[Callable[[], object]] = [
        lambda: model.rollback("production", actor="ada", reason=""),
        lambda: publish("three", signer=signer),
        lambda: publish("evil", signer=signer),
    ]
    for attempt in attempts:
        with pytest.raises(SignatureError, match="move 3 is not signed"):
            attempt()
    assert {info.key: info.etag for info in storage.list("news/versions/")} == before
    codes = {finding.code.value: finding.severity for finding in check_store(storage).findings}
    assert codes == {"move-unsigned": "damage", "version-unsigned": "suspect"}
    # The way back that docs/store.md names.
    storage.delete(move_key(3))
    storage.delete(hint_key())
    assert publish("three", signer=signer)
    assert model.verify_channel("production") is not None


def test_a_planted_move_that_wins_is_not_signed_on(storage: Storage, publish: Publish, bundle: MakeBundle) -> None:
    """It goes to the very version that is published, and comes between reading the channel and moving it."""
    signer = key()
    publish("one", signer=signer)
    version = bundle("two")[1].version

    class Overtaken(Failing):
        def write(self, key: str, data: bytes, **options: Any) -> None:
            if key == move_key(2) and not self.hits:
                self.hits.append(key)
                unsigned = Move.from_json(data, where=key).model_copy(update={"signature": None, "actor": "eve"})
                self._storage.write(key, unsigned.written())
            self._storage.write(key, data, **options)

    overtaken: Any = Overtaken(storage, "")
    with pytest.raises(SignatureError, match="move 2 is not signed"):
        publish("two", signer=signer, at=overtaken)
    newest = ModelStore(storage, "news").newest_move("production")
    assert newest is not None
    assert (newest.sequence, newest.actor, newest.to_version) == (2, "eve", version)


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
    list(sign_again(storage, "news", signer=signer, old=None, actor="ada", every_version=True, trust_unsigned=True))
    assert model.rollback("production", actor="ada", reason="").moved


# What a move goes by


def test_a_source_that_was_put_back_or_altered_is_not_promoted(
    storage: Storage, model: ModelStore, publish: Publish
) -> None:
    publish("one", "staging")
    two = publish("two", "staging")
    newest = storage.read(move_key(2, "staging"))

    def promote() -> Any:
        return model.promote("production", from_channel="staging", actor="ada", reason="")

    storage.delete(move_key(2, "staging"))
    with pytest.raises(ReplayError, match="the newest moves of the channel 'staging' were deleted"):
        promote()
    assert model.newest_move("production") is None
    storage.write(move_key(2, "staging"), newest)
    for changes in ({"manifest_sha256": "0" * 64}, {"at": "2020-01-01T00:00:00.000000+00:00"}):
        sound = edit(storage, move_key(2, "staging"), **changes)
        with pytest.raises(IntegrityError, match="its hash is not that of the hint"):
            promote()
        storage.write(move_key(2, "staging"), sound)
    hint = storage.read(hint_key("staging"))
    edit(storage, move_key(2, "staging"), manifest_sha256="0" * 64)
    storage.delete(hint_key("staging"))  # then the manifest tells
    with pytest.raises(IntegrityError, match="not the one that was published"):
        promote()
    storage.write(move_key(2, "staging"), newest)
    storage.write(hint_key("staging"), hint)
    sound = edit(storage, move_key(1, "staging"), actor="eve")  # an older move counts here, too
    with pytest.raises(IntegrityError, match="move 1 of the channel 'staging' was altered"):
        promote()
    storage.write(move_key(1, "staging"), sound)
    assert promote().version == two


def test_a_source_that_moves_on_meanwhile_is_read_again(storage: Storage, model: ModelStore, publish: Publish) -> None:
    publish("one", "staging")

    class Moving(Failing):
        def read(self, key: str, **bound: int) -> bytes:
            if key == move_key(2, "staging") and not self.hits:
                self.hits.append(key)
                publish("two", "staging")
            return bytes(self._storage.read(key, **bound))

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
        error: type[RetrainerError] = StorageError,
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

    def write(self, key: str, data: bytes, **options: Any) -> None:
        if self._part not in key or len(self.hits) >= self._times:
            self._storage.write(key, data, **options)
            return
        self.hits.append(key)
        if self._after:
            self._storage.write(key, data, **options)
        raise self._error("cannot reach the server", where=key)

    def read(self, key: str, **bound: int) -> bytes:
        if self.blind and self.hits and self._part in key:
            raise self._error("still cannot reach the server", where=key)
        return self._storage.read(key, **bound)


@pytest.fixture
def three(publish: Publish) -> list[str]:
    return [publish(content) for content in ("one", "two", "three")]


def failing(storage: Storage, part: str, **how: Any) -> tuple[ModelStore, Failing]:
    broken: Any = Failing(storage, part, **how)
    return ModelStore(broken, "news"), broken


# On a folder a full disk, and what a broken disk gives back.
FAILURES = [StorageError, ResourceError, IntegrityError]


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize("action", ["rollback", "promote"])
def test_a_move_whose_hint_cannot_be_written_is_made(
    storage: Storage,
    model: ModelStore,
    three: list[str],
    action: str,
    error: type[RetrainerError],
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, _ = failing(storage, "/latest.json", times=9, error=error)
    if action == "rollback":
        moved = broken.rollback("production", actor="ada", reason="")
    else:
        moved = broken.promote("production", version=three[1], actor="ada", reason="")
    assert (moved.moved, moved.version, moved.sequence) == (True, three[1], 4)
    assert "move 4 of 'production' is made; its hint is not written" in caplog.text
    assert json.loads(storage.read(hint_key()))["sequence"] == 3
    model.rollback("production", to=three[2], actor="ada", reason="")
    assert json.loads(storage.read(hint_key()))["sequence"] == 5
    assert model.verify_channel("production") is not None


@pytest.mark.parametrize("error", FAILURES)
def test_a_rollback_whose_answer_is_lost_is_made_once(
    storage: Storage, model: ModelStore, three: list[str], error: type[RetrainerError]
) -> None:
    broken, _ = failing(storage, "/channels/", after=True, error=error)
    moved = broken.rollback("production", actor="ada", reason="")
    assert (moved.moved, moved.version, version_of(model)) == (True, three[1], three[1])
    assert model.verify_channel("production") is not None


@pytest.mark.parametrize("error", [StorageError, ResourceError])
@pytest.mark.parametrize("after", [False, True])
def test_a_rollback_of_which_nobody_knows_whether_it_is_made(
    storage: Storage, model: ModelStore, three: list[str], after: bool, error: type[RetrainerError]
) -> None:
    broken, fault = failing(storage, "/channels/", after=after, error=error)
    fault.blind = True
    with pytest.raises(error, match="cannot reach the server") as caught:
        broken.rollback("production", actor="ada", reason="")
    assert "may have moved" in str(caught.value.hint)
    assert f"--to {three[1]}" in str(caught.value.hint)
    # What the hint says ends at the same version either way.
    assert model.rollback("production", to=three[1], actor="ada", reason="").moved is not after
    assert version_of(model) == three[1]
    assert model.history("production", limit=1)[0].sequence == 4


def test_a_rollback_onto_somebody_elses_garbage_is_refused(
    storage: Storage, model: ModelStore, three: list[str]
) -> None:
    class Overtaken(Failing):
        def write(self, key: str, data: bytes, **options: Any) -> None:
            if key == move_key(4):
                self._storage.write(key, b"junk")
            self._storage.write(key, data, **options)

    overtaken: Any = Overtaken(storage, "")
    with pytest.raises(IntegrityError, match="not a valid Move") as caught:
        ModelStore(overtaken, "news").rollback("production", actor="ada", reason="")
    assert "may have moved" not in str(caught.value.hint)


def test_a_rollback_that_failed_before_its_move(storage: Storage, model: ModelStore, three: list[str]) -> None:
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


def test_what_is_told_of_a_channel_is_told_by_its_newest_move(
    storage: Storage, model: ModelStore, publish: Publish
) -> None:
    publish("one")
    publish("two")
    newest = storage.read(move_key(2))
    asked: list[Callable[[], object]] = [
        lambda: model.newest_move("production"),
        lambda: model.champion("production"),
        lambda: model.history("production"),
        lambda: model.move_at("production", NOW),
        lambda: list(sign_again(storage, "news", signer=key(), old=None, actor="ada", trust_unsigned=True)),
    ]
    storage.delete(move_key(2))
    for question in asked:
        with pytest.raises(ReplayError, match="were deleted") as caught:
            question()
        assert "backup" in str(caught.value.hint)
    storage.delete(move_key(1))
    assert model.channels() == ["production"]
    assert Store(storage).models() == ["news"]
    for question in asked:
        with pytest.raises(ReplayError, match="were deleted"):
            question()
    storage.write(move_key(2), newest)
    for question in asked[:2]:  # an older move is not asked for
        question()
    with pytest.raises(IntegrityError, match="move 1 of the channel 'production' is missing"):
        model.history("production")


@pytest.mark.parametrize("time", ["", "yesterday", "2030-01-01T00:00:00", "0001-01-01T00:00:00+23:00"])
def test_a_time_that_cannot_be(storage: Storage, model: ModelStore, publish: Publish, time: str) -> None:
    publish("one")
    edit(storage, move_key(1), at=time)
    with pytest.raises(IntegrityError, match="not a valid Move: at"):
        model.newest_move("production")


def test_a_move_that_an_older_state_was_moved_on_with(storage: Storage, model: ModelStore, publish: Publish) -> None:
    """The newest moves and the hint were taken away, and a publisher went on: whoever saw them is told."""
    for content in ("one", "two", "three"):
        publish(content)
    seen = model.newest_move("production")
    assert seen is not None
    for name in (move_key(3), hint_key()):
        storage.delete(name)
    model.rollback("production", actor="eve", reason="")
    publish("four")
    assert model.verify_channel("production") is not None  # whole in itself
    with pytest.raises(ReplayError, match="move 3 of the channel 'production' is another one than was seen before"):
        model.newest_move("production", seen=seen)
    with pytest.raises(IntegrityError, match="move 4 of the channel 'production' does not continue"):
        model.move_after(seen)


def test_junk_where_the_next_move_is_to_be(storage: Storage, model: ModelStore, publish: Publish) -> None:
    publish("one")
    storage.write(move_key(2), b"junk")
    for attempt in (lambda: publish("two"), lambda: model.newest_move("production")):
        with pytest.raises(IntegrityError, match="not a valid Move") as caught:
            attempt()
        assert caught.value.where == storage.where(move_key(2))
    assert [finding.code.value for finding in check_store(storage).findings] == ["move-altered"]
    list(repair(storage, check_store(storage)))
    storage.delete(move_key(2))
    publish("two")
    assert model.verify_channel("production") is not None
