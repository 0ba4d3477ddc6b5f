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
from retrainer.store import Keyring, Manifest, ModelStore, Signer, Store
from retrainer.store.fsck import Code, Finding, Findings, Progress, check_store, repair
from retrainer.store.gc import plan_gc, run_gc

MakeBundle = Callable[[str], tuple[Path, Manifest]]
FORK = multiprocessing.get_context("fork")
REPOSITORY = Path(__file__).resolve().parents[2]
HINT = "news/channels/production/latest.json"


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(Ed25519PrivateKey.generate())


on_a_folder = pytest.mark.parametrize("store_url", ["folder"], indirect=True)


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
    storage.delete(HINT)
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
        # What a probe leaves is written to be refused, and an intent says all by its name: neither is ever read.
        self.objects = {
            info.key: self.storage.read(info.key)
            for info in self.storage.list()
            if not info.key.startswith(("news/.probe", "news/intents/"))
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
    return kind == "channels" and rest.partition("/")[0] in finding.channels


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
                # A record other than a move may lose its line feed; nobody believes a summary.
                if not says_the_same(whole, damaged) and damaged != "news/summary.json":
                    assert any(belongs(finding, damaged) for finding in found.findings), (how, damaged, named(found))
            whole.read_all(tmp_path / f"copy-{next(number)}")
        finally:
            whole.put_right(changed)

    check()
    assert named(check_store(whole.storage, trusted=whole.ring)) == []


# Each kind of damage by its name


Damage = Callable[[Storage, ModelStore], object]


def move_key(sequence: int, channel: str = "production") -> str:
    return f"news/channels/{channel}/{sequence:010d}.json"


def champion(storage: Storage, *, sequence: int = 4) -> str:
    return f"news/versions/{json.loads(storage.read(move_key(sequence)))['to_version']}"


def forge(storage: Storage, sequence: int, **changes: Any) -> None:
    """A move edited by somebody who knows the layout, and has no key."""
    edit(storage, move_key(sequence), **changes)


def delete_moves(storage: Storage, *sequences: int) -> None:
    for sequence in sequences:
        storage.delete(move_key(sequence))


def junk_of_later(storage: Storage, _: ModelStore) -> None:
    storage.write(move_key(9_999_999_999), b"{")


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
    "newest move is not JSON": (lambda storage, _: storage.write(move_key(4), b"{"), {"move-altered"}),
    "newest move of another channel": (
        lambda storage, _: storage.write(move_key(4), storage.read(move_key(1, "staging"))),
        {"move-altered"},
    ),
    "newest move to another version": (
        lambda storage, _: forge(storage, 4, to_version=champion(storage, sequence=1).rpartition("/")[2]),
        {"hint-altered", "move-altered"},  # the hash of the manifest tells, too
    ),
    "newest move to what cannot be a version": (
        lambda storage, _: forge(storage, 4, to_version="../../../etc"),
        {"move-altered"},
    ),
    "newest move with another hash": (
        lambda storage, _: forge(storage, 4, manifest_sha256="0" * 64),
        {"hint-altered", "move-altered"},
    ),
    "newest move with another time": (
        lambda storage, _: forge(storage, 4, at="2099-01-01T00:00:00.000000+00:00"),
        {"hint-altered"},
    ),
    "newest move with another origin": (
        lambda storage, _: forge(storage, 4, origin="0" * 64),
        {"hint-altered", "move-altered"},
    ),
    "newest move after another one": (lambda storage, _: forge(storage, 4, previous="0" * 64), {"hint-altered"}),
    "move of another number": (lambda storage, _: edit(storage, move_key(4), sequence=9), {"move-altered"}),
    "move in other bytes": (
        lambda storage, _: storage.write(move_key(4), storage.read(move_key(4)) + b"\n"),
        {"move-altered"},
    ),
    "newest move deleted": (lambda storage, _: storage.delete(move_key(4)), {"move-missing"}),
    "newest moves deleted": (
        lambda storage, _: delete_moves(storage, 2, 3, 4),
        {"move-missing"},
    ),
    "all moves deleted": (
        lambda storage, _: delete_moves(storage, 1, 2, 3, 4),
        {"move-missing"},
    ),
    "older move deleted": (lambda storage, _: storage.delete(move_key(2)), {"move-missing"}),
    "older move edited": (lambda storage, _: forge(storage, 2, actor="eve"), {"move-altered"}),
    "older move in other bytes": (
        lambda storage, _: storage.write(move_key(2), storage.read(move_key(2)) + b"\n"),
        {"move-altered"},
    ),
    "junk after the newest move": (lambda storage, _: storage.write(move_key(5), b"{"), {"move-altered"}),
    "junk far after the newest move": (junk_of_later, {"move-altered", "move-missing"}),
    "hint deleted": (lambda storage, _: storage.delete(HINT), {"hint-behind"}),
    "hint is not JSON": (lambda storage, _: storage.write(HINT, b"{"), {"hint-altered"}),
    "hint of an older move": (
        lambda storage, _: edit(storage, HINT, sequence=3, hashes=json.loads(storage.read(HINT))["hashes"][1:]),
        {"hint-behind"},
    ),
    "hint with another hash": (
        lambda storage, _: edit(storage, HINT, hashes=["0" * 64, *json.loads(storage.read(HINT))["hashes"][1:]]),
        {"hint-altered"},
    ),
    "hint with another hash of an older move": (
        lambda storage, _: edit(storage, HINT, hashes=[*json.loads(storage.read(HINT))["hashes"][:2], "0" * 64]),
        {"hint-altered"},
    ),
    "champion deleted": (lambda storage, _: storage.delete_tree(champion(storage)), {"channel-dangling"}),
    "manifest with a reserved name": (add_a_manifest(".retrainer-x/file"), {"manifest-altered"}),
    "manifest with a name that is too long": (add_a_manifest("x" * 300), {"object-unreadable"}),
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
        {"channel-dangling", "version-incomplete"},
    ),
    "file deleted": (
        lambda storage, _: storage.delete(f"{champion(storage)}/README.md"),
        {"file-missing"},
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
}


