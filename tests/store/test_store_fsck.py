"""``fsck``: whatever is altered, deleted or swapped in a store is named; what publishers leave is no damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.errors import NotFoundError, ResourceError, RetrainerError, StorageError, StoragePermissionError
from retrainer.records import digest_of, sha256_file
from retrainer.storage import Storage, open_storage
from retrainer.store import FileEntry, Keyring, Manifest, ModelStore, Signer, Store
from retrainer.store.fsck import Code, Finding, Findings, Progress, check_store
from retrainer.store.gc import plan_gc, run_gc

MakeBundle = Callable[[str], tuple[Path, Manifest]]
FORK = multiprocessing.get_context("fork")
REPOSITORY = Path(__file__).resolve().parents[2]
POINTER = "news/channels/production.json"


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


@pytest.fixture
def storage(store_url: str) -> Storage:
    return open_storage(store_url)


on_a_folder = pytest.mark.parametrize("store_url", ["folder"], indirect=True)


@pytest.fixture
def sharing(bundle: MakeBundle) -> MakeBundle:
    """Bundles that all have the same config.json."""

    def make(content: str) -> tuple[Path, Manifest]:
        folder, manifest = bundle(content)
        config = folder / "config.json"
        config.write_text("the same in all")
        entry = FileEntry(size=config.stat().st_size, sha256=sha256_file(config))
        return folder, manifest.model_copy(update={"files": {**manifest.files, "config.json": entry}})

    return make


def publish(model: ModelStore, bundle: tuple[Path, Manifest], channel: str = "production") -> str:
    folder, manifest = bundle
    newest = model.newest_move(channel)
    return model.publish(
        folder,
        manifest,
        channel=channel,
        actor="ada",
        reason="a test",
        decision=None,
        expected=newest.to_version if newest else None,
    ).version


def fill(url: str, sharing: MakeBundle, signer: Signer | None = None) -> ModelStore:
    """Three versions, two channels, five moves."""
    model = Store.open(url, signer=signer).model("news")
    for content in ("one", "two", "three"):
        publish(model, sharing(content))
    model.promote("staging", from_channel="production", actor="ada", reason="try it")
    model.rollback("production", actor="bob", reason="was worse")
    return model


def named(findings: Findings) -> list[tuple[str, str]]:
    return [(finding.code, finding.key) for finding in findings.findings]


def edit(storage: Storage, key: str, **changes: Any) -> None:
    text = json.dumps(json.loads(storage.read(key)) | changes, indent=2, ensure_ascii=False) + "\n"
    storage.write(key, text.encode())


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_a_sound_store(store_url: str, storage: Storage, sharing: MakeBundle, signer: Signer, signed: bool) -> None:
    fill(store_url, sharing, signer if signed else None)
    ring = Keyring((signer.public,)) if signed else None
    seen: list[Progress] = []
    found = check_store(storage, trusted=ring, on_progress=seen.append)
    assert named(found) == []
    assert found.sound
    assert (found.models, found.channels, found.versions, found.files) == (("news",), 2, 3, 9)
    assert (seen[-1].files, seen[-1].bytes) == (seen[-1].total_files, seen[-1].total_bytes) == (9, found.bytes)
    assert named(check_store(storage)) == []
    quick = check_store(storage, models=["news"], quick=True)
    assert quick.sound
    assert quick.quick


@on_a_folder
def test_nothing_is_written(store_url: str, storage: Storage, sharing: MakeBundle) -> None:
    fill(store_url, sharing)
    storage.delete(POINTER)
    before = {info.key: info.etag for info in storage.list()}
    check_store(storage)
    assert {info.key: info.etag for info in storage.list()} == before


# Any damage anywhere


@pytest.fixture(params=["folder", "bucket"])
def whole(request: pytest.FixtureRequest, tmp_path: Path, sharing: MakeBundle, signer: Signer) -> Whole:
    """A signed store that is put right after each damage."""
    url = str(tmp_path / "store")
    if request.param == "bucket":
        url = f"s3://{request.getfixturevalue('s3_bucket')}/models"
    fill(url, sharing, signer)
    return Whole(url, Keyring((signer.public,)), examples=80 if request.param == "folder" else 10)


class Whole:
    """A store, and all its objects as they were."""

    def __init__(self, url: str, ring: Keyring, *, examples: int) -> None:
        self.storage = open_storage(url)
        self.ring = ring
        self.examples = examples
        self.model = Store.open(url, trusted=ring).model("news")
        # What a probe leaves is written to be refused, and never read.
        self.objects = {
            info.key: self.storage.read(info.key)
            for info in self.storage.list()
            if not info.key.startswith("news/.probe")
        }
        self.versions = {info.version: self.model.manifest(info.version) for info in self.model.versions()}

    def put_right(self, keys: set[str]) -> None:
        for key in keys:
            self.storage.write(key, self.objects[key])

    def read_all(self, folder: Path) -> None:
        """Read what each channel serves, as a client does: it is refused, or gets a published version byte for byte."""
        for channel in ("production", "staging"):
            try:
                champion = self.model.champion(channel)
                if champion is None:
                    continue
                self.model.fetch(champion.version, folder / champion.version)
            except RetrainerError:
                continue
            assert champion == self.versions[champion.version]
            for name, entry in champion.files.items():
                assert sha256_file(folder / champion.version / name) == entry.sha256


def belongs(finding: Finding, key: str) -> bool:
    """Whether a finding names an object, or the version or channel that it is of."""
    _, kind, rest = key.split("/", 2)
    if finding.key == key:
        return True
    if kind == "versions":
        return finding.version == rest.partition("/")[0]
    return kind in {"channels", "journal"} and rest.removesuffix(".json").partition("/")[0] in finding.channels


def says_the_same(whole: Whole, key: str) -> bool:
    """Whether an object is a record that still says what it said."""
    if not key.endswith(".json") or not whole.storage.exists(key):
        return False
    return whole.storage.read(key).strip() == whole.objects[key].strip()


def test_any_damage_is_named_and_never_read(whole: Whole, tmp_path: Path) -> None:
    keys = sorted(whole.objects)
    kinds = sorted({key.split("/")[1] for key in keys})
    # As many damages of each kind of object, however many there are of it.
    objects = st.sampled_from(kinds).flatmap(lambda kind: st.sampled_from([k for k in keys if k.split("/")[1] == kind]))
    number = iter(range(1_000_000))

    @settings(
        max_examples=whole.examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(objects, st.sampled_from(["flip", "delete", "truncate", "swap"]), objects, st.integers(0, 2**32))
    def check(key: str, how: str, other: str, seed: int) -> None:
        sound, rng = whole.objects[key], random.Random(seed)
        changed = {key}
        if how == "flip":
            data = bytearray(sound)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            whole.storage.write(key, bytes(data))
        elif how == "delete":
            whole.storage.delete(key)
        elif how == "truncate":
            whole.storage.write(key, sound[: rng.randrange(len(sound))])
        elif whole.objects[other] != sound:
            changed.add(other)
            whole.storage.write(key, whole.objects[other])
            whole.storage.write(other, sound)
        else:
            return
        try:
            found = check_store(whole.storage, trusted=whole.ring)
            for damaged in changed:
                # The index is a hint; one entry less only costs a transfer. And a record may lose its line feed.
                if (how != "delete" or "/files/" not in key) and not says_the_same(whole, damaged):
                    assert any(belongs(finding, damaged) for finding in found.findings), (how, damaged, named(found))
            whole.read_all(tmp_path / f"copy-{next(number)}")
        finally:
            whole.put_right(changed)

    check()
    assert named(check_store(whole.storage, trusted=whole.ring)) == []


# Each kind of damage by its name


Damage = Callable[[Storage, ModelStore], object]


def journal(sequence: int, channel: str = "production") -> str:
    return f"news/journal/{channel}/{sequence:010d}.json"


def entry_of(storage: Storage, sequence: int) -> str:
    return f"news/history/{json.loads(storage.read(journal(sequence)))['history']}.json"


def champion(storage: Storage, *, sequence: int = 4) -> str:
    return f"news/versions/{json.loads(storage.read(journal(sequence)))['version']}"


def put_older_back(storage: Storage, _: ModelStore) -> None:
    storage.write(POINTER, storage.read(journal(3)))


def delete_channel(storage: Storage, _: ModelStore) -> None:
    for key in (POINTER, *map(journal, range(1, 5))):
        storage.delete(key)


def fork(storage: Storage, model: ModelStore) -> None:
    real = storage.read(journal(4))
    storage.write(POINTER, storage.read(journal(3)))
    storage.delete(journal(4))
    model.rollback("production", actor="eve", reason="another fourth move")
    storage.write(journal(4), real)


def fork_and_delete(storage: Storage, model: ModelStore) -> None:
    fork(storage, model)
    storage.delete(POINTER)


def replay_without_journal(storage: Storage, _: ModelStore) -> None:
    storage.write(POINTER, storage.read(journal(2)))
    storage.delete(journal(4))
    storage.delete(journal(3))


def add_a_manifest(name: str) -> Damage:
    """A version that names itself rightly, and a file that no storage can hold."""

    def add(storage: Storage, _: ModelStore) -> None:
        text = json.loads(storage.read(f"{champion(storage)}/manifest.json"))
        text["files"][name] = {"size": 1, "sha256": "0" * 64}
        version = digest_of(text)[:16]
        data = (json.dumps(text, indent=2, ensure_ascii=False) + "\n").encode()
        storage.write(f"news/versions/{version}/manifest.json", data)
        for file in text["files"]:
            if file != name:
                storage.write(f"news/versions/{version}/{file}", storage.read(f"{champion(storage)}/{file}"))

    return add


DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "pointer is no JSON": (lambda storage, _: storage.write(POINTER, b"{"), {"pointer-unreadable"}),
    "pointer of another channel": (
        lambda storage, _: storage.write(POINTER, storage.read("news/channels/staging.json")),
        {"pointer-unreadable"},
    ),
    "pointer to another version": (
        lambda storage, _: edit(storage, POINTER, version=champion(storage, sequence=1).rpartition("/")[2]),
        {"pointer-altered"},
    ),
    "pointer to what cannot be a version": (
        lambda storage, _: edit(storage, POINTER, version="../../../etc"),
        {"pointer-unreadable"},
    ),
    "pointer with another hash": (
        lambda storage, _: edit(storage, POINTER, manifest_sha256="0" * 64),
        {"pointer-altered"},
    ),
    "pointer with another time": (
        lambda storage, _: edit(storage, POINTER, moved_at="2020-01-01T00:00:00.000000+00:00"),
        {"pointer-altered"},
    ),
    "pointer with another origin": (lambda storage, _: edit(storage, POINTER, origin="0" * 64), {"pointer-altered"}),
    "pointer of a later move": (lambda storage, _: edit(storage, POINTER, sequence=9), {"pointer-altered"}),
    "pointer in other bytes": (
        lambda storage, _: storage.write(POINTER, storage.read(POINTER) + b"\n"),
        {"pointer-altered"},
    ),
    "older pointer": (put_older_back, {"pointer-replayed"}),
    "older pointer, journal deleted": (replay_without_journal, {"pointer-replayed"}),
    "pointer deleted after a fork": (fork_and_delete, {"pointer-deleted", "history-orphan"}),
    "pointer deleted": (lambda storage, _: storage.delete(POINTER), {"pointer-deleted"}),
    "channel deleted": (delete_channel, {"pointer-deleted"}),
    "fork": (fork, {"channel-forked"}),
    "champion deleted": (
        lambda storage, _: storage.delete_tree(champion(storage)),
        {"pointer-dangling", "index-stale"},
    ),
    "journal is no JSON": (lambda storage, _: storage.write(journal(2), b"{"), {"journal-unreadable"}),
    "journal of another move": (
        lambda storage, _: storage.write(journal(2), storage.read(journal(1))),
        {"journal-unreadable"},
    ),
    "journal with another version": (
        lambda storage, _: edit(storage, journal(1), version="0" * 16),
        {"journal-mismatch"},
    ),
    "journal of a move that never was": (
        lambda storage, _: storage.write(
            journal(5), json.dumps(json.loads(storage.read(POINTER)) | {"sequence": 5}).encode()
        ),
        {"journal-mismatch"},
    ),
    "journal of an impossible move": (
        lambda storage, _: storage.write(journal(9_999_999_999), b"{"),
        {"journal-unreadable", "journal-gap"},
    ),
    "manifest with a reserved name": (add_a_manifest(".retrainer-x/file"), {"manifest-altered"}),
    "manifest with a name that is too long": (add_a_manifest("x" * 300), {"object-unreadable"}),
    "journal with a gap": (lambda storage, _: storage.delete(journal(2)), {"journal-gap"}),
    "entry missing": (lambda storage, _: storage.delete(entry_of(storage, 2)), {"history-missing"}),
    "newest entry missing": (lambda storage, _: storage.delete(entry_of(storage, 4)), {"history-missing"}),
    "entry edited": (lambda storage, _: edit(storage, entry_of(storage, 2), actor="eve"), {"history-altered"}),
    "manifest edited": (
        lambda storage, _: edit(storage, f"{champion(storage)}/manifest.json", labels=["Sports", "World"]),
        {"manifest-altered"},
    ),
    "manifest in other bytes": (
        lambda storage, _: storage.write(
            f"{champion(storage)}/manifest.json", storage.read(f"{champion(storage)}/manifest.json") + b"\n"
        ),
        {"manifest-altered"},
    ),
    "manifest deleted": (
        lambda storage, _: storage.delete(f"{champion(storage)}/manifest.json"),
        {"pointer-dangling", "version-incomplete", "index-stale"},
    ),
    "file deleted": (
        lambda storage, _: storage.delete(f"{champion(storage)}/README.md"),
        {"file-missing", "index-stale"},
    ),
    "file cut": (lambda storage, _: storage.write(f"{champion(storage)}/README.md", b""), {"file-altered"}),
    "file of the same size": (
        lambda storage, _: storage.write(
            f"{champion(storage)}/README.md", b"x" * len(storage.read(f"{champion(storage)}/README.md"))
        ),
        {"file-altered"},
    ),
    "another file": (lambda storage, _: storage.write(f"{champion(storage)}/run.sh", b"x"), {"file-unlisted"}),
    "an object outside": (lambda storage, _: storage.write("news/notes.txt", b"x"), {"object-unknown"}),
    "index is no JSON": (
        lambda storage, _: storage.write(next(iter(storage.list("news/files/"))).key, b"{"),
        {"index-altered"},
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_each_damage_has_its_name(tmp_path: Path, sharing: MakeBundle, what: str) -> None:
    url = str(tmp_path / "store")
    model, storage = fill(url, sharing), open_storage(url)
    damage, codes = DAMAGES[what]
    damage(storage, model)
    found = check_store(storage)
    assert {finding.code for finding in found.findings} == codes
    harmless = {"journal-gap", "file-unlisted", "object-unknown", "index-altered"}
    assert found.sound is (codes <= harmless)
    for finding in found.findings:
        assert finding.where.endswith(finding.key.rstrip("/"))
        assert finding.message
        assert finding.hint


def test_a_damaged_file_names_the_channels_that_serve_it(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    model, storage = fill(url, sharing), open_storage(url)
    model.promote("canary", from_channel="production", actor="ada", reason="both")
    for sequence, channels in ((4, ("canary", "production")), (3, ("staging",)), (1, ())):
        key = f"{champion(storage, sequence=sequence)}/onnx/model.onnx"
        sound = storage.read(key)
        storage.write(key, b"\0" * len(sound))
        (finding,) = check_store(storage).findings
        assert (finding.code, finding.key, finding.channels) == ("file-altered", key, channels)
        assert finding.version == key.split("/")[2]
        assert check_store(storage, quick=True).sound  # it has its size
        storage.write(key, sound)


@on_a_folder
def test_each_run_of_missing_moves_is_one_finding(store_url: str, storage: Storage, sharing: MakeBundle) -> None:
    fill(store_url, sharing)
    for sequence in (1, 3):
        storage.delete(journal(sequence))
    storage.write(journal(300_000), storage.read(POINTER))
    gaps = [finding for finding in check_store(storage).findings if finding.code == "journal-gap"]
    assert [(gap.key, gap.message.partition(" of ")[0]) for gap in gaps] == [
        (journal(1), "move 1"),
        (journal(3), "move 3"),
        (journal(5), "the moves 5 to 299999"),
    ]


@on_a_folder
def test_one_finding_hides_no_other(store_url: str, storage: Storage, sharing: MakeBundle) -> None:
    fill(store_url, sharing)
    versions = {sequence: champion(storage, sequence=sequence) for sequence in (1, 2, 3)}
    first_entry = entry_of(storage, 1)
    edit(storage, entry_of(storage, 2), actor="eve")
    storage.delete(entry_of(storage, 3))
    storage.write(journal(1), b"{")
    storage.write("news/channels/staging.json", b"{")
    storage.write(f"{versions[1]}/manifest.json", b"{")
    storage.write(f"{versions[2]}/onnx/model.onnx", b"")
    storage.delete(f"{versions[3]}/README.md")
    codes = {finding.code for finding in check_store(storage).of("damage")}
    assert codes == {
        "history-altered",
        "history-missing",
        "journal-unreadable",
        "pointer-unreadable",
        "manifest-altered",
        "file-altered",
        "file-missing",
    }
    assert not any(finding.key == first_entry for finding in check_store(storage).findings)  # below a break: not lost


@on_a_folder
def test_swapped_manifests(store_url: str, storage: Storage, sharing: MakeBundle) -> None:
    fill(store_url, sharing)
    one, two = (f"{champion(storage, sequence=sequence)}/manifest.json" for sequence in (1, 2))
    first, second = storage.read(one), storage.read(two)
    storage.write(one, second)
    storage.write(two, first)
    found = check_store(storage).of("damage")
    assert {finding.key for finding in found if finding.code == "manifest-altered"} == {one, two}
    assert all("manifest of another content" in finding.message for finding in found)


# Signatures


@on_a_folder
def test_a_removed_signature(store_url: str, storage: Storage, sharing: MakeBundle, signer: Signer) -> None:
    fill(store_url, sharing, signer)
    version = champion(storage, sequence=1)
    storage.delete(f"{version}/signatures/{signer.public.key_id}.json")
    for ring in (None, Keyring((signer.public,))):
        (finding,) = check_store(storage, trusted=ring).findings
        assert (finding.code, finding.severity) == ("version-unsigned", "damage")
        assert finding.version == version.rpartition("/")[2]
    text = json.loads(storage.read(POINTER))
    del text["signature"]
    storage.write(POINTER, json.dumps(text).encode())
    (finding,) = [one for one in check_store(storage).findings if one.key == POINTER]
    assert (finding.code, finding.severity) == ("pointer-unsigned", "damage")


@on_a_folder
def test_the_only_signature_that_is_removed(
    store_url: str, storage: Storage, sharing: MakeBundle, signer: Signer
) -> None:
    version = publish(Store.open(store_url, signer=signer).model("news"), sharing("one"))
    storage.delete(f"news/versions/{version}/signatures/{signer.public.key_id}.json")
    for ring in (None, Keyring((signer.public,))):
        found = check_store(storage, trusted=ring)
        assert not found.sound
        assert [(one.code, one.severity, one.version) for one in found.findings] == [
            ("version-unsigned", "damage", version)
        ]


@on_a_folder
def test_keys_that_are_not_trusted(store_url: str, storage: Storage, sharing: MakeBundle, signer: Signer) -> None:
    fill(store_url, sharing, signer)
    other = Signer(Ed25519PrivateKey.generate())
    found = check_store(storage, trusted=Keyring((other.public,)))
    assert {finding.code for finding in found.findings} == {
        "pointer-signature",
        "journal-signature",
        "version-unsigned",
    }
    assert not found.sound
    # Both while keys are rotated: what the older one signed holds.
    assert check_store(storage, trusted=Keyring((other.public, signer.public))).findings == ()


@on_a_folder
def test_an_unsigned_channel_among_signed_ones_is_suspect(
    store_url: str, storage: Storage, sharing: MakeBundle, signer: Signer
) -> None:
    publish(Store.open(store_url).model("news"), sharing("one"), "staging")
    publish(Store.open(store_url, signer=signer).model("news"), sharing("two"))
    found = check_store(storage)
    assert found.sound
    assert {(finding.code, finding.channels) for finding in found.findings} == {
        ("pointer-unsigned", ("staging",)),
        ("version-unsigned", ("staging",)),
    }


@on_a_folder
def test_a_signature_moved_to_another_version(
    store_url: str, storage: Storage, sharing: MakeBundle, signer: Signer
) -> None:
    fill(store_url, sharing, signer)
    name = f"signatures/{signer.public.key_id}.json"
    key = f"{champion(storage, sequence=1)}/{name}"
    storage.write(key, storage.read(f"{champion(storage, sequence=2)}/{name}"))
    (finding,) = check_store(storage).findings
    assert (finding.code, finding.key) == ("version-signature", key)


# What is no damage


class Deadly:
    """A storage that kills its process at one of its changes, before or after it took effect."""

    def __init__(self, url: str, fatal: int, *, after: bool) -> None:
        self._storage = open_storage(url)
        self._left = fatal
        self._after = after
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        return self._change(method) if name in {"write", "upload_all", "copy"} else method

    def _change(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **options: Any) -> Any:
            with self._lock:
                self._left -= 1
                fatal = self._left == 0
            if fatal and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return method(*args, **options)
            finally:
                if fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        return change


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_killed_publishers_leave_is_no_damage(
    store_url: str, storage: Storage, sharing: MakeBundle, signer: Signer, after: bool
) -> None:
    def attempt(fatal: int, bundle: tuple[Path, Manifest]) -> None:
        publish(ModelStore(Deadly(store_url, fatal, after=after), "news", signer=signer), bundle)

    model = Store.open(store_url, signer=signer).model("news")
    publish(model, sharing("0"))
    ring = Keyring((signer.public,))
    leftovers = set()
    everywhere = "://" not in store_url
    for fatal in range(1 if everywhere else 3, 40, 1 if everywhere else 7):
        new = sharing(str(fatal))
        worker = FORK.Process(target=attempt, args=(fatal, new))
        worker.start()
        worker.join()
        found = check_store(storage, trusted=ring)
        assert found.sound, found.of("damage")
        assert found.of("suspect") == ()
        leftovers |= {finding.code for finding in found.findings}
        publish(model, new)
        if worker.exitcode == 0:
            break
    assert worker.exitcode == 0
    # A killed publisher is seen by what it left. Whatever needs completing, the next one completed.
    if everywhere:
        assert leftovers >= {"version-incomplete", "version-unsigned", "history-orphan", "journal-behind"}
    assert {finding.code for finding in check_store(storage, trusted=ring).findings} <= {"history-orphan", "temporary"}


@on_a_folder
def test_an_upload_that_was_cut_short_ages(store_url: str, storage: Storage, sharing: MakeBundle) -> None:
    fill(store_url, sharing)
    storage.write("news/versions/0123456789abcdef/config.json", b"{}")
    for now, words in ((None, "under way"), (datetime.now(UTC) + timedelta(days=2), "cut short")):
        (finding,) = check_store(storage, now=now).findings
        assert (finding.code, finding.severity) == ("version-incomplete", "leftover")
        assert words in finding.message


def test_an_unfinished_upload_in_parts(s3_bucket: str, sharing: MakeBundle) -> None:
    url = f"s3://{s3_bucket}/models"
    fill(url, sharing)
    boto3.client("s3").create_multipart_upload(Bucket=s3_bucket, Key="models/news/versions/0123456789abcdef/model.onnx")
    (finding,) = check_store(open_storage(url)).findings
    assert (finding.code, finding.severity) == ("temporary", "leftover")
    assert finding.where == f"s3://{s3_bucket}/models/news/versions/0123456789abcdef/model.onnx"


def test_moves_of_a_day_with_a_wrong_clock_are_suspect(tmp_path: Path, sharing: MakeBundle) -> None:
    """A sound chain whose third move says that it was made before the second."""
    import hashlib

    from retrainer.store import HistoryEntry

    url = str(tmp_path / "store")
    fill(url, sharing)
    storage = open_storage(url)
    pointer = json.loads(storage.read(POINTER))
    entry = HistoryEntry.from_json(storage.read(entry_of(storage, 4)), where="entry")
    data = entry.model_copy(update={"at": "2020-01-01T00:00:00.000000+00:00"}).to_json()
    name = hashlib.sha256(data).hexdigest()
    storage.delete(entry_of(storage, 4))
    storage.write(f"news/history/{name}.json", data)
    text = json.dumps(pointer | {"history": name, "moved_at": "2020-01-01T00:00:00.000000+00:00"}, indent=2) + "\n"
    for key in (POINTER, journal(4)):
        storage.write(key, text.encode())
    (finding,) = check_store(storage).findings
    assert (finding.code, finding.severity, finding.key) == ("history-times", "suspect", f"news/history/{name}.json")


# What cannot be read


class Locked:
    """A storage in which one object cannot be read."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage = storage
        self._key = key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def _check(self, key: str) -> None:
        if key == self._key:
            raise ResourceError("no permission", where=self._storage.where(key))

    def local_path(self, key: str = "") -> None:
        return None

    def read(self, key: str) -> bytes:
        self._check(key)
        return self._storage.read(key)

    def read_with_etag(self, key: str) -> tuple[bytes, str]:
        self._check(key)
        return self._storage.read_with_etag(key)


