"""A store that somebody altered: what reads it says what was altered, and the way back stays open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.errors import IntegrityError, ReplayError, StorageError
from retrainer.storage import Storage, open_storage
from retrainer.store import Manifest, ModelStore, Published, Signer, Store
from retrainer.store.fsck import check_store, repair

MakeBundle = Callable[[str], tuple[Path, Manifest]]
NEWEST = "news/channels/production/0000000003.json"
HINT = "news/channels/production/latest.json"


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
    storage.write(key, (json.dumps(json.loads(storage.read(key)) | changes, indent=2) + "\n").encode())


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
        model.manifest(version)


def test_a_champion_whose_manifest_was_written_anew_is_no_success(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    """It says the same in other bytes, which no reader takes: so it is neither live already, nor signed."""
    folder, manifest = bundle("three")
    key = f"news/versions/{manifest.version}/manifest.json"
    storage.write(key, json.dumps(json.loads(storage.read(key))).encode())
    with pytest.raises(IntegrityError):
        model.champion("production")
    signing = ModelStore(storage, "news", signer=Signer(Ed25519PrivateKey.generate()))
    attempts: list[Callable[[], object]] = [
        lambda: model.rollback("production", to=manifest.version, actor="ada", reason=""),
        lambda: signing.publish(
            folder, manifest, channel="production", actor="", reason="", decision=None, expected=manifest.version
        ),
        lambda: signing.promote("production", version=manifest.version, actor="ada", reason=""),
        lambda: signing.sign_channel("production", actor="ada", reason=""),
    ]
    for attempt in attempts:
        with pytest.raises(IntegrityError, match=r"has another hash of the manifest|not the one that was p") as caught:
            attempt()
        assert "fsck --repair" in str(caught.value.hint)
    assert model.signatures(manifest.version) == ()
    assert len(model.history("production")) == 3
    list(repair(storage, check_store(storage)))
    assert model.champion("production") == manifest
    assert signing.sign_channel("production", actor="ada", reason="").sequence == 4


def test_the_live_version_is_published_again_over_a_damaged_history(
    storage: Storage, model: ModelStore, bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    """What was live before is all that the history is asked for, once the newest move is only a signature."""
    signing = ModelStore(storage, "news", signer=Signer(Ed25519PrivateKey.generate()))
    signing.sign_channel("production", actor="ada", reason="")
    folder, manifest = bundle("three")

    def again() -> Published:
        return signing.publish(
            folder, manifest, channel="production", actor="", reason="", decision=None, expected=manifest.version
        )

    assert again().previous == bundle("two")[1].version
    storage.delete(NEWEST)
    assert (again().moved, again().previous, again().sequence) == (False, None, 4)
    assert f"the champion before {manifest.version} on 'production' is not known" in caplog.text


def test_swapped_manifests(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    two, three = (f"news/versions/{bundle(name)[1].version}/manifest.json" for name in ("two", "three"))
    first, second = storage.read(two), storage.read(three)
    storage.write(two, second)
    storage.write(three, first)
    with pytest.raises(IntegrityError, match="manifest is not the one"):
        model.champion("production")


def test_a_move_to_nothing(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    storage.delete_tree(f"news/versions/{bundle('three')[1].version}")
    with pytest.raises(IntegrityError, match="points at a version that is not there"):
        model.champion("production")
    assert model.rollback("production", actor="bob", reason="lost").version == bundle("two")[1].version
    assert model.champion("production") == bundle("two")[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel": "staging"}, "is move 3 of the channel 'staging'"),
        ({"sequence": 0}, "not a valid Move: sequence"),
        ({"sequence": 7}, "is move 7 of the channel 'production'"),
        ({"format_version": 1}, "not a valid Move: format_version"),
        ({"owner": "eve"}, "not a valid Move: owner"),
        ({"previous": None}, "only the first move has none before it"),
        ({"to_version": "0" * 16}, "its hash is not that of the hint"),
    ],
)
def test_an_altered_newest_move(
    storage: Storage, model: ModelStore, bundle: MakeBundle, changes: dict[str, Any], message: str
) -> None:
    edit(storage, NEWEST, **changes)
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
        assert caught.value.where == storage.where(NEWEST)


def test_the_same_move_in_other_bytes(storage: Storage, model: ModelStore) -> None:
    storage.write(NEWEST, storage.read(NEWEST) + b"\n")
    with pytest.raises(IntegrityError, match="says the same in other bytes"):
        model.newest_move("production")


@pytest.mark.parametrize("number", [3, 2, 1])
def test_an_edited_or_missing_move(storage: Storage, model: ModelStore, number: int) -> None:
    moves = model.history("production")
    key = f"news/channels/production/{number:010d}.json"
    sound = storage.read(key)
    edit(storage, key, actor="somebody else")
    with pytest.raises(IntegrityError, match=r"was altered|is not that of the hint") as caught:
        model.history("production")
    assert caught.value.where == storage.where(key)
    storage.delete(key)
    for attempt in (lambda: model.history("production"), lambda: model.verify_channel("production")):
        with pytest.raises(IntegrityError, match=r"is missing|were deleted") as caught:
            attempt()
        assert caught.value.where == storage.where(key)
    if number == 3:
        return  # nothing can be moved from there
    if number == 2:  # what tells the champion before the present one
        with pytest.raises(IntegrityError, match="is missing"):
            model.rollback("production", actor="bob", reason="")
    # A rollback to a named version needs no older move, and the model is still served.
    assert model.champion("production") is not None
    assert model.rollback("production", to=moves[-1].to_version, actor="bob", reason="").moved
    storage.write(key, sound)
    assert len(model.history("production")) == 4


def test_a_damaged_version_is_not_rolled_back_to(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    storage.write(f"news/versions/{bundle('two')[1].version}/onnx/model.onnx", b"damaged")
    with pytest.raises(IntegrityError, match="not the one that was published"):
        model.rollback("production", actor="bob", reason="")
    champion = model.champion("production")
    assert champion == bundle("three")[1]
    assert len(model.history("production")) == 3


def test_moves_in_another_order(storage: Storage, model: ModelStore) -> None:
    """Whoever can write the store can make every edited move lead to the next; only not what readers have seen."""
    newest, middle, oldest = model.history("production")
    swapped = middle.model_copy(update={"previous": None, "origin": None, "sequence": 1, "from_version": None})
    update = {"previous": swapped.sha256, "origin": swapped.sha256, "sequence": 2, "from_version": swapped.to_version}
    below = oldest.model_copy(update=update)
    for number, move in ((1, swapped), (2, below)):
        storage.write(f"news/channels/production/{number:010d}.json", move.written())
    with pytest.raises(IntegrityError, match="move 2 of the channel 'production' was altered"):
        model.history("production")
    update = {"previous": below.sha256, "origin": swapped.sha256, "from_version": below.to_version}
    forged = newest.model_copy(update=update)
    storage.write(NEWEST, forged.written())
    for attempt in (model.history, model.verify_channel):
        with pytest.raises(IntegrityError, match="move 3 of the channel 'production' is another one than was made"):
            attempt("production")
    broken = newest.model_copy(update={"from_version": oldest.to_version})
    for number, move in ((1, oldest), (2, middle), (3, broken)):
        storage.write(f"news/channels/production/{number:010d}.json", move.written())
    storage.delete(HINT)
    with pytest.raises(IntegrityError, match="move 3 of the channel 'production' does not continue"):
        model.history("production")


def test_a_move_of_another_channel_or_model(url: str, storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    model.promote("staging", version=bundle("one")[1].version, actor="ada", reason="")
    first = storage.read("news/channels/production/0000000001.json")
    storage.write("news/channels/production/0000000001.json", storage.read("news/channels/staging/0000000001.json"))
    with pytest.raises(IntegrityError, match="is move 1 of the channel 'staging' of 'news'"):
        model.history("production")
    storage.write("other/channels/production/0000000001.json", first)
    with pytest.raises(IntegrityError, match="is move 1 of the channel 'production' of 'news'"):
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


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_an_older_state_put_back(storage: Storage, model: ModelStore, bundle: MakeBundle, back_to: int) -> None:
    taken = {
        key: storage.read(key)
        for number in range(back_to + 1, 4)
        for key in [f"news/channels/production/{number:010d}.json"]
    }
    for key in taken:
        storage.delete(key)
    before = sorted(info.key for info in storage.list())
    for move in moves(model, bundle):
        with pytest.raises(ReplayError, match="the newest moves of the channel 'production' were deleted") as caught:
            move()
        assert caught.value.where == storage.where(NEWEST)
        assert "backup" in str(caught.value.hint)
    assert sorted(info.key for info in storage.list()) == before
    for key, data in taken.items():
        storage.write(key, data)
    assert model.verify_channel("production") is not None


def test_a_version_that_vanished_is_not_pointed_at(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    """As when gc takes it away between its verification and the move."""
    one = bundle("one")[1].version

    def remove(_: Path) -> None:
        storage.delete(f"news/versions/{one}/manifest.json")

    with pytest.raises(StorageError, match="was removed while the channel was to be pointed at it"):
        model.rollback("production", to=one, actor="bob", reason="", check=remove)
    newest = model.verify_channel("production")
    assert newest is not None
    assert newest.to_version == bundle("three")[1].version
