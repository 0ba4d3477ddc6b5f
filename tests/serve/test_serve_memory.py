"""What a host remembers of a channel: older pointers are refused, and a start without the store is verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.errors import IntegrityError, ReplayError, SignatureError, StorageError, UserError
from retrainer.serve import Classifier
from retrainer.serve.memory import ChannelMemory
from retrainer.store import Keyring, Pointer, Signer, Store
from tests.serve.conftest import PublishedStore, cached_file, load, relabelled

FIRST, OTHER = "a" * 64, "b" * 64


def pointer(sequence: int, *, origin: str | None = FIRST, version: str = "0" * 16) -> Pointer:
    return Pointer(
        model="trails",
        channel="production",
        version=version,
        manifest_sha256="c" * 64,
        sequence=sequence,
        history="d" * 64,
        moved_at="2026-01-01T00:00:00+00:00",
        origin=origin,
    )


def memory(folder: Path, trusted: Keyring | None = None, store: str = "s3://models") -> ChannelMemory:
    return ChannelMemory(folder, store, "production", trusted)


@given(sequences=st.lists(st.integers(1, 6), max_size=12))
def test_what_is_admitted_never_goes_back(tmp_path_factory: pytest.TempPathFactory, sequences: list[int]) -> None:
    """By one process or by several that share the cache."""
    folder = tmp_path_factory.mktemp("memory")
    one, highest = memory(folder), 0
    for sequence in sequences:
        for who in (one, memory(folder)):
            if sequence < highest:
                with pytest.raises(ReplayError, match="an older state of it was put back"):
                    who.admit(pointer(sequence))
            else:
                who.admit(pointer(sequence))
        highest = max(highest, sequence)


def test_the_same_move_with_another_content_is_refused(tmp_path: Path) -> None:
    memory(tmp_path).admit(pointer(3))
    with pytest.raises(ReplayError, match="another move 3"):
        memory(tmp_path).admit(pointer(3, version="1" * 16))


def test_another_signature_of_the_same_pointer_is_the_same(tmp_path: Path, release_key: Signer) -> None:
    """Keys are rotated without a move."""
    memory(tmp_path).admit(pointer(3))
    memory(tmp_path).admit(signed(pointer(3), release_key))


def test_a_channel_that_was_begun_anew(tmp_path: Path, release_key: Signer, caplog: pytest.LogCaptureFixture) -> None:
    """Followed with a warning where nothing is pinned; refused where keys are: they know no other beginning."""
    memory(tmp_path).admit(pointer(9))
    memory(tmp_path).admit(pointer(1, origin=OTHER))
    assert "was begun anew" in caplog.text
    trusted = Keyring((release_key.public,))
    folder = tmp_path / "pinned"
    memory(folder, trusted).admit(signed(pointer(9), release_key))
    with pytest.raises(ReplayError, match="belongs to another history"):
        memory(folder, trusted).admit(signed(pointer(1, origin=OTHER), release_key))


def test_what_nobody_signed_was_never_seen(tmp_path: Path, release_key: Signer) -> None:
    """Else anybody could lock readers with pinned keys out, by an unsigned pointer far ahead."""
    memory(tmp_path).admit(pointer(1000))
    memory(tmp_path).served(pointer(1000))
    trusted = Keyring((release_key.public,))
    pinned = memory(tmp_path, trusted)
    assert pinned.last_good() is None
    good = signed(pointer(3), release_key)
    pinned.admit(good)
    pinned.served(good)
    assert memory(tmp_path, trusted).last_good() == good


def test_stores_and_channels_are_told_apart(tmp_path: Path) -> None:
    memory(tmp_path).admit(pointer(9))
    memory(tmp_path, store="s3://others").admit(pointer(1))
    ChannelMemory(tmp_path, "s3://models", "staging", None).admit(pointer(1))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    memory(tmp_path).served(pointer(3))
    (path,) = (tmp_path / "channels").glob("*.json")
    path.write_bytes(damage)
    assert memory(tmp_path).last_good() is None
    assert "cannot be read" in caplog.text
    memory(tmp_path).served(pointer(4))
    assert memory(tmp_path).last_good() == pointer(4)


def signed(unsigned: Pointer, key: Signer) -> Pointer:
    return unsigned.model_copy(update={"signature": key.sign(unsigned.signed_bytes())})


# With a real store


@pytest.fixture
def signed_store(bundle: Path, tmp_path: Path, release_key: Signer) -> PublishedStore:
    url = (tmp_path / "store").as_uri()
    published = PublishedStore(url, Store.open(url, signer=release_key).model("trails"), bundle)
    published.publish()
    return published


def pinned(store: PublishedStore, cache: Path, key: Signer, **options: Any) -> Classifier:
    return load(store, cache, public_keys=str(key.public), **options)


def test_an_older_pointer_put_back_is_refused(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    first = load(store, cache)
    older = store.pointer_path.read_bytes()
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    assert first.refresh()
    newer = store.pointer_path.read_bytes()
    store.pointer_path.write_bytes(older)
    with pytest.raises(ReplayError, match="is at move 1, and was at 2 before"):
        load(store, cache)
    assert not first.refresh()
    assert first.version == second
    assert first.status.problem is not None
    assert "older state" in first.status.problem
    assert (first.status.refusals, first.status.offline) == (1, False)
    assert not first.refresh()
    assert first.status.refusals == 1
    with pytest.raises(ReplayError, match="the journal has a later one"):
        load(store, cache.with_name("a host that has seen nothing"))
    store.pointer_path.write_bytes(newer)
    assert not first.refresh()
    assert first.status.problem is None


def test_a_history_with_an_edited_or_missing_entry_is_refused(
    store: PublishedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(2, 4):
        store.publish(bundle=relabelled(store.bundle, tmp_path / str(number), str(number)))
    running = load(store, tmp_path / "seen")
    entries = sorted((store.folder / "trails" / "history").glob("*.json"))
    assert len(entries) == 3
    for number, entry in enumerate(entries):
        content = entry.read_bytes()
        entry.write_bytes(content.replace(b"a test", b"a nest"))
        with pytest.raises(IntegrityError, match="entry of the history was altered"):
            load(store, tmp_path / f"edited {number}")
        entry.unlink()
        with pytest.raises(IntegrityError, match="entry of the history is missing"):
            load(store, tmp_path / f"missing {number}")
        entry.write_bytes(content)
    # A process that has checked the entries reads only new ones; another one on the same host checks them again.
    for entry in entries:
        entry.write_bytes(entry.read_bytes().replace(b"a test", b"a nest"))
    assert not running.refresh()
    assert running.status.problem is None
    with pytest.raises(IntegrityError, match="entry of the history was altered"):
        load(store, tmp_path / "seen")


def test_a_pointer_that_lost_its_origin_is_refused(store: PublishedStore, cache: Path) -> None:
    classify = load(store, cache)
    path = store.folder / "trails" / "channels" / "production.json"
    document = json.loads(path.read_bytes())
    del document["origin"]
    path.write_text(json.dumps(document))
    assert not classify.refresh()
    assert classify.status.problem is not None
    assert classify.status.refusals == 1
    for folder in (cache, cache.parent / "another"):
        with pytest.raises(IntegrityError):
            load(store, folder)


def test_a_rollback_is_no_replay(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    classify = load(store, cache)
    first = classify.version
    store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    assert classify.refresh()
    store.model.rollback("production", actor="test", reason="a test")
    assert classify.refresh()
    assert (classify.version, classify.status.sequence) == (first, 3)


def test_signed_by_the_pinned_key(signed_store: PublishedStore, cache: Path, release_key: Signer) -> None:
    version = pinned(signed_store, cache, release_key).version
    assert pinned(signed_store, cache, release_key, version=version).version == version
    shutil.rmtree(signed_store.folder)
    assert pinned(signed_store, cache, release_key).version == version
    assert pinned(signed_store, cache, release_key, version=version).version == version


def test_keys_from_the_environment(
    signed_store: PublishedStore, cache: Path, release_key: Signer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger.pub"
    stranger.write_text("ed25519:" + "A" * 43 + "=")
    monkeypatch.setenv("RETRAINER_PUBLIC_KEYS", str(stranger))
    with pytest.raises(SignatureError, match="not trusted here"):
        load(signed_store, cache)
    monkeypatch.setenv("RETRAINER_PUBLIC_KEYS", f"{stranger},{release_key.public}")
    assert load(signed_store, cache)
    with pytest.raises(UserError, match="names no key"):
        load(signed_store, cache, public_keys=[])


def test_unsigned_is_refused_also_from_the_cache(store: PublishedStore, cache: Path, release_key: Signer) -> None:
    load(store, cache)
    with pytest.raises(SignatureError, match="not signed"):
        pinned(store, cache, release_key)
    shutil.rmtree(store.folder)
    with pytest.raises(StorageError, match="there is no such folder"):
        pinned(store, cache, release_key)


@pytest.mark.parametrize("name", ["manifest.json", "signature", "memory"])
def test_a_cache_that_was_altered_is_not_served_offline(
    signed_store: PublishedStore, cache: Path, release_key: Signer, name: str
) -> None:
    version = pinned(signed_store, cache, release_key).version
    path = {
        "manifest.json": cached_file(cache, version, "manifest.json"),
        "signature": cached_file(cache, version, f"signatures/{release_key.public.key_id}.json"),
        "memory": next((cache / "trails" / "channels").glob("*.json")),
    }[name]
    text = path.read_text()
    found = {"manifest.json": '"base_revision": "1"', "signature": '"value":"', "memory": '"sequence":1'}[name]
    assert found in text
    last = "2" if text[text.index(found) + len(found) - 1] == "1" else "A"
    path.write_text(text.replace(found, found.replace("1", "2") if name != "signature" else found + last))
    away = signed_store.folder.rename(signed_store.folder.with_name("away"))
    with pytest.raises((StorageError, IntegrityError)):
        pinned(signed_store, cache, release_key)
    away.rename(signed_store.folder)
    assert pinned(signed_store, cache, release_key).version == version  # repaired from the store


def test_a_version_that_was_cached_without_keys_is_verified_with_them(
    signed_store: PublishedStore, cache: Path, release_key: Signer
) -> None:
    version = load(signed_store, cache).version
    assert not cached_file(cache, version, "signatures").exists()
    assert pinned(signed_store, cache, release_key).version == version
    assert cached_file(cache, version, f"signatures/{release_key.public.key_id}.json").is_file()


def test_a_removed_signature_is_refused(signed_store: PublishedStore, cache: Path, release_key: Signer) -> None:
    champion = signed_store.model.champion("production")
    assert champion is not None
    signed_store.file(champion.version, f"signatures/{release_key.public.key_id}.json").unlink()
    with pytest.raises(SignatureError):
        pinned(signed_store, cache, release_key)
