"""The cache: fetched once, verified each time, shared by processes, good for a start without the store."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from retrainer.errors import IntegrityError, NotFoundError, ResourceError, StorageError, UserError
from retrainer.serve import Classifier
from retrainer.serve.cache import ModelCache
from retrainer.serve.cached_version import default_cache
from retrainer.store import Store
from tests.serve.conftest import PublishedStore, cached_file, contradicted, load, manifest_of
from tests.unprivileged import unprivileged

PROGRAM = """
import sys
from retrainer.serve import Classifier
classify = Classifier.from_store(sys.argv[1], "trails", cache_dir=sys.argv[2])
print(classify.version, classify("the trail is open")[0]["label"])
"""


def test_the_champion_is_loaded_and_cached(store: PublishedStore, cache: Path) -> None:
    classify = load(store, cache)
    champion = store.model.champion("production")
    assert champion is not None
    assert classify.version == champion.version
    assert classify.manifest == champion
    assert classify("the trail is open")
    assert files_here(cache, champion.version) == {*champion.files, "manifest.json"}
    assert Classifier.from_folder(cached_file(cache, champion.version, "")).version == champion.version


def files_here(cache: Path, version: str) -> set[str]:
    folder = cached_file(cache, version, "")
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_served_is_fetched_where_that_is_asked(store: PublishedStore, cache: Path) -> None:
    version = load(store, cache, verify="served").version
    here = files_here(cache, version)
    assert {"manifest.json", "onnx/model_int8.onnx"} <= here
    assert not {"train_rows.bin", "onnx/model.onnx"} & here
    assert load(store, cache).version == version  # and the rest where all is asked
    assert {"train_rows.bin", "onnx/model.onnx"} <= files_here(cache, version)


def test_a_version_with_any_altered_file_is_refused(store: PublishedStore, tmp_path: Path) -> None:
    champion = store.model.champion("production")
    assert champion is not None
    for number, name in enumerate(champion.files):
        path = store.file(champion.version, name)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"x")
        with pytest.raises(IntegrityError, match="not the one that was published") as caught:
            load(store, tmp_path / str(number))
        assert name in str(caught.value)
        path.write_bytes(content)
    assert number >= 7
    assert load(store, tmp_path / "sound").version == champion.version


def test_a_new_champion_is_followed_and_a_version_can_be_named(store: PublishedStore, cache: Path) -> None:
    first = load(store, cache).version
    second = store.publish(accuracy=0.95)
    assert load(store, cache).version == second != first
    assert load(store, cache, version=first).version == first


def test_what_is_not_there_is_said(store: PublishedStore, cache: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no champion on the channel 'staging'.*channels: production"):
        load(store, cache, channel="staging")
    with pytest.raises(NotFoundError, match="has no version '0123456789abcdef'"):
        load(store, cache, version="0123456789abcdef")
    with pytest.raises(NotFoundError, match="no champion"):
        Classifier.from_store(store.url, "roads", cache_dir=cache)
    with pytest.raises(NotFoundError, match="no version"):
        load(store, cache, version="../../etc")


def test_starts_without_the_store(store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = load(store, cache).version
    second = store.publish(accuracy=0.95)
    assert load(store, cache).version == second
    shutil.rmtree(store.folder)
    with caplog.at_level(logging.WARNING):
        assert load(store, cache).version == second
    assert f"serving version {second}" in caplog.text
    assert load(store, cache, version=first).version == first
    with pytest.raises(StorageError, match="there is no such folder"):
        load(store, cache, channel="staging")
    with pytest.raises(StorageError):
        load(store, cache.with_name("empty"))


def test_starts_without_the_bucket(
    bundle: Path, cache: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"s3://{s3_bucket}/models"
    published = PublishedStore(url, Store.open(url).model("trails"), bundle)
    version = published.publish()
    assert load(published, cache).version == version
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert load(published, cache).version == version


def test_a_damaged_copy_is_fetched_again(store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    version = load(store, cache).version
    graph = cached_file(cache, version, "onnx/model_int8.onnx")
    good = graph.read_bytes()
    for damage in (good[:-1], bytes([good[0] ^ 1]) + good[1:], b""):
        graph.write_bytes(damage)
        load(store, cache)
        assert graph.read_bytes() == good
    cached_file(cache, version, "tokenizer.json").unlink()
    cached_file(cache, version, "manifest.json").write_text("{}")
    assert load(store, cache).version == version
    assert "damaged; repairing" in caplog.text


def test_a_damaged_copy_is_refused_without_the_store(store: PublishedStore, cache: Path) -> None:
    version = load(store, cache).version
    shutil.rmtree(store.folder)
    graph = cached_file(cache, version, "onnx/model_int8.onnx")
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StorageError, match=r"the local copy of .* is without a sound int8 graph"):
        load(store, cache)
    assert load(store, cache, precision="fp32").precision == "fp32"
    cached_file(cache, version, "tokenizer.json").write_bytes(b"")
    with pytest.raises(StorageError, match=r"the local copy of .* is damaged"):
        load(store, cache)


def test_a_graph_is_fetched_when_it_is_first_asked_for(store: PublishedStore, cache: Path) -> None:
    version = load(store, cache, verify="served").version
    assert not cached_file(cache, version, "onnx/model.onnx").exists()
    assert load(store, cache, precision="fp32", verify="served").precision == "fp32"
    assert cached_file(cache, version, "onnx/model.onnx").is_file()
    shutil.rmtree(store.folder)
    assert load(store, cache, precision="fp32").precision == "fp32"


def test_a_repaired_graph_is_the_published_one_or_none(store: PublishedStore, cache: Path) -> None:
    """int8 that is damaged here and altered in the store is refused; fp32 does not step in for it."""
    version = load(store, cache).version
    cached_file(cache, version, "onnx/model_int8.onnx").write_bytes(b"damaged here")
    path = store.file(version, "onnx/model_int8.onnx")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="not the one that was published"):
        load(store, cache)


@pytest.mark.parametrize("name", ["onnx/model_int8.onnx", "manifest.json", "tokenizer.json", "golden.jsonl"])
def test_what_was_altered_in_the_store_is_refused(store: PublishedStore, cache: Path, name: str) -> None:
    champion = store.model.champion("production")
    assert champion is not None
    path = store.file(champion.version, name)
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(IntegrityError):
        load(store, cache)
    assert not cached_file(cache, champion.version, "manifest.json").exists()
    assert list((cache / "trails").glob("staging/*")) == []


def test_a_manifest_of_another_version_is_refused(store: PublishedStore, cache: Path, bundle: Path) -> None:
    champion = store.model.champion("production")
    assert champion is not None
    path = store.folder / "trails" / "versions" / champion.version / "manifest.json"
    path.write_text(manifest_of(bundle, accuracy=0.1).to_pretty_json())
    with pytest.raises(IntegrityError):
        load(store, cache)


def test_a_version_that_answers_otherwise_is_not_remembered(store: PublishedStore, cache: Path, tmp_path: Path) -> None:
    """The next start without the store goes back to the last one that was good."""
    good = load(store, cache).version
    store.publish(bundle=contradicted(store.bundle, tmp_path / "bad"))
    with pytest.raises(IntegrityError, match="does not answer here"):
        load(store, cache)
    shutil.rmtree(store.folder)
    assert load(store, cache).version == good


def test_processes_share_one_copy(store: PublishedStore, cache: Path) -> None:
    """Started at once on an empty cache, all serve, and the version was fetched into place once."""
    champion = store.model.champion("production")
    assert champion is not None
    (cache / "trails" / "staging" / f"{champion.version}-dead").mkdir(parents=True)
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, store.url, str(cache)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list((cache / "trails" / "versions").iterdir())) == 1
    assert list((cache / "trails" / "staging").iterdir()) == []


def test_two_stores_do_not_mix(store: PublishedStore, bundle: Path, cache: Path, tmp_path: Path) -> None:
    url = (tmp_path / "other").as_uri()
    other = PublishedStore(url, Store.open(url).model("trails"), bundle)
    second = other.publish(accuracy=0.5)
    first = load(store, cache).version
    assert load(other, cache).version == second
    shutil.rmtree(store.folder)
    shutil.rmtree(other.folder)
    assert load(store, cache).version == first
    assert load(other, cache).version == second


def read_only(cache: Path) -> None:
    """For a user who is nobody."""
    for path in [cache, *cache.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for folder in cache.parents:
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)


def test_a_cache_that_was_filled_before_may_be_read_only(
    store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As an image or a mounted volume holds it: it serves, and only says that it can note nothing."""
    version = load(store, cache).version
    memory = next((cache / "trails" / "channels").glob("*.json"))
    memory.unlink()
    read_only(cache)
    with unprivileged():
        classify = load(store, cache)
        assert classify("the trail is open")
    assert classify.version == version
    assert "cannot note the present version" in caplog.text
    assert not memory.exists()


