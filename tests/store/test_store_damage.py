"""A store that somebody altered: what reads it says what was altered, and the way back stays open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import IntegrityError, ReplayError, StorageError
from retrainer.storage import Storage, open_storage
from retrainer.store import Manifest, ModelStore, Store
from retrainer.store.history import write_entry

MakeBundle = Callable[[str], tuple[Path, Manifest]]
POINTER = "news/channels/production.json"
JOURNAL = "news/journal/production/0000000003.json"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def storage(url: str) -> Storage:
    return open_storage(url)


@pytest.fixture
def model(url: str, bundle: MakeBundle) -> ModelStore:
    """Three versions, the last of them live."""
    model = Store.open(url).model("news")
    expected = None
    for content in ("one", "two", "three"):
        folder, manifest = bundle(content)
        model.publish(
            folder,
            manifest,
            channel="production",
            actor="ada",
            reason=content,
            decision=None,
            expected=expected,
        )
        expected = manifest.version
    return model


def edit(storage: Storage, key: str, **changes: Any) -> None:
    storage.write(key, json.dumps(json.loads(storage.read(key)) | changes).encode())


def test_one_flipped_bit_in_any_file(storage: Storage, model: ModelStore, bundle: MakeBundle, tmp_path: Path) -> None:
    _, manifest = bundle("three")
    for number, name in enumerate(manifest.files):
        copy = tmp_path / f"copy-{number}"
        key = f"news/versions/{manifest.version}/{name}"
        sound = storage.read(key)
        storage.write(key, bytes([sound[0] ^ 1]) + sound[1:])
        with pytest.raises(IntegrityError, match="not the one that was published") as caught:
            model.fetch(manifest.version, copy)
        assert caught.value.where == storage.where(key)
        assert not (copy / name).exists()
        storage.write(key, sound)
        model.fetch(manifest.version, copy)


def test_an_altered_manifest(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    version = bundle("three")[1].version
    key = f"news/versions/{version}/manifest.json"
    sound = storage.read(key)
    edit(storage, key, labels=["Sports", "World"])
    attempts: list[Callable[[], object]] = [
        lambda: model.champion("production"),
        lambda: model.manifest(version),
    ]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="manifest is not the one") as caught:
            attempt()
        assert caught.value.where == storage.where(key)
    storage.write(key, sound + b"\n")  # the same content in other bytes
    with pytest.raises(IntegrityError, match="manifest is not the one"):
        model.champion("production")
    storage.write(key, sound[:-20])
    with pytest.raises(IntegrityError, match="not a valid Manifest"):
        model.champion("production")


def test_swapped_manifests(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    two, three = (f"news/versions/{bundle(name)[1].version}/manifest.json" for name in ("two", "three"))
    first, second = storage.read(two), storage.read(three)
    storage.write(two, second)
    storage.write(three, first)
    with pytest.raises(IntegrityError, match="manifest is not the one"):
        model.champion("production")


def test_a_pointer_to_nothing(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    storage.delete_tree(f"news/versions/{bundle('three')[1].version}")
    with pytest.raises(IntegrityError, match="points at a version that is not there"):
        model.champion("production")
    assert model.rollback("production", actor="bob", reason="lost").version == bundle("two")[1].version
    assert model.champion("production") == bundle("two")[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel": "staging"}, "is the pointer of channel 'staging'"),
        ({"sequence": 0}, "not a valid Pointer: sequence"),
        ({"format_version": 2}, "not a valid Pointer: format_version"),
        ({"owner": "eve"}, "not a valid Pointer: owner"),
    ],
)
def test_an_altered_pointer(
    storage: Storage, model: ModelStore, bundle: MakeBundle, changes: dict[str, Any], message: str
) -> None:
    key = "news/channels/production.json"
    edit(storage, key, **changes)
    folder, manifest = bundle("four")
    for attempt in (
        lambda: model.newest_move("production"),
        lambda: model.champion("production"),
        lambda: model.history("production"),
        lambda: model.rollback("production", actor="bob", reason=""),
        lambda: model.publish(
            folder, manifest, channel="production", actor="", reason="", decision=None, expected=None
        ),
    ):
        with pytest.raises(IntegrityError, match=message) as caught:
            attempt()
        assert caught.value.where == storage.where(key)


def edit_with_its_journal(storage: Storage, **changes: Any) -> None:
    """Alter the pointer and what the journal says of its move: only the history tells."""
    edit(storage, POINTER, **changes)
    storage.write(JOURNAL, storage.read(POINTER))


def test_a_pointer_that_disagrees_with_its_history(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    sound = storage.read(POINTER)
    for changes in ({"version": bundle("one")[1].version}, {"history": json.loads(storage.read(POINTER))["origin"]}):
        edit_with_its_journal(storage, **changes)
        with pytest.raises(IntegrityError, match="does not continue"):
            model.history("production")
        for key in (POINTER, JOURNAL):
            storage.write(key, sound)
    edit(storage, POINTER, sequence=7)  # of which the journal says nothing
    with pytest.raises(IntegrityError, match="does not continue"):
        model.history("production")


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_edited_or_missing_entry(storage: Storage, model: ModelStore, position: int) -> None:
    newest = model.newest_move("production")
    assert newest is not None
    entries = model.history("production")
    names = [newest.sha256, *(entry.previous for entry in entries if entry.previous)]
    key = f"news/history/{names[position]}.json"
    sound = storage.read(key)
    edit(storage, key, actor="somebody else")
    with pytest.raises(IntegrityError, match="was altered") as caught:
        model.history("production")
    assert caught.value.where == storage.where(key)
    storage.delete(key)
    with pytest.raises(IntegrityError, match="is missing") as caught:
        model.history("production")
    assert caught.value.where == storage.where(key)
    with pytest.raises(IntegrityError, match="is missing"):
        model.verify_channel("production")
    if position < 2:  # what tells the champion before the present one
        with pytest.raises(IntegrityError, match="is missing"):
            model.rollback("production", actor="bob", reason="")
    # A rollback to a named version needs no history, and the model is still served.
    assert model.champion("production") is not None
    assert model.rollback("production", to=entries[-1].to_version, actor="bob", reason="").moved
    storage.write(key, sound)
    assert len(model.history("production")) == 4


def test_a_damaged_version_is_not_rolled_back_to(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    storage.write(f"news/versions/{bundle('two')[1].version}/onnx/model.onnx", b"damaged")
    with pytest.raises(IntegrityError, match="not the one that was published"):
        model.rollback("production", actor="bob", reason="")
    champion = model.champion("production")
    assert champion == bundle("three")[1]
    assert len(model.history("production")) == 3


def test_entries_in_another_order(storage: Storage, model: ModelStore) -> None:
    """Whoever can write the store can give every edited entry its right name, but not the pointer's."""
    newest, middle, oldest = model.history("production")
    swapped = middle.model_copy(update={"previous": None, "sequence": 1, "from_version": None})
    below = oldest.model_copy(update={"previous": write_entry(storage, swapped), "sequence": 2})
    forged = newest.model_copy(update={"previous": write_entry(storage, below)})
    name = write_entry(storage, forged)
    sound = storage.read(POINTER)
    edit_with_its_journal(storage, history=name)
    with pytest.raises(IntegrityError, match="does not continue"):
        model.history("production")
    for key in (POINTER, JOURNAL):
        storage.write(key, sound)
    # A chain that is whole in itself still is another than the one that the journal was written along.
    below = below.model_copy(update={"from_version": swapped.to_version})
    forged = newest.model_copy(update={"previous": write_entry(storage, below), "from_version": below.to_version})
    edit(storage, POINTER, history=write_entry(storage, forged), origin=below.previous)
    for attempt in (model.history, model.verify_channel):
        with pytest.raises(IntegrityError, match="move 3 of the channel 'production' is another in the journal"):
            attempt("production")
    edit_with_its_journal(storage, origin=json.loads(sound)["origin"])
    with pytest.raises(IntegrityError, match="entry 1 of the history of 'production' does not continue"):
        model.history("production")


