"""What every storage promises, asked of a folder and of a bucket in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.errors import NotFoundError, PreconditionFailed, StorageError
from retrainer.storage import Storage, open_storage


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "not yet there" / "store")
    return open_storage(f"s3://{request.getfixturevalue('s3_bucket')}/some prefix/store")


def test_an_empty_storage_is_read_without_being_made(storage: Storage) -> None:
    assert list(storage.list()) == []
    assert storage.list_folders() == []
    assert storage.list_folders("a/b") == []
    assert not storage.exists("a")
    with pytest.raises(NotFoundError):
        storage.read("a")
    storage.delete("a")
    storage.delete_tree("a")
    root = storage.local_path()
    assert root is None or not root.exists()


def test_objects_are_written_read_listed_and_deleted(storage: Storage) -> None:
    for key in ("b/c/2.json", "b/1.json", "b.txt", "b-/x", "a ü/%20+&.json"):
        storage.write(key, key.encode())
    assert [info.key for info in storage.list()] == [
        "a ü/%20+&.json",
        "b-/x",
        "b.txt",
        "b/1.json",
        "b/c/2.json",
    ]
    assert [info.key for info in storage.list("b/")] == ["b/1.json", "b/c/2.json"]
    assert [info.key for info in storage.list("b/c")] == ["b/c/2.json"]
    assert [info.size for info in storage.list("b/1")] == [8]
    assert storage.list_folders() == ["a ü", "b", "b-"]
    assert storage.list_folders("b") == storage.list_folders("b/") == ["c"]
    assert storage.read("a ü/%20+&.json").decode() == "a ü/%20+&.json"
    assert storage.exists("b/1.json")
    assert not storage.exists("b")
    with pytest.raises(NotFoundError):
        storage.read("b")
    storage.delete("b")  # a folder is no object
    storage.delete("b/1.json")
    storage.delete_tree("b")
    assert [info.key for info in storage.list()] == ["a ü/%20+&.json", "b-/x", "b.txt"]


def test_a_listing_tells_changed_objects(storage: Storage) -> None:
    storage.write("x", b"one")
    before = next(storage.list("x"))
    storage.write("x", b"two")
    after = next(storage.list("x"))
    assert before.etag != after.etag
    assert after.modified >= before.modified
    assert after.modified.tzinfo is not None


def test_a_write_for_an_absent_object_wins_once(storage: Storage) -> None:
    storage.write("x", b"one", if_absent=True)
    with pytest.raises(PreconditionFailed) as caught:
        storage.write("x", b"two", if_absent=True)
    assert caught.value.where == storage.where("x")
    assert storage.read("x") == b"one"


def test_files_go_up_and_down(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source file"
    source.write_bytes(b"0123456789" * 1_000_000)  # more than one part of a bucket's upload
    storage.upload(source, "deep/file.bin")
    target = tmp_path / "other" / "folder" / "target"
    storage.download("deep/file.bin", target)
    assert target.read_bytes() == source.read_bytes()
    source.write_bytes(b"shorter")
    storage.upload(source, "deep/file.bin")
    storage.download("deep/file.bin", target)
    assert target.read_bytes() == b"shorter"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_what_is_not_there_is_named(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        storage.upload(tmp_path / "nothing", "x")
    assert caught.value.where == str(tmp_path / "nothing")
    target = tmp_path / "target"
    target.write_bytes(b"old")
    for key in ("x", "x/y"):
        with pytest.raises(NotFoundError) as caught:
            storage.download(key, target)
        assert caught.value.where == storage.where(key)
    assert target.read_bytes() == b"old"
    assert not storage.exists("x")


@pytest.mark.parametrize("key", ["", "/x", "../x", "a/../../x", "a//x", "a/", ".", "a/./x", "a\0", ".retrainer-lock"])
def test_a_key_stays_within_the_storage(storage: Storage, key: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"")
    for attempt in (
        lambda: storage.read(key),
        lambda: storage.write(key, b""),
        lambda: storage.exists(key),
        lambda: storage.delete(key),
        lambda: storage.upload(source, key),
        lambda: storage.download(key, source),
    ):
        with pytest.raises(StorageError, match="cannot be a key"):
            attempt()
    with pytest.raises(StorageError, match="cannot be a key"):
        storage.delete_tree(key if key != "a/" else "..")


NAMES = st.sampled_from(["a", "b", "a.json"])
KEYS = st.one_of(NAMES.map("top-{}".format), st.tuples(NAMES, NAMES).map("/".join))
DATA = st.sampled_from([b"", b"one", b"two"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), KEYS, DATA),
        st.tuples(st.just("if_absent"), KEYS, DATA),
        st.tuples(st.just("delete"), KEYS, st.just(b"")),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_sequence_of_writes_ends_as_on_a_dictionary(storage: Storage, steps: list[tuple[str, str, bytes]]) -> None:
    for info in list(storage.list()):
        storage.delete(info.key)
    model: dict[str, bytes] = {}
    for action, key, data in steps:
        if action == "delete":
            storage.delete(key)
            model.pop(key, None)
            continue
        if_absent = action == "if_absent"
        if if_absent and key in model:
            with pytest.raises(PreconditionFailed):
                storage.write(key, data, if_absent=True)
        else:
            storage.write(key, data, if_absent=if_absent)
            model[key] = data
    assert {info.key: storage.read(info.key) for info in storage.list()} == model
    assert {info.key: info.size for info in storage.list()} == {key: len(data) for key, data in model.items()}