def test_a_cache_that_cannot_take_a_new_version(
    store: PublishedStore, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What answered last goes on, also at a start, and nobody is told that the store is away."""
    classify = load(store, cache)
    first = classify.version
    read_only(cache)
    second = store.publish(accuracy=0.95)
    with unprivileged():
        assert not classify.refresh()
        again = load(store, cache)
        assert again("the trail is open")
    for one in (classify, again):
        status = one.status
        assert (status.version, status.refused_version, status.offline) == (first, None, False)
        assert "no permission" in str(status.problem)
        assert "give a folder as cache_dir, or in the environment variable RETRAINER_CACHE" in str(status.problem)
    assert "this host cannot take what is in the store; the last good version stays" in caplog.text
    assert f"this host cannot take what is in the store; serving version {first}" in caplog.text
    assert "store cannot be" not in caplog.text
    for path in [cache, *cache.rglob("*")]:
        path.chmod(0o755)
    assert again.refresh()
    assert again.version == second


def in_place_of(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        (path / "within").mkdir(parents=True)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize(
    "name", ["manifest.json", "tokenizer.json", "onnx/model_int8.onnx", "memory", "its lock", "fetch lock", "use lock"]
)
def test_what_is_not_a_file_in_the_cache(store: PublishedStore, cache: Path, name: str, kind: str) -> None:
    """It is replaced, or not needed, and nobody waits for it."""
    version = load(store, cache).version
    locks = cache / "trails" / "locks"
    memory = next((cache / "trails" / "channels").glob("*.json"))
    path = {
        "memory": memory,
        "its lock": locks / f"channel-{memory.stem}",
        "fetch lock": locks / f"{version}.fetch",
        "use lock": locks / f"{version}.use",
    }.get(name, cached_file(cache, version, name))
    in_place_of(path, kind)
    assert load(store, cache).version == version
    again = load(store, cache)
    assert (again.version, again.status.problem) == (version, None)


def test_what_arrived_is_counted_while_other_processes_make_and_remove_folders(tmp_path: Path) -> None:
    """A fetch in another process replaces what is damaged, and a folder may go between being listed and being read."""
    cache = ModelCache(f"file://{tmp_path / 'store'}", "trails", tmp_path / "cache")
    staging = tmp_path / "cache" / "trails" / "staging"
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            for number in range(8):
                (staging / f"{'0' * 16}-{number}" / "onnx" / "deep").mkdir(parents=True)
            shutil.rmtree(staging)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert {cache.arrived("0" * 16) for _ in range(2000)} == {0}
    finally:
        ended.set()
        thread.join()


def test_a_cache_that_is_a_file(store: PublishedStore, cache: Path) -> None:
    cache.write_text("")
    with pytest.raises(ResourceError, match=r"a file stands where a folder should be.*cache_dir"):
        load(store, cache)


def test_a_cache_that_cannot_be_read(store: PublishedStore, cache: Path) -> None:
    version = load(store, cache).version
    read_only(cache)
    cached_file(cache, version, "manifest.json").chmod(0)
    with (
        unprivileged(),
        pytest.raises(ResourceError, match=r"no permission.*check owner and mode.*cache_dir") as caught,
    ):
        load(store, cache)
    assert caught.value.where == str(cached_file(cache, version, "manifest.json"))


def test_a_cache_that_cannot_be_made(store: PublishedStore, cache: Path) -> None:
    cache.mkdir()
    read_only(cache)
    with unprivileged(), pytest.raises(ResourceError, match=r"no permission.*cache_dir.*RETRAINER_CACHE"):
        load(store, cache)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run under a number that no list of users has."""
    monkeypatch.delenv("RETRAINER_CACHE", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UserError, match=r"this user has no home.*cache_dir.*RETRAINER_CACHE"):
        default_cache()


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_folder_is_the_version_that_it_says(store: PublishedStore, tmp_path: Path, precision: str) -> None:
    """Where a manifest lies in it, what is read must be what that names."""
    champion = store.model.champion("production")
    assert champion is not None
    folder = tmp_path / "fetched"
    shutil.copytree(store.file(champion.version, ""), folder)
    assert Classifier.from_folder(folder, precision=precision).version == champion.version
    graph = "onnx/model_int8.onnx" if precision == "auto" else "onnx/model.onnx"
    for name in (graph, "tokenizer.json", "golden.jsonl", "bundle.json", "config.json"):
        path = folder / name
        content = path.read_bytes()
        for damage in (content + b" ", None):
            if damage is None:
                path.unlink()
            else:
                path.write_bytes(damage)
            with pytest.raises(IntegrityError, match=r"manifest.*names") as caught:
                Classifier.from_folder(folder, precision=precision)
            assert caught.value.where == str(path)
        path.write_bytes(content)
    (folder / "train_rows.bin").write_bytes(b"not read")
    assert Classifier.from_folder(folder, precision=precision).version == champion.version
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b" ")
    (folder / "manifest.json").unlink()
    assert Classifier.from_folder(folder, precision=precision).version == "unpublished"


def test_a_folder_with_a_graph_that_its_manifest_does_not_have(store: PublishedStore, tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    shutil.copytree(store.bundle, folder)
    manifest = manifest_of(folder)
    precisions = {"fp32": manifest.precisions["fp32"]}
    (folder / "manifest.json").write_text(manifest.model_copy(update={"precisions": precisions}).to_pretty_json())
    with pytest.raises(IntegrityError, match="not the file that the manifest"):
        Classifier.from_folder(folder)
    assert Classifier.from_folder(folder, precision="fp32").precision == "fp32"


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: PublishedStore) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "elsewhere"))
    assert default_cache() == tmp_path / "elsewhere" / "models"
    Classifier.from_store(store.url, "trails")
    assert (tmp_path / "elsewhere" / "models" / "trails" / "versions").is_dir()
    monkeypatch.delenv("RETRAINER_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "retrainer" / "models"
