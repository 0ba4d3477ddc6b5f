"""The journal of a channel is complete after any second try, and old stores get one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import ChampionChanged, StorageError
from retrainer.storage import Storage, open_storage
from retrainer.store import Manifest, ModelStore, Published

MakeBundle = Callable[[str], tuple[Path, Manifest]]


@pytest.fixture
def storage(store_url: str) -> Storage:
    return open_storage(store_url)


@pytest.fixture
def model(storage: Storage) -> ModelStore:
    return ModelStore(storage, "news")


def publish(model: ModelStore, bundle: tuple[Path, Manifest], expected: str | None = None) -> Published:
    folder, manifest = bundle
    return model.publish(
        folder, manifest, channel="production", actor="ada", reason="", decision=None, expected=expected
    )


def moves(model: ModelStore) -> list[int]:
    assert model.verify_channel("production") is not None
    return [sequence for sequence, _ in model.journal("production")]


def test_an_entry_that_is_missing_is_written_by_the_next(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    one = publish(model, bundle("one")).version
    key = "news/journal/production/0000000001.json"
    sound = storage.read(key)
    storage.delete(key)  # its publisher was killed
    assert publish(model, bundle("one")).moved is False
    assert storage.read(key) == sound
    storage.delete(key)
    publish(model, bundle("two"), one)
    assert storage.read(key) == sound
    assert moves(model) == [2, 1]


def test_a_channel_from_before_there_were_journals(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    one = publish(model, bundle("one")).version
    two = publish(model, bundle("two"), one).version
    storage.delete_tree("news/journal")
    newest = model.newest_move("production")
    assert newest is not None
    old = pointer.model_copy(update={"origin": None})
    storage.write("news/channels/production.json", old.to_pretty_json().encode())
    assert b"origin" not in storage.read("news/channels/production.json")
    publish(model, bundle("three"), two)
    assert moves(model) == [3, 2]
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.begun_by is None  # what was not known from the start stays unknown


class Between:
    """A storage on which somebody else acts just before a write."""

    def __init__(self, storage: Storage, key: str, act: Callable[[], object]) -> None:
        self._storage = storage
        self._key = key
        self._act: Callable[[], object] | None = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def write(self, key: str, data: bytes, **options: Any) -> str:
        if self._key in key and self._act is not None:
            act, self._act = self._act, None
            act()
        return self._storage.write(key, data, **options)


def test_a_publisher_that_is_overtaken(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    one = publish(model, bundle("one")).version

    def overtake() -> None:
        publish(model, bundle("two"), one)

    slow: Any = Between(storage, "news/channels/", overtake)
    with pytest.raises(ChampionChanged, match=f"it was {one} and is {bundle('two')[1].version} now"):
        publish(ModelStore(slow, "news"), bundle("three"), one)
    assert moves(model) == [2, 1]

    def there_and_back() -> None:
        model.rollback("production", to=one, actor="bob", reason="")
        publish(model, bundle("two"), one)

    slow = Between(storage, "news/channels/", there_and_back)
    with pytest.raises(ChampionChanged, match="was moved meanwhile"):
        publish(ModelStore(slow, "news"), bundle("three"), bundle("two")[1].version)
    assert moves(model) == [4, 3, 2, 1]


def test_a_publisher_that_is_overtaken_by_the_same_content(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    slow: Any = Between(storage, "news/channels/", lambda: publish(model, bundle("one")))
    published = publish(ModelStore(slow, "news"), bundle("one"))
    assert (published.moved, published.sequence) == (False, 1)
    assert moves(model) == [1]


def test_a_swap_whose_answer_is_lost_and_that_others_build_on(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    """It took effect, and its publisher is told so, though the pointer says something else by now."""
    one = publish(model, bundle("one")).version

    class LostAnswer(Between):
        def write(self, key: str, data: bytes, **options: Any) -> str:
            if self._key in key and self._act is not None:
                self._storage.write(key, data, **options)
                act, self._act = self._act, None
                act()
            return self._storage.write(key, data, **options)  # the request is repeated

    two = bundle("two")[1].version
    slow: Any = LostAnswer(storage, "news/channels/", lambda: publish(model, bundle("three"), two))
    published = publish(ModelStore(slow, "news"), bundle("two"), one)
    assert (published.moved, published.previous, published.sequence) == (True, one, 2)
    assert moves(model) == [3, 2, 1]
    assert [entry.to_version for entry in model.history("production")] == [bundle("three")[1].version, two, one]


def test_a_journal_that_cannot_be_written_is_completed_later(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    def fail() -> None:
        raise StorageError("the disk went away")

    broken: Any = Between(storage, "news/journal/", fail)
    with pytest.raises(StorageError, match="went away"):
        publish(ModelStore(broken, "news"), bundle("one"))
    newest = model.newest_move("production")
    assert newest is not None  # moved all the same
    assert publish(model, bundle("one")).moved is False
    assert list(model.journal("production")) == [(1, pointer)]
