"""What versions have in common is kept once, and old versions go."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrainer.errors import NotFoundError
from retrainer.serve.content import Content
from retrainer.serve.retention import KEPT_VERSIONS
from retrainer.store import FileEntry
from tests.serve.conftest import PublishedStore, cached_file, contradicted, load, relabelled

HOLD = """
import sys
from retrainer.serve import Classifier
classify = Classifier.from_store(sys.argv[1], "trails", cache_dir=sys.argv[2], version=sys.argv[3])
print("ready", flush=True)
sys.stdin.read()
print(classify("the trail is open")[0]["label"])
"""
GRAPH = "onnx/model_int8.onnx"


def versions_in(cache: Path) -> set[str]:
    return {path.name for path in (cache / "trails" / "versions").iterdir()}


def test_a_new_version_fetches_what_changed(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    first = load(store, cache).version
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    for name in (GRAPH, "tokenizer.json"):
        store.file(second, name).unlink()  # so it can come from here only
    assert load(store, cache).version == second
    assert cached_file(cache, first, GRAPH).samefile(cached_file(cache, second, GRAPH))
    assert not cached_file(cache, first, "bundle.json").samefile(cached_file(cache, second, "bundle.json"))


def test_another_model_shares_the_files_too(store: PublishedStore, cache: Path, bundle: Path) -> None:
    version = load(store, cache).version
    other = PublishedStore(store.url, type(store.model)(store.model._storage, "roads"), bundle)
    name = other.publish()
    other.file(name, GRAPH).unlink()
    assert load(other, cache).version == name
    assert cached_file(cache, version, GRAPH).samefile(cache / "roads" / "versions" / name / GRAPH)


def test_damage_that_versions_share_is_repaired(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    """Both names are one file, so both are damaged; each is made good when it is loaded."""
    first = load(store, cache).version
    good = cached_file(cache, first, GRAPH).read_bytes()
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    load(store, cache)
    cached_file(cache, first, GRAPH).write_bytes(b"damaged")
    assert cached_file(cache, second, GRAPH).read_bytes() == b"damaged"
    assert load(store, cache).version == second
    assert load(store, cache, version=first).version == first
    for version in (first, second):
        assert cached_file(cache, version, GRAPH).read_bytes() == good
    third = store.publish(bundle=relabelled(store.bundle, tmp_path / "third", "3"))
    assert load(store, cache).version == third
    assert cached_file(cache, third, GRAPH).samefile(cached_file(cache, second, GRAPH))


def test_without_hard_links_each_version_has_its_own(
    store: PublishedStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    first = load(store, cache).version
    second = store.publish(bundle=relabelled(store.bundle, tmp_path / "second", "2"))
    assert load(store, cache).version == second
    assert not cached_file(cache, first, GRAPH).samefile(cached_file(cache, second, GRAPH))
    shutil.rmtree(store.folder)
    assert load(store, cache).version == second


def test_old_versions_go_and_what_they_alone_needed(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    found = [load(store, cache).version]
    for number in range(KEPT_VERSIONS + 1):
        store.publish(bundle=relabelled(store.bundle, tmp_path / f"{number}", str(number)))
        found.append(load(store, cache).version)
    assert versions_in(cache) == set(found[-KEPT_VERSIONS:])
    content = list((cache / ".content").iterdir())
    assert all(path.stat().st_nlink > 1 for path in content)
    used = {path.stat().st_ino for version in versions_in(cache) for path in cached_file(cache, version, "").rglob("*")}
    assert {path.stat().st_ino for path in content} <= used
    assert {path.stem for path in (cache / "trails" / "locks").glob("*.use")} == versions_in(cache)
    assert load(store, cache, version=found[0]).version == found[0]  # the store still has it


def test_a_version_that_a_process_uses_stays(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    first = load(store, cache).version
    command = [sys.executable, "-c", HOLD, store.url, str(cache), first]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in range(KEPT_VERSIONS + 1):
            store.publish(bundle=relabelled(store.bundle, tmp_path / f"{number}", str(number)))
            load(store, cache)
        assert first in versions_in(cache)
        assert process.communicate("")[0].strip() in {"open", "closed", "partly"}
    store.publish(bundle=relabelled(store.bundle, tmp_path / "last", "last"))
    load(store, cache)
    assert first not in versions_in(cache)


def test_what_never_served_goes_first(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    """A row of bad versions does not push out those that were good."""
    good = [load(store, cache).version]
    classify = load(store, cache)
    for number in range(KEPT_VERSIONS):
        bad = relabelled(
            contradicted(store.bundle, tmp_path / f"bad{number}"), tmp_path / f"worse{number}", str(number)
        )
        store.publish(bundle=bad)
        assert not classify.refresh()
    assert len(versions_in(cache)) == KEPT_VERSIONS + 1
    for number in range(KEPT_VERSIONS - 1):
        store.publish(bundle=relabelled(store.bundle, tmp_path / f"{number}", str(number)))
        assert classify.refresh()
        good.append(classify.version)
    assert versions_in(cache) == set(good)


def test_content_gives_nothing_that_is_damaged(tmp_path: Path) -> None:
    content = Content(tmp_path)
    source = tmp_path / "file"
    source.write_bytes(b"what it should be")
    entry = FileEntry(size=17, sha256="5f9fd9cc6ac1dd4ac6dfbfbe0f6aee6a3b9a5ea2b4a9b7d4b46a3f2f43f9a6f4")
    content.add(entry, source)  # a lie, as a disk tells it
    assert not content.place(entry, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert list((tmp_path / ".content").iterdir()) == []


def test_a_version_that_was_never_there(store: PublishedStore, cache: Path) -> None:
    """A failed fetch leaves nothing that anybody could read."""
    with pytest.raises(NotFoundError):
        load(store, cache, version="0123456789abcdef")
    assert not (cache / "trails" / "versions").exists()