@pytest.mark.parametrize("what", DAMAGES)
def test_each_damage_has_its_name(tmp_path: Path, sharing: MakeBundle, what: str) -> None:
    url = str(tmp_path / "store")
    model, storage = fill(url, sharing), open_storage(url)
    damage, codes = DAMAGES[what]
    damage(storage, model)
    found = check_store(storage)
    assert {finding.code for finding in found.findings} == codes
    harmless = {"hint-behind", "file-unlisted", "object-unknown"}
    assert found.sound is (codes <= harmless or what == "hint is not JSON")
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
        storage.delete(move_key(sequence))
    storage.write(move_key(300_000), storage.read(move_key(4)))
    gaps = [finding for finding in check_store(storage).findings if finding.code == "move-missing"]
    assert [(gap.key, gap.message.partition(" of ")[0]) for gap in gaps] == [
        (move_key(1), "move 1"),
        (move_key(3), "move 3"),
        (move_key(5), "the moves 5 to 299999"),
    ]


@on_a_folder
def test_one_finding_hides_no_other(store_url: str, storage: Storage, sharing: MakeBundle) -> None:
    fill(store_url, sharing)
    versions = {sequence: champion(storage, sequence=sequence) for sequence in (1, 2, 3)}
    forge(storage, 1, actor="eve")
    storage.delete(move_key(3))
    storage.write(move_key(1, "staging"), b"{")
    storage.write(f"{versions[1]}/manifest.json", b"{")
    storage.write(f"{versions[2]}/onnx/model.onnx", b"")
    storage.delete(f"{versions[3]}/README.md")
    found = check_store(storage).of("damage")
    assert {(finding.code, finding.key) for finding in found} == {
        ("move-altered", move_key(1)),
        ("move-missing", move_key(3)),
        ("move-altered", move_key(1, "staging")),
        ("manifest-altered", f"{versions[1]}/manifest.json"),
        ("file-altered", f"{versions[2]}/onnx/model.onnx"),
        ("file-missing", f"{versions[3]}/README.md"),
    }


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
    edit(storage, move_key(4), signature=None)
    (finding,) = [one for one in check_store(storage).findings if one.key == move_key(4)]
    assert (finding.code, finding.severity) == ("move-unsigned", "damage")


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
        "move-signature",
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
        ("move-unsigned", ("staging",)),
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
        assert leftovers >= {"version-incomplete", "version-unsigned", "hint-behind"}
    assert {finding.code for finding in check_store(storage, trusted=ring).findings} <= {"temporary"}


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
    """A sound log whose last move says that it was made before the one before it."""
    url = str(tmp_path / "store")
    model, storage = fill(url, sharing), open_storage(url)
    log = model._log("production")
    early = model.history("production")[0].model_copy(update={"at": "2020-01-01T00:00:00.000000+00:00"})
    storage.delete(move_key(4))
    assert log.create(early)
    storage.delete(HINT)
    log.write_hint(log.head().hashes, 4)
    (finding,) = check_store(storage).findings
    assert (finding.code, finding.severity, finding.key) == ("move-times", "suspect", move_key(4))


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

    def read(self, key: str, **bound: int) -> bytes:
        self._check(key)
        return self._storage.read(key, **bound)


