"""What a host remembers of a channel: older states of it are refused, and a start without the store is verified."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.errors import IntegrityError, ReplayError, SignatureError, StorageError, UserError
from retrainer.serve import Classifier
from retrainer.serve.cache import ModelCache
from retrainer.serve.memory import ChannelMemory
from retrainer.store import Keyring, Move, Signer, Store
from tests.serve.conftest import PublishedStore, cached_file, load, relabelled

FIRST, OTHER = "a" * 64, "b" * 64  # moves with which a channel began


def move(sequence: int, *, origin: str = FIRST, version: str = "0" * 16) -> Move:
    return Move(
        model="trails",
        channel="production",
        sequence=sequence,
        action="publish",
        from_version=None if sequence == 1 else "1" * 16,
        to_version=version,
        manifest_sha256="c" * 64,
        actor="ada",
        at="2026-01-01T00:00:00+00:00",
        reason="",
        decision=None,
        anchor=version,
        ledger=None,
        previous=None if sequence == 1 else "d" * 64,
        origin=None if sequence == 1 else origin,
    )


def memory(folder: Path, trusted: Keyring | None = None, store: str = "s3://models") -> ChannelMemory:
    return ChannelMemory(folder, store, "production", trusted)


@given(sequences=st.lists(st.integers(2, 7), max_size=12))
def test_what_is_admitted_never_goes_back(tmp_path_factory: pytest.TempPathFactory, sequences: list[int]) -> None:
    """By one process or by several that share the cache."""
    folder = tmp_path_factory.mktemp("memory")
    one, highest = memory(folder), 0
    for sequence in sequences:
        for who in (one, memory(folder)):
            if sequence < highest:
                with pytest.raises(ReplayError, match="an older state of it was put back"):
                    who.admit(move(sequence))
            else:
                who.admit(move(sequence))
        highest = max(highest, sequence)


def test_the_same_move_with_another_content_is_refused(tmp_path: Path) -> None:
    memory(tmp_path).admit(move(3))
    with pytest.raises(ReplayError, match="another move 3"):
        memory(tmp_path).admit(move(3, version="1" * 16))


def test_a_channel_that_was_begun_anew(tmp_path: Path, release_key: Signer, caplog: pytest.LogCaptureFixture) -> None:
    """Followed with a warning where nothing is pinned; refused where keys are: they know no other beginning."""
    memory(tmp_path).admit(move(9))
    memory(tmp_path).admit(move(2, origin=OTHER))
    assert "was begun anew" in caplog.text
    trusted = Keyring((release_key.public,))
    folder = tmp_path / "pinned"
    memory(folder, trusted).admit(signed(move(9), release_key))
    with pytest.raises(ReplayError, match="belongs to another history"):
        memory(folder, trusted).admit(signed(move(2, origin=OTHER), release_key))


def test_what_nobody_signed_was_never_seen(tmp_path: Path, release_key: Signer) -> None:
    """Else anybody could lock readers with pinned keys out, by an unsigned move far ahead."""
    memory(tmp_path).admit(move(1000))
    memory(tmp_path).served(move(1000))
    trusted = Keyring((release_key.public,))
    pinned = memory(tmp_path, trusted)
    assert pinned.last_good() is None
    good = signed(move(3), release_key)
    pinned.admit(good)
    pinned.served(good)
    assert memory(tmp_path, trusted).last_good() == good


def test_stores_and_channels_are_told_apart(tmp_path: Path) -> None:
    memory(tmp_path).admit(move(9))
    memory(tmp_path, store="s3://others").admit(move(2))
    ChannelMemory(tmp_path, "s3://models", "staging", None).admit(move(2))


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    memory(tmp_path).served(move(3))
    (path,) = (tmp_path / "channels").glob("*.json")
    path.write_bytes(damage)
    assert memory(tmp_path).last_good() is None
    assert "cannot be read" in caplog.text
    memory(tmp_path).served(move(4))
    assert memory(tmp_path).last_good() == move(4)


def signed(unsigned: Move, key: Signer) -> Move:
    return unsigned.model_copy(update={"signature": key.sign(unsigned.signed_bytes())})


# With a real store


def test_another_process_that_is_ahead_while_a_move_is_admitted(
    store: PublishedStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It admits a later move after this one was compared and before it is noted: nothing was put back."""
    slow, ahead = (ModelCache(store.url, "trails", cache) for _ in range(2))
    refuse_older = ChannelMemory.refuse_older

    def overtaken(self: ChannelMemory, move: Move) -> None:
        refuse_older(self, move)
        monkeypatch.setattr(ChannelMemory, "refuse_older", refuse_older)
        store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
        assert ahead.newest_move("production").sequence == 2

    monkeypatch.setattr(ChannelMemory, "refuse_older", overtaken)
    assert slow.newest_move("production").sequence == 2