def test_an_object_that_cannot_be_read_is_a_finding(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    fill(url, sharing)
    storage = open_storage(url)
    for key, code in (
        (POINTER, "pointer-unreadable"),
        (journal(2), "journal-unreadable"),
        (entry_of(storage, 2), "history-altered"),
        (f"{champion(storage)}/manifest.json", "object-unreadable"),
        (f"{champion(storage)}/README.md", "object-unreadable"),
    ):
        found = check_store(Locked(storage, key))
        assert [(one.code, one.key) for one in found.of("damage")] == [(code, key)]
        assert "no permission" in found.findings[0].message


def test_a_store_that_cannot_be_reached_is_an_error(s3_endpoint: str) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        check_store(open_storage("s3://no-such-bucket-anywhere/models"))


def test_a_model_that_is_not_there(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    fill(url, sharing)
    with pytest.raises(NotFoundError, match="no model 'olds'"):
        check_store(open_storage(url), models=["olds"])


@pytest.mark.parametrize("objects", [(), ("notes.txt",), ("website/files/logo.png", "website/versions/v1/x")])
def test_a_place_without_models_is_not_sound(store_url: str, storage: Storage, objects: tuple[str, ...]) -> None:
    """A mistyped address, a store that was emptied."""
    for key in objects:
        storage.write(key, b"x")
    with pytest.raises(NotFoundError, match="no models are there") as caught:
        check_store(storage)
    assert "publish.store" in str(caught.value.hint)
    assert ("website" in str(caught.value.hint)) is (len(objects) == 2)


def test_what_other_applications_keep_there_is_theirs(s3_bucket: str, sharing: MakeBundle) -> None:
    url = f"s3://{s3_bucket}/models"
    fill(url, sharing)
    client = boto3.client("s3")
    client.put_object(Bucket=s3_bucket, Key="models/website/files/logo.png", Body=b"x")
    for key in ("models/website/files/film.mp4", "models/news/videos/film.mp4"):
        client.create_multipart_upload(Bucket=s3_bucket, Key=key)
    storage = open_storage(url)
    later = datetime.now(UTC) + timedelta(days=3)
    found = check_store(storage, now=later)
    assert (found.models, found.findings) == (("news",), ())
    assert plan_gc(storage, "news", now=later).leftovers == ()


@on_a_folder
def test_unfinished_uploads_that_cannot_be_listed_are_a_note(
    store_url: str, storage: Storage, sharing: MakeBundle
) -> None:
    class Unlisted:
        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

        def leftovers(self, prefix: str = "") -> Any:
            raise StoragePermissionError("access denied", where=prefix)

    fill(store_url, sharing)
    found = check_store(Unlisted())
    assert (found.sound, found.findings) == (True, ())
    assert ["unfinished uploads could not be listed" in note for note in found.notes] == [True]
    plan = plan_gc(Unlisted(), "news")
    assert (len(plan.kept), plan.leftovers, plan.notes) == (3, (), found.notes)
    assert run_gc(Unlisted(), plan).leftovers == 0


def test_every_kind_of_finding_is_documented() -> None:
    page = (REPOSITORY / "docs" / "store.md").read_text()
    assert [code for code in Code if f"`{code}`" not in page] == []