def test_an_object_that_cannot_be_read_is_a_finding(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    fill(url, sharing)
    storage = open_storage(url)
    for key, code in (
        (move_key(4), "object-unreadable"),
        (move_key(2), "object-unreadable"),
        (f"{champion(storage)}/manifest.json", "object-unreadable"),
        (f"{champion(storage)}/README.md", "object-unreadable"),
    ):
        found = check_store(Locked(storage, key))
        assert [(one.code, one.key) for one in found.of("damage")] == [(code, key)]
        assert "no permission" in found.findings[0].message


class ListedOnly(Locked):
    """A bucket whose moves may be listed and not be read: what is absent is denied as well."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage, "")
        self.reads = 0

    def _check(self, key: str) -> None:
        if key.startswith("news/channels/"):
            self.reads += 1
            assert self.reads < 100, "it never ends"
            raise StoragePermissionError("access denied", where=key)


def test_a_check_ends_where_moves_are_listed_and_not_read(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    fill(url, sharing)
    moves = [move_key(number) for number in range(1, 5)] + [move_key(1, "staging")]
    found = check_store(ListedOnly(open_storage(url)), quick=True)
    assert [one.key for one in found.of("damage") if one.code == "object-unreadable"] == moves


def test_a_hint_with_more_hashes_than_moves(tmp_path: Path, sharing: MakeBundle) -> None:
    """Readers do without it, and a check does not call it sound."""
    url = str(tmp_path / "store")
    storage, model = open_storage(url), Store.open(url).model("news")
    version = publish(model, sharing("one"))
    edit(storage, HINT, hashes=[*json.loads(storage.read(HINT))["hashes"], "0" * 64])
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.to_version == version
    assert named(check_store(storage)) == [("hint-altered", HINT)]
    list(repair(storage, check_store(storage)))
    assert named(check_store(storage)) == []


def test_a_store_that_cannot_be_reached_is_an_error(s3_endpoint: str) -> None:
    with pytest.raises(StorageError, match="no such bucket"):
        check_store(open_storage("s3://no-such-bucket-anywhere/models"))


def test_a_model_that_is_not_there(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    fill(url, sharing)
    with pytest.raises(NotFoundError, match="no model 'olds'"):
        check_store(open_storage(url), models=["olds"])


@pytest.mark.parametrize("objects", [(), ("notes.txt",), ("website/channels/logo.png", "website/versions/v1/x")])
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
    client.put_object(Bucket=s3_bucket, Key="models/website/channels/logo.png", Body=b"x")
    for key in ("models/website/channels/film.mp4", "models/news/videos/film.mp4"):
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
