"""Publishing, reading back, promoting and rolling back, on a folder and in a bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import (
    ChampionChanged,
    IntegrityError,
    ModelError,
    NotFoundError,
    StorageError,
    UserError,
)
from retrainer.storage import open_storage
from retrainer.store import Cause, Manifest, ModelStore, Published, Store

MakeBundle = Callable[[str], tuple[Path, Manifest]]


@pytest.fixture
def model(store_url: str) -> ModelStore:
    return Store.open(store_url).model("news")


@pytest.fixture
def publish(model: ModelStore, bundle: MakeBundle) -> Callable[..., Published]:
    """Publishes a bundle of that content over the present champion."""

    def run(content: str, channel: str = "production") -> Published:
        folder, manifest = bundle(content)
        newest = model.newest_move(channel)
        return model.publish(
            folder,
            manifest,
            channel=channel,
            actor="ada",
            reason=f"publish {content}",
            decision="d" * 64,
            expected=newest.to_version if newest else None,
        )

    return run


def test_an_empty_store(store_url: str) -> None:
    store = Store.open(store_url)
    model = store.model("news")
    assert store.models() == []
    assert model.channels() == []
    assert model.versions() == []
    assert model.newest_move("production") is None
    assert model.champion("production") is None
    assert model.history("production") == []
    assert model.move_at("production", datetime.now(UTC)) is None
    with pytest.raises(NotFoundError, match="has no version"):
        model.manifest("0" * 16)
    with pytest.raises(NotFoundError, match="no version 'nonsense'"):
        model.manifest("nonsense")
    with pytest.raises(NotFoundError, match="no champion to roll back"):
        model.rollback("production", actor="ada", reason="")
    assert list(open_storage(store_url).list()) == []


def test_a_reason_that_no_record_holds_sends_nothing(store_url: str, model: ModelStore, bundle: MakeBundle) -> None:
    folder, manifest = bundle("one")
    with pytest.raises(UserError, match="the reason of the move has 100,000 bytes"):
        model.publish(
            folder, manifest, channel="production", actor="ada", reason="x" * 100_000, decision=None, expected=None
        )
    assert list(open_storage(store_url).list()) == []


def test_the_first_publication(
    store_url: str, model: ModelStore, bundle: MakeBundle, publish: Callable[..., Published], tmp_path: Path
) -> None:
    folder, manifest = bundle("one")
    published = publish("one")
    assert published == Published(
        manifest.version, "production", True, None, 1, published.move, sent_bytes=manifest.size
    )
    assert Store.open(store_url).models() == ["news"]
    assert model.channels() == ["production"]
    assert model.champion("production") == manifest == model.manifest(manifest.version)

    newest = model.newest_move("production")
    assert newest is not None
    assert (newest.to_version, newest.sequence, newest.sha256) == (manifest.version, 1, published.move)
    storage = open_storage(store_url)
    stored = storage.read(f"news/versions/{manifest.version}/manifest.json")
    assert hashlib.sha256(stored).hexdigest() == newest.manifest_sha256
    move_bytes = storage.read("news/channels/production/0000000001.json")
    assert hashlib.sha256(move_bytes).hexdigest() == published.move

    assert (newest.previous, newest.origin, newest.from_version) == (None, None, None)
    assert (newest.action, newest.actor, newest.cause, newest.reason, newest.decision) == (
        "publish",
        "ada",
        "gate",
        "publish one",
        "d" * 64,
    )
    assert (newest.begun_by, newest.signature) == (published.move, None)
    assert model.history("production") == [newest]
    assert model.verify_channel("production") == newest
    assert model.fetch(manifest.version, tmp_path / "copy") == manifest
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.*")}
    assert copied == set(manifest.files)
    assert (tmp_path / "copy/onnx/model.onnx").read_bytes() == (folder / "onnx/model.onnx").read_bytes()


def test_the_same_bundle_again_changes_nothing(
    store_url: str, model: ModelStore, bundle: MakeBundle, publish: Callable[..., Published]
) -> None:
    publish("zero")
    first = publish("one")
    before = {info.key: info.etag for info in open_storage(store_url).list()}
    folder, manifest = bundle("one")
    again = model.publish(
        folder, manifest, channel="production", actor="bob", reason="", decision=None, expected="whatever"
    )
    assert again == Published(first.version, "production", False, first.previous, 2, first.move)
    assert {info.key: info.etag for info in open_storage(store_url).list()} == before


def test_a_decision_against_another_champion_is_refused(
    store_url: str, model: ModelStore, bundle: MakeBundle, publish: Callable[..., Published]
) -> None:
    champion = publish("one")
    before = sorted(info.key for info in open_storage(store_url).list())
    folder, manifest = bundle("two")
    for expected in (None, "0" * 16):
        with pytest.raises(ChampionChanged, match=f"is {champion.version} now") as caught:
            model.publish(
                folder,
                manifest,
                channel="production",
                actor="ada",
                reason="",
                decision=None,
                expected=expected,
            )
        assert "channels/production/0000000001.json" in str(caught.value.where)
    assert sorted(info.key for info in open_storage(store_url).list()) == before
    with pytest.raises(ChampionChanged, match="is none now"):
        model.publish(folder, manifest, channel="staging", actor="ada", reason="", decision=None, expected="0" * 16)


def test_the_history_is_a_chain(model: ModelStore, publish: Callable[..., Published]) -> None:
    moves = [publish(content) for content in ("one", "two", "three")]
    publish("one", "staging")
    entries = model.history("production")
    assert [entry.to_version for entry in entries] == [move.version for move in reversed(moves)]
    assert [entry.from_version for entry in entries] == [moves[1].version, moves[0].version, None]
    assert [entry.previous for entry in entries] == [moves[1].move, moves[0].move, None]
    assert [entry.sequence for entry in entries] == [3, 2, 1]
    assert model.history("production", limit=1) == entries[:1]
    assert len(model.history("staging")) == 1

    times = [datetime.fromisoformat(entry.at) for entry in reversed(entries)]
    assert model.move_at("production", times[0] - timedelta(seconds=1)) is None
    assert [model.move_at("production", time) for time in times] == entries[::-1]
    assert model.move_at("production", times[2] + timedelta(days=1)) == entries[0]
    with pytest.raises(ValueError, match="time zone"):
        model.move_at("production", datetime(2030, 1, 1))


def test_versions_are_listed_newest_first(
    store_url: str, model: ModelStore, bundle: MakeBundle, publish: Callable[..., Published]
) -> None:
    one, two = publish("one"), publish("two")
    publish("one", "staging")
    folder, manifest = bundle("never published")
    model.put_version(folder, manifest)
    half = "f" * 16
    open_storage(store_url).write(f"news/versions/{half}/config.json", b"half an upload")

    infos = model.versions()
    assert model.versions(limit=0) == []
    moved = [info for info in infos if info.moved_at]  # a limit is for those that a channel was ever pointed at
    assert model.versions(limit=1) == moved[:1]
    assert model.versions(limit=2) == model.versions(limit=9) == moved
    by_version = {info.version: info for info in infos}
    assert set(by_version) == {one.version, two.version, manifest.version}
    assert by_version[manifest.version].channels == ()
    assert by_version[manifest.version].moved_at is None
    published = [info for info in infos if info.moved_at]
    assert [(info.version, info.channels) for info in published] == [
        (one.version, ("staging",)),
        (two.version, ("production",)),
    ]
    assert published[0].metrics == {"accuracy": 0.9}
    with pytest.raises(NotFoundError):
        model.manifest(half)

    open_storage(store_url).write(f"news/versions/{one.version}/manifest.json", b"{}")
    assert [info.version for info in model.versions() if info.problem] == [one.version]
    assert [info.version for info in model.versions(limit=2) if info.problem] == [one.version]
    open_storage(store_url).delete(f"news/versions/{one.version}/manifest.json")
    assert [info.version for info in model.versions(limit=1)] == [two.version]


def test_rollbacks_go_further_back_each_time(model: ModelStore, publish: Callable[..., Published]) -> None:
    one, two, three = publish("one"), publish("two"), publish("three")
    back = model.rollback("production", actor="bob", reason="wrong labels")
    assert (back.version, back.previous, back.moved, back.sequence) == (two.version, three.version, True, 4)
    entry = model.history("production")[0]
    assert (entry.action, entry.actor, entry.cause, entry.reason) == (
        "rollback",
        "bob",
        "unspecified",
        "wrong labels",
    )
    assert model.rollback("production", actor="bob", cause=Cause.INCIDENT, reason="").version == one.version
    assert model.history("production")[0].cause == "incident"
    with pytest.raises(NotFoundError, match="no champion before"):
        model.rollback("production", actor="bob", reason="")
    champion = model.champion("production")
    assert champion is not None
    assert champion.version == one.version


def test_a_rollback_to_a_named_version(
    model: ModelStore, bundle: MakeBundle, publish: Callable[..., Published]
) -> None:
    one, two = publish("one"), publish("two")
    folder, manifest = bundle("aside")
    aside = model.put_version(folder, manifest)
    assert model.rollback("production", to=aside, actor="bob", reason="").version == aside
    assert model.rollback("production", to=aside, actor="bob", reason="").moved is False
    assert model.rollback("production", actor="bob", reason="").version == two.version
    assert model.rollback("production", actor="bob", reason="").version == one.version
    with pytest.raises(NotFoundError):
        model.rollback("production", to="0" * 16, actor="bob", reason="")


def test_a_version_that_does_not_pass_the_check_is_not_moved_to(
    model: ModelStore, publish: Callable[..., Published]
) -> None:
    one, two = publish("one"), publish("two")
    seen: list[str] = []

    def refuse(folder: Path) -> None:
        seen.append((folder / "onnx/model.onnx").read_text())
        raise ModelError("does not load")

    with pytest.raises(ModelError, match="does not load"):
        model.rollback("production", actor="bob", reason="", check=refuse)
    with pytest.raises(ModelError, match="does not load"):
        model.promote("production", version=one.version, actor="bob", reason="", check=refuse)
    assert seen == ["onnx/model.onnx of one"] * 2
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.to_version == two.version


def test_promotion_moves_the_channel_only(store_url: str, model: ModelStore, publish: Callable[..., Published]) -> None:
    staged = publish("one", "staging")
    promoted = model.promote("production", from_channel="staging", actor="eve", reason="tested")
    assert (promoted.version, promoted.moved, promoted.previous) == (staged.version, True, None)
    (entry,) = model.history("production")
    assert (entry.action, entry.cause) == ("promote", "release")
    assert (promoted.sent_bytes, promoted.copied_bytes) == (0, 0)
    two = publish("two", "staging")
    assert model.promote("production", version=two.version, actor="eve", reason="").previous == staged.version
    assert model.promote("production", from_channel="staging", actor="eve", reason="").moved is False
    assert model.channels() == ["production", "staging"]
    with pytest.raises(NotFoundError, match="'canary' has no champion"):
        model.promote("production", from_channel="canary", actor="eve", reason="")
    with pytest.raises(ValueError, match="either"):
        model.promote("production", actor="eve", reason="")


def test_fetching_part_of_a_version(model: ModelStore, publish: Callable[..., Published], tmp_path: Path) -> None:
    version = publish("one").version
    target = tmp_path / "copy"
    model.fetch(version, target, ["config.json"])
    assert [path.name for path in target.iterdir()] == ["config.json"]
    (target / "config.json").write_text("damaged on this disk")
    model.fetch(version, target, ["config.json"])
    assert (target / "config.json").read_text() == "config.json of one"
    with pytest.raises(NotFoundError, match="no file 'other"):
        model.fetch(version, target, ["other.json"])


def test_a_folder_that_is_not_what_its_manifest_says_is_not_published(
    store_url: str, model: ModelStore, bundle: MakeBundle
) -> None:
    folder, manifest = bundle("one")
    (folder / "config.json").write_text("config.json of two")
    with pytest.raises(IntegrityError, match="does not match") as caught:
        model.put_version(folder, manifest)
    assert caught.value.where == str(folder / "config.json")
    (folder / "config.json").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        model.put_version(folder, manifest)
    with pytest.raises(StorageError, match="is of the model 'news'"):
        Store.open(store_url).model("other").put_version(folder, manifest)
    assert list(open_storage(store_url).list()) == []


def test_a_lost_file_comes_back_with_the_next_publication(
    store_url: str, model: ModelStore, bundle: MakeBundle, publish: Callable[..., Published], tmp_path: Path
) -> None:
    version = publish("one").version
    open_storage(store_url).delete(f"news/versions/{version}/config.json")
    with pytest.raises(IntegrityError, match="is missing"):
        model.fetch(version, tmp_path / "copy")
    assert publish("one").moved is False
    model.fetch(version, tmp_path / "copy")


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", ".hidden", "x" * 101, "a b", "news\n"])
def test_names_that_cannot_be(store_url: str, name: str) -> None:
    store = Store.open(store_url)
    with pytest.raises(StorageError, match="cannot name a model"):
        store.model(name)
    with pytest.raises(StorageError, match="cannot name a channel"):
        store.model("news").newest_move(name)


def test_names_that_are_not_even_text(model: ModelStore) -> None:
    nothing: Any = None
    with pytest.raises(UserError, match="the name of a channel must be text; got None"):
        model.newest_move(nothing)
    with pytest.raises(UserError, match="the name of a version must be text; got None"):
        model.manifest(nothing)


def test_long_names_work(model: ModelStore, publish: Callable[..., Published]) -> None:
    publish("one", "c" * 100)
    assert model.channels() == ["c" * 100]


def test_a_move_from_a_champion_that_the_caller_did_not_expect(
    model: ModelStore, publish: Callable[..., Published]
) -> None:
    one, two = publish("one"), publish("two")
    with pytest.raises(ChampionChanged, match=f"is {two.version} now"):
        model.rollback("production", expected=one.version, actor="bob", reason="")
    with pytest.raises(ChampionChanged, match=f"is {two.version} now"):
        model.promote("production", version=one.version, expected=one.version, actor="bob", reason="")
    with pytest.raises(ChampionChanged, match="is none now"):
        model.promote("staging", version=one.version, expected=one.version, actor="bob", reason="")
    assert model.rollback("production", expected=two.version, actor="bob", reason="").moved
    assert model.channels() == ["production"]