def test_a_pointer_of_another_channel_or_model(
    url: str, storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    model.promote("staging", version=bundle("one")[1].version, actor="ada", reason="")
    key = "news/channels/production.json"
    sound = storage.read(key)
    storage.write(key, storage.read("news/channels/staging.json"))
    with pytest.raises(IntegrityError, match="is the pointer of channel 'staging' of 'news'"):
        model.newest_move("production")
    storage.write("other/channels/production.json", sound)
    with pytest.raises(IntegrityError, match="is the pointer of channel 'production' of 'news'"):
        Store.open(url).model("other").newest_move("production")


def moves(model: ModelStore, bundle: MakeBundle) -> list[Callable[[], object]]:
    folder, manifest = bundle("four")
    champion = bundle("three")[1].version
    return [
        lambda: model.publish(
            folder, manifest, channel="production", actor="", reason="", decision=None, expected=champion
        ),
        lambda: model.promote("production", version=bundle("one")[1].version, actor="", reason=""),
        lambda: model.rollback("production", to=bundle("one")[1].version, actor="", reason=""),
        lambda: model.verify_channel("production"),
    ]


@pytest.mark.parametrize("back_to", [1, 2])
def test_an_older_pointer_put_back(storage: Storage, model: ModelStore, bundle: MakeBundle, back_to: int) -> None:
    before = sorted(info.key for info in storage.list())
    key = "news/channels/production.json"
    sound = storage.read(key)
    storage.write(key, storage.read(f"news/journal/production/{back_to:010d}.json"))
    for move in moves(model, bundle):
        with pytest.raises(ReplayError, match="an older pointer was put back") as caught:
            move()
        assert caught.value.where == storage.where(key)
        assert "fsck" in str(caught.value.hint)
    assert sorted(info.key for info in storage.list()) == before
    storage.write(key, sound)
    assert model.verify_channel("production") is not None


def test_a_deleted_pointer_begins_no_new_chain(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    key = "news/channels/production.json"
    sound = storage.read(key)
    storage.delete(key)
    assert model.newest_move("production") is None
    folder, manifest = bundle("four")
    attempts: list[Callable[[], object]] = [
        *moves(model, bundle),
        lambda: model.publish(
            folder, manifest, channel="production", actor="", reason="", decision=None, expected=None
        ),
    ]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match="'production' was deleted: its journal shows earlier moves"):
            attempt()
    assert not storage.exists(key)
    storage.write(key, sound)
    assert model.verify_channel("production") is not None


def test_a_journal_that_says_otherwise(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    for sequence in (3, 2):
        key = f"news/journal/production/{sequence:010d}.json"
        sound = storage.read(key)
        edit(storage, key, version=bundle("one")[1].version)
        with pytest.raises(IntegrityError, match=f"move {sequence} of the channel 'production' is another") as caught:
            model.verify_channel("production")
        assert caught.value.where == storage.where(key)
        if sequence == 3:
            with pytest.raises(IntegrityError, match="move 3 of the channel 'production' is another"):
                moves(model, bundle)[0]()
        edit(storage, key, sequence=7)
        with pytest.raises(IntegrityError, match="of 'news' after move 7"):
            model.verify_channel("production")
        storage.write(key, sound)
    assert model.verify_channel("production") is not None


def test_a_version_that_vanished_is_not_pointed_at(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    """As when gc takes it away between its verification and the move."""
    one = bundle("one")[1].version

    def remove(_: Path) -> None:
        storage.delete(f"news/versions/{one}/manifest.json")

    with pytest.raises(StorageError, match="was removed while the channel was to be pointed at it"):
        model.rollback("production", to=one, actor="bob", reason="", check=remove)
    pointer = model.verify_channel("production")
    assert newest is not None
    assert newest.to_version == bundle("three")[1].version