@pytest.fixture
def signed_store(bundle: Path, tmp_path: Path, release_key: Signer) -> PublishedStore:
    url = (tmp_path / "store").as_uri()
    published = PublishedStore(url, Store.open(url, signer=release_key).model("trails"), bundle)
    published.publish()
    return published


def pinned(store: PublishedStore, cache: Path, key: Signer, **options: Any) -> Classifier:
    return load(store, cache, public_keys=str(key.public), **options)


def test_an_older_state_put_back_is_refused(
    store: PublishedStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrainer.serve.cache.LOOKS_IN_A_ROW", 2)
    first = load(store, cache)
    older_hint = store.hint_path.read_bytes()
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    assert first.refresh()
    newer, hint = store.move_path(2).read_bytes(), store.hint_path.read_bytes()
    store.move_path(2).unlink()
    with pytest.raises(ReplayError, match="the newest moves of the channel 'production' were deleted"):
        load(store, cache.with_name("a host that has seen nothing"))
    store.hint_path.write_bytes(older_hint)  # the hint as well: who has seen nothing gets an older state, whole
    assert load(store, cache.with_name("another host that has seen nothing")).version != second
    with pytest.raises(ReplayError, match="is at move 1, and was at 2 before"):
        load(store, cache)
    for _ in range(2):  # one request tells only that there is nothing later
        assert not first.refresh()
    assert first.version == second
    assert first.status.problem is not None
    assert "older state" in first.status.problem
    assert (first.status.refusals, first.status.offline) == (1, False)
    for _ in range(2):
        assert not first.refresh()
    assert first.status.refusals == 1
    store.move_path(2).write_bytes(newer)
    store.hint_path.write_bytes(hint)
    assert not first.refresh()
    assert first.status.problem is None


def test_moves_that_were_edited_or_deleted(store: PublishedStore, tmp_path: Path) -> None:
    """The newest is refused. Those before it are proved by its hashes, and nobody is served by them."""
    for number in range(2, 4):
        store.publish(bundle=relabelled(store.bundle, tmp_path / str(number), str(number)))
    running = load(store, tmp_path / "seen")
    for number in (3, 2, 1):
        path = store.move_path(number)
        content = path.read_bytes()
        path.write_bytes(content.replace(b"a test", b"a nest"))
        if number == 3:
            with pytest.raises(IntegrityError, match="its hash is not that of the hint"):
                load(store, tmp_path / f"edited {number}")
            path.unlink()
            with pytest.raises(ReplayError, match="were deleted"):
                load(store, tmp_path / f"missing {number}")
            path.write_bytes(content)
        else:
            assert load(store, tmp_path / f"edited {number}").version == running.version
    # A host that has seen a move reads what came after it, where the hint does not tell: each has to lead there.
    store.hint_path.unlink()
    fourth = store.publish(bundle=relabelled(store.bundle, tmp_path / "4", "4"))
    assert running.refresh()
    assert running.version == fourth


def test_a_log_that_goes_on_from_an_older_state_is_refused(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    """Somebody took the newest move away, and a publisher went on from there: another move 2, and a third."""
    first = load(store, cache)
    hint = store.hint_path.read_bytes()
    store.publish(bundle=relabelled(store.bundle, tmp_path / "2", "2"))
    assert first.refresh()
    store.move_path(2).unlink()
    store.hint_path.write_bytes(hint)
    for name in ("3", "4"):
        store.publish(bundle=relabelled(store.bundle, tmp_path / name, name))
    seen = first.version
    assert not first.refresh()
    assert (first.version, first.status.refusals) == (seen, 1)
    assert "another one than was seen before" in str(first.status.problem)
    with pytest.raises(ReplayError, match="move 2 of the channel 'production' is another one than was seen before"):
        load(store, cache)


def test_a_process_that_saw_less_than_its_host_follows_no_fork(
    store: PublishedStore, cache: Path, tmp_path: Path
) -> None:
    """What one process of a host has seen counts for all of them, however long they have been running."""
    behind, ahead = (ModelCache(store.url, "trails", cache) for _ in range(2))
    assert behind.newest_move("production").sequence == 1
    hint = store.hint_path.read_bytes()
    store.publish(bundle=relabelled(store.bundle, tmp_path / "2", "2"))
    seen = ahead.newest_move("production")
    store.move_path(2).unlink()
    store.hint_path.write_bytes(hint)
    for name in ("3", "4"):
        store.publish(bundle=relabelled(store.bundle, tmp_path / name, name))
    for process in (behind, ahead, ModelCache(store.url, "trails", cache)):
        with pytest.raises(ReplayError, match="move 2 of the channel 'production' is another one than was seen before"):
            process.newest_move("production")
    assert seen.sequence == 2


def test_a_rollback_is_not_a_replay(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
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
