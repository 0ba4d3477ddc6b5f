"""Files that the champion has already are copied in the store, and have to prove their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrainer.errors import IntegrityError, NotFoundError, StorageError
from retrainer.storage import Storage
from retrainer.store import Manifest, ModelStore, Published, Store
from retrainer.store.removal import Removal

if TYPE_CHECKING:
    from tests.store.conftest import Proxy

MakeBundle = Callable[[str], tuple[Path, Manifest]]


@pytest.fixture
def model(store_url: str) -> ModelStore:
    return Store.open(store_url).model("news")


def with_graph(bundle: tuple[Path, Manifest], content: bytes) -> tuple[Path, Manifest]:
    """The bundle with that graph."""
    folder, manifest = bundle
    (folder / "onnx/model.onnx").write_bytes(content)
    changed = manifest.files["onnx/model.onnx"].model_copy(
        update={"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    )
    return folder, manifest.model_copy(update={"files": manifest.files | {"onnx/model.onnx": changed}})


def publish(model: ModelStore, bundle: tuple[Path, Manifest]) -> Published:
    folder, manifest = bundle
    newest = model.newest_move("production")
    return model.publish(
        folder,
        manifest,
        channel="production",
        actor="ada",
        reason="",
        decision=None,
        expected=newest.to_version if newest else None,
    )


GRAPH = b"the same weights" * 1000


def test_a_file_that_is_held_is_copied(storage: Storage, model: ModelStore, bundle: MakeBundle, tmp_path: Path) -> None:
    first, second = (with_graph(bundle(content), GRAPH) for content in ("one", "two"))
    one, two = publish(model, first), publish(model, second)
    assert (one.sent_bytes, one.copied_bytes) == (first[1].size, 0)
    assert (two.sent_bytes, two.copied_bytes) == (second[1].size - len(GRAPH), len(GRAPH))
    model.fetch(two.version, tmp_path / "copy")
    # Each version is whole in itself.
    storage.delete_tree(f"news/versions/{one.version}")
    assert (model.fetch(two.version, tmp_path / "again").files, (tmp_path / "again/onnx/model.onnx").read_bytes()) == (
        second[1].files,
        GRAPH,
    )


def test_a_place_that_is_gone_or_damaged_is_sent(
    storage: Storage, model: ModelStore, bundle: MakeBundle, tmp_path: Path
) -> None:
    bundles = [with_graph(bundle(content), GRAPH) for content in ("zero", "one", "two", "three")]
    versions = [publish(model, bundles[0]).version]

    def damage() -> None:
        storage.write(f"news/versions/{versions[-1]}/onnx/model.onnx", GRAPH[:-1] + b"!")

    def remove() -> None:
        storage.delete(f"news/versions/{versions[-1]}/onnx/model.onnx")

    def forge() -> None:
        """What is copied by a manifest that was altered is not believed either."""
        storage.write(f"news/versions/{versions[-1]}/manifest.json", b'{"files": {"../../../etc/passwd": {}}}')

    for harm, new in zip((damage, remove, forge), bundles[1:], strict=True):
        harm()
        published = publish(model, new)
        assert (published.sent_bytes, published.copied_bytes) == (new[1].size, 0)
        versions.append(published.version)
        folder = tmp_path / published.version
        model.fetch(published.version, folder)
        assert (folder / "onnx/model.onnx").read_bytes() == GRAPH


def test_a_manifest_of_the_same_name_that_says_something_else(
    storage: Storage, model: ModelStore, bundle: MakeBundle
) -> None:
    folder, manifest = bundle("one")
    other = manifest.model_copy(update={"git_commit": "of somebody else"})
    storage.write(f"news/versions/{manifest.version}/manifest.json", other.to_json())
    with pytest.raises(IntegrityError, match="manifest is not the one"):
        model.put_version(folder, manifest)


def test_what_is_being_removed_is_not_published(storage: Storage, model: ModelStore, bundle: MakeBundle) -> None:
    folder, manifest = bundle("one")
    key = f"news/versions/{manifest.version}/removal.json"
    note = Removal(removal_id="r", at="2030-01-01T00:00:00+00:00")
    for content in (note.to_pretty_json().encode(), b"damaged"):
        storage.write(key, content)
        with pytest.raises(StorageError, match="is being removed") as caught:
            model.put_version(folder, manifest)
        assert not isinstance(caught.value, NotFoundError)
        with pytest.raises(StorageError, match="is being removed"):
            publish(model, (folder, manifest))
        assert model.versions() == []
        assert model.channels() == []
        assert [info.key for info in storage.list("news/versions")] == [key]


def test_what_is_asked_of_the_store_does_not_grow_with_it(proxy: Proxy, s3_bucket: str, bundle: MakeBundle) -> None:
    model = Store.open(f"s3://{s3_bucket}").model("news")
    counts: dict[int, tuple[int, int, int]] = {}

    def calls(action: Callable[[], object]) -> int:
        proxy.strike(None)
        action()
        return len(proxy.calls)

    for number in range(12):
        new = with_graph(bundle(f"{number}"), GRAPH)
        counts[number] = (
            calls(lambda new=new: publish(model, new)),  # type: ignore[misc]
            calls(lambda: model.newest_move("production")),
            calls(lambda: model.versions(limit=5)),
        )
    assert counts[6] == counts[9] == counts[11]
    assert counts[11][1] == 3
    proxy.strike(None)
    publish(model, with_graph(bundle("last"), GRAPH))
    assert not [call for call in proxy.calls if call.startswith(f"GET /{s3_bucket}/") and not call.endswith(".json")]
