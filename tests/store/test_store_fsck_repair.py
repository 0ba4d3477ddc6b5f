"""``fsck --repair``: what the store itself can prove is put right, and nothing else is touched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.errors import IntegrityError, ReplayError, StorageError
from retrainer.storage import Storage, open_storage
from retrainer.store import Keyring, Manifest, ModelStore, Signer, Store
from retrainer.store.fsck import Repaired, check_store, repair
from retrainer.store.removal import Removal, read_removal

MakeBundle = Callable[[str], tuple[Path, Manifest]]
HINT = "news/channels/production/latest.json"


@pytest.fixture
def versions(store_url: str, sharing: MakeBundle) -> list[str]:
    """Three versions that were live one after the other."""
    return fill(Store.open(store_url).model("news"), sharing)


def fill(model: ModelStore, sharing: MakeBundle) -> list[str]:
    versions: list[str] = []
    for content in ("one", "two", "three"):
        folder, manifest = sharing(content)
        expected = versions[-1] if versions else None
        model.publish(folder, manifest, channel="production", actor="a", reason="b", decision=None, expected=expected)
        versions.append(manifest.version)
    return versions


def move_key(sequence: int) -> str:
    return f"news/channels/production/{sequence:010d}.json"


def older_hint(storage: Storage, sequence: int = 2) -> None:
    hashes = json.loads(storage.read(HINT))["hashes"]
    edit(storage, HINT, sequence=sequence, hashes=hashes[len(hashes) - sequence :])


def edit(storage: Storage, key: str, **changes: Any) -> None:
    text = json.dumps(json.loads(storage.read(key)) | changes, indent=2, ensure_ascii=False) + "\n"
    storage.write(key, text.encode())


def mend(storage: Storage, **options: Any) -> tuple[Repaired, ...]:
    """Check and repair."""
    return repair(storage, check_store(storage, **options), **options)


def everything(storage: Storage) -> dict[str, bytes]:
    return {info.key: storage.read(info.key) for info in storage.list()}


Damage = Callable[[Storage, list[str]], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda storage, _: storage.delete(HINT),
        lambda storage, _: storage.write(HINT, b"{"),
        lambda storage, _: older_hint(storage),
        lambda storage, _: edit(storage, HINT, hashes=[*json.loads(storage.read(HINT))["hashes"][:2], "0" * 64]),
        lambda storage, versions: storage.delete(f"news/versions/{versions[2]}/config.json"),
        lambda storage, versions: storage.write(f"news/versions/{versions[0]}/config.json", b"the same at all"),
        lambda storage, versions: storage.write(
            f"news/versions/{versions[2]}/manifest.json",
            json.dumps(json.loads(storage.read(f"news/versions/{versions[2]}/manifest.json"))).encode(),
        ),
    ],
    ids=[
        "hint deleted",
        "hint is not JSON",
        "hint of an older move",
        "hint with another hash of an older move",
        "file missing",
        "file altered",
        "manifest in other bytes",
    ],
)
@pytest.mark.parametrize("store_url", ["folder"], indirect=True)
def test_what_the_store_can_prove(storage: Storage, versions: list[str], damage: Damage) -> None:
    sound = everything(storage)
    damage(storage, versions)
    done = mend(storage)
    assert done
    assert [one.problem for one in done] == [None] * len(done)
    assert everything(storage) == sound
    assert check_store(storage).findings == ()
    assert mend(storage) == ()  # nothing is left to do


def test_several_at_once(store_url: str, storage: Storage, versions: list[str]) -> None:
    sound = everything(storage)
    storage.delete(HINT)
    one, two = (f"news/versions/{version}/manifest.json" for version in versions[:2])
    storage.write(one, sound[two])
    storage.write(two, sound[one])
    storage.write(f"news/versions/{versions[2]}/config.json", b"the same at all")
    done = mend(storage)
    assert {one.finding.code for one in done} == {"hint-behind", "manifest-altered", "file-altered"}
    assert [one.problem for one in done] == [None] * 4
    assert everything(storage) == sound
    model = Store.open(store_url).model("news")
    assert model.rollback("production", actor="a", reason="it works again").version == versions[1]


@pytest.mark.parametrize("store_url", ["folder"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda storage, v: storage.write(f"news/versions/{v[2]}/onnx/model.onnx", b""), "publish the same bundle"),
        (lambda storage, v: storage.delete(f"news/versions/{v[2]}/manifest.json"), "publish the same bundle"),
        (lambda storage, v: edit(storage, f"news/versions/{v[2]}/manifest.json", labels=["a"]), "publish the same"),
        (lambda storage, v: storage.delete(move_key(2)), "backup"),
        (lambda storage, v: storage.delete(move_key(3)), "backup"),
        (lambda storage, v: edit(storage, move_key(1), actor="eve"), "backup"),
        (lambda storage, v: edit(storage, move_key(3), actor="eve"), "signature would tell"),
        (lambda storage, v: storage.write(move_key(4), b"{"), "backup"),
        (lambda storage, v: [storage.delete(move_key(2)), storage.write(HINT, b"{")], "backup"),
    ],
)
def test_what_nothing_proves_is_left_alone(storage: Storage, versions: list[str], damage: Damage, words: str) -> None:
    damage(storage, versions)
    altered = everything(storage)
    found = check_store(storage)
    assert not found.sound
    assert any(words in finding.hint for finding in found.of("damage") if finding.repair is None)
    repair(storage, found)
    kept = {key: data for key, data in everything(storage).items() if key != HINT}
    assert kept == {key: data for key, data in altered.items() if key != HINT}


def test_a_signature_tells_whether_move_or_hint_was_altered(
    store_url: str, storage: Storage, sharing: MakeBundle
) -> None:
    signer, other = Signer(Ed25519PrivateKey.generate()), Signer(Ed25519PrivateKey.generate())
    fill(Store.open(store_url, signer=signer).model("news"), sharing)
    sound, hint = storage.read(move_key(3)), storage.read(HINT)
    edit(storage, HINT, hashes=["0" * 64, *json.loads(hint)["hashes"][1:]])
    (finding,) = check_store(storage).findings
    assert (finding.code, finding.repair) == ("hint-altered", None)
    assert "--public-key" in finding.hint
    assert not [one for one in mend(storage, trusted=Keyring((other.public,))) if one.finding.key == HINT]
    (done,) = mend(storage, trusted=Keyring((signer.public,)))
    assert (done.finding.code, done.problem) == ("hint-altered", None)
    assert storage.read(HINT) == hint
    # The same finding for a move that was altered: then it does not hold, and the hint stays.
    edit(storage, move_key(3), actor="eve")
    assert mend(storage, trusted=Keyring((signer.public,))) == ()
    assert storage.read(HINT) == hint
    storage.write(move_key(3), sound)
    assert check_store(storage, trusted=Keyring((signer.public,))).findings == ()


@pytest.mark.parametrize("store_url", ["folder"], indirect=True)
def test_a_publisher_who_comes_in_between_wins(
    store_url: str, storage: Storage, versions: list[str], sharing: MakeBundle
) -> None:
    older_hint(storage)
    found = check_store(storage)
    assert found.findings[0].repair
    model = Store.open(store_url).model("news")
    moved = model.rollback("production", actor="ada", reason="meanwhile")
    (done,) = repair(storage, found)
    assert done.problem == "it is not found any more"
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.sequence == moved.sequence == 4


@pytest.mark.parametrize("store_url", ["folder"], indirect=True)
def test_newest_moves_that_were_deleted_are_given_up_by_hand(
    store_url: str, storage: Storage, versions: list[str]
) -> None:
    """Nothing restores them. Where there is no backup, the hint is deleted: then the log ends at what is there."""
    storage.delete(move_key(3))
    assert mend(storage) == ()
    model = Store.open(store_url).model("news")
    with pytest.raises(ReplayError):
        model.rollback("production", actor="a", reason="b", to=versions[0])
    storage.delete(HINT)
    assert model.rollback("production", actor="a", reason="b", to=versions[0]).previous == versions[1]
    assert check_store(storage).sound


@pytest.mark.parametrize("store_url", ["folder"], indirect=True)
def test_a_write_whose_answer_was_lost_was_made(storage: Storage, versions: list[str]) -> None:
    """The request is repeated."""
    sound = everything(storage)
    manifest = f"news/versions/{versions[2]}/manifest.json"
    storage.write(manifest, sound[manifest] + b" ")

    class Repeated:
        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

        def write(self, key: str, data: bytes, **conditions: Any) -> None:
            storage.write(key, data, **conditions)
            storage.write(key, data, **conditions)

    done = repair(Repeated(), check_store(storage))
    assert [one.problem for one in done] == [None]
    assert everything(storage) == sound


@pytest.mark.parametrize("store_url", ["folder"], indirect=True)
def test_a_removal_that_was_killed_is_undone_while_all_is_there(
    store_url: str, storage: Storage, versions: list[str], sharing: MakeBundle
) -> None:
    key = f"news/versions/{versions[0]}/removal.json"
    graph = f"news/versions/{versions[0]}/onnx/model.onnx"
    content = storage.read(graph)
    note = Removal(removal_id="0" * 32, at=datetime.now(UTC).isoformat())
    storage.write(key, note.to_pretty_json().encode())
    model = Store.open(store_url).model("news")
    folder, bundle = sharing("one")
    again: dict[str, Any] = {"channel": "staging", "actor": "a", "reason": "b", "decision": None, "expected": None}
    with pytest.raises(StorageError, match=r"where it was killed, run 'retrainer fsck --repair' an hour later"):
        model.publish(folder, bundle, **again)
    young = check_store(storage).findings  # a gc may be running
    assert [(one.code, one.severity, one.repair) for one in young] == [("removal-unfinished", "leftover", None)]
    assert "an hour old" in young[0].hint
    later = datetime.now(UTC) + timedelta(hours=2)
    storage.delete(graph)
    (finding,) = [one for one in check_store(storage, now=later).findings if one.code == "removal-unfinished"]
    assert finding.repair is None
    assert "the next 'retrainer gc' ends it" in finding.hint
    storage.write(graph, b"x" * len(content))
    (altered,) = mend(storage, now=later)
    assert "not the one that was published" in str(altered.problem)
    assert read_removal(storage, "news", versions[0]) == note
    storage.write(graph, content)
    assert [(one.finding.code, one.problem) for one in mend(storage, now=later)] == [("removal-unfinished", None)]
    assert not storage.exists(key)
    assert check_store(storage).findings == ()
    assert model.publish(folder, bundle, **again).version == versions[0]


def test_leftovers_go_after_a_day(tmp_path: Path, sharing: MakeBundle) -> None:
    url = str(tmp_path / "store")
    (version, *_) = fill(Store.open(url).model("news"), sharing)
    storage = open_storage(url)
    path = tmp_path / "store" / "news" / "versions" / version / ".retrainer-temporary-abc"
    path.write_bytes(b"half a file")
    (finding,) = check_store(storage).findings
    assert (finding.code, finding.severity, finding.repair, finding.where) == ("temporary", "leftover", None, str(path))
    old = datetime.now(UTC).timestamp() - timedelta(days=2).total_seconds()
    os.utime(path, (old, old))
    assert [one.problem for one in mend(storage)] == [None]
    assert not path.exists()


def test_an_upload_in_parts_that_was_given_up_goes(s3_bucket: str, sharing: MakeBundle) -> None:
    url = f"s3://{s3_bucket}/models"
    fill(Store.open(url).model("news"), sharing)
    client = boto3.client("s3")
    client.create_multipart_upload(Bucket=s3_bucket, Key="models/news/versions/0123456789abcdef/model.onnx")
    storage = open_storage(url)
    later = datetime.now(UTC) + timedelta(days=2)
    assert [one.problem for one in mend(storage, now=later)] == [None]
    assert not client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads")


def test_repairing_does_not_trust_the_other_version(storage: Storage, versions: list[str], sharing: MakeBundle) -> None:
    """Both copies of the shared file are damaged, the second behind the check's back: nothing is written."""
    keys = [f"news/versions/{version}/config.json" for version in versions]
    for key in keys[:2]:
        storage.write(key, b"the same at all")
    found = check_store(storage)
    assert sum(finding.repair is not None for finding in found.findings) == 2
    storage.write(keys[2], b"the same at all")
    for done in repair(storage, found):
        assert done.problem is not None
    for version, content in zip(versions, ("one", "two", "three"), strict=True):
        with pytest.raises(IntegrityError):
            Store.open(storage.url).model("news").fetch(version, sharing(content)[0].parent / "copy")
