"""The policies of docs/storage.md, enforced by moto: each role can do its work and no more.

moto decides by action and resource. What it does not know is not tested: KMS, and that S3 answers 403 for what is
absent where listing is not allowed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from retrainer.errors import StoragePermissionError
from retrainer.records import sha256_file
from retrainer.storage import S3Access, Transfer
from retrainer.storage.s3 import S3Storage
from retrainer.store import FileEntry, Manifest, PrecisionEntry, Store
from retrainer.store.entry import Look
from retrainer.store.ledger import RowSet
from tests.conftest import REPOSITORY
from tests.moto_server import moto_server

BUCKET, PREFIX = "corp-models", "production"
URL = f"s3://{BUCKET}/{PREFIX}"
ROLES = ("publisher", "judge", "reader", "keeper")
LARGE = 9 * 1024 * 1024


def policies() -> dict[str, dict[str, Any]]:
    text = (REPOSITORY / "docs" / "storage.md").read_text()
    found = re.findall(r"<!-- policy: (\w+) -->\n```json\n(.*?)```", text, re.DOTALL)
    return {role: json.loads(policy) for role, policy in found}


def test_every_policy_of_the_docs_is_one() -> None:
    found = policies()
    assert set(found) == set(ROLES)
    for policy in found.values():
        assert policy["Version"] == "2012-10-17"
        for statement in policy["Statement"]:
            assert set(statement) == {"Sid", "Effect", "Action", "Resource"}
            actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            assert not [action for action in actions if "*" in action]
            services = {action.partition(":")[0] for action in actions}
            assert services == {statement["Resource"].split(":")[2]}


@pytest.fixture(scope="module")
def access() -> Iterator[dict[str, S3Access]]:
    """A server that knows three users, each with a policy of the docs, and allows nothing else."""
    calls = 1 + 3 * len(ROLES)  # what is made below, before anything is forbidden
    with moto_server({**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(calls)}) as endpoint:
        root = boto3.session.Session("root", "root", region_name="us-east-1")
        root.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
        iam = root.client("iam", endpoint_url=endpoint)
        found: dict[str, S3Access] = {}
        for role, policy in policies().items():
            iam.create_user(UserName=role)
            iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=json.dumps(policy))
            key = iam.create_access_key(UserName=role)["AccessKey"]
            found[role] = S3Access(
                endpoint_url=endpoint,
                region="us-east-1",
                access_key_id=key["AccessKeyId"],
                secret_access_key=key["SecretAccessKey"],
            )
        yield found


def a_bundle(folder: Path, content: str) -> Manifest:
    for name in ("config.json", "onnx/model.onnx"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} of {content}")
    # More than one part.
    (folder / "onnx" / "model.onnx").write_bytes(hashlib.shake_128(content.encode()).digest(LARGE))
    return Manifest(
        model="news",
        task="text-classification",
        labels=("World", "Sports"),
        max_length=128,
        precisions={"fp32": PrecisionEntry(file="onnx/model.onnx", weight_types={"FLOAT": 3})},
        files={
            name: FileEntry(size=(folder / name).stat().st_size, sha256=sha256_file(folder / name))
            for name in ("config.json", "onnx/model.onnx")
        },
        metrics={"accuracy": 0.9},
        base_model="minilm",
        base_revision="abc",
        artifacts={"export": "0" * 64},
        libraries={"python": "3.11"},
        git_commit=None,
    )


def test_each_role_does_its_work_and_no_more(access: dict[str, S3Access], tmp_path: Path) -> None:
    first, second = a_bundle(tmp_path / "1", "one"), a_bundle(tmp_path / "2", "two")
    publisher = Store.open(URL, access=access["publisher"]).model("news")
    how: dict[str, Any] = {"channel": "production", "actor": "ada", "reason": "better", "decision": "d" * 64}
    publisher.publish(tmp_path / "1", first, expected=None, **how)
    publisher.publish(tmp_path / "2", second, expected=first.version, **how)
    assert publisher.rollback("production", actor="ada", reason="worse").version == first.version

    storage = {role: S3Storage(URL, access=access[role]) for role in ROLES}
    newest = "news/channels/production/0000000003.json"
    key = f"news/versions/{first.version}/onnx/model.onnx"
    entry = first.files["onnx/model.onnx"]

    judge = Store.open(URL, access=access["judge"]).model("news")
    rows = RowSet(b"\0" * 8)
    judge.ledger.put_rows(rows)
    look = Look(channel="production", challenger="a" * 64, evaluation="b" * 64, rows=rows.sha256, row_count=1)
    assert judge.ledger.append([], look, actor="ada", run="one")
    assert judge.ledger.append([], look, actor="eve", run="two") is None
    assert [entry.actor for entry in judge.ledger.entries()] == ["ada"]

    reader = Store.open(URL, access=access["reader"]).model("news")
    seen = reader.newest_move("production")
    assert seen is not None
    assert seen.to_version == first.version
    assert reader.move_after(seen) == seen  # what is absent is denied here
    with pytest.raises(StoragePermissionError, match="access denied"):
        reader.newest_move("never-published")  # that it is absent, nobody can tell
    reader.fetch(first.version, tmp_path / "fetched")
    assert sha256_file(tmp_path / "fetched" / "onnx" / "model.onnx") == entry.sha256
    for attempt in (
        lambda: storage["reader"].write(newest, b"{}"),
        lambda: storage["reader"].write("news/new", b"", if_absent=True),
        lambda: storage["reader"].upload_all([Transfer(tmp_path / "1/onnx/model.onnx", "x", entry.sha256, entry.size)]),
        lambda: storage["reader"].upload(tmp_path / "1/config.json", "x"),
        lambda: storage["reader"].delete(newest),
        lambda: list(storage["reader"].list()),
        lambda: list(storage["reader"].leftovers()),
        lambda: storage["judge"].write("news/channels/production/0000000004.json", b"{}", if_absent=True),
        lambda: storage["judge"].delete("news/decisions/0000000001.json"),
        lambda: storage["publisher"].delete(newest),
        lambda: storage["publisher"].delete_tree("news"),
        lambda: list(storage["publisher"].leftovers()),
        lambda: S3Storage(f"s3://{BUCKET}/other", access=access["publisher"]).write("x", b""),
        lambda: S3Storage(f"s3://{BUCKET}/other", access=access["keeper"]).read("x"),
    ):
        with pytest.raises(StoragePermissionError, match="access denied"):
            attempt()
    # A copy that is refused is no error: whoever may write sends the file instead.
    assert not storage["reader"].copy(key, "x", sha256=entry.sha256, size=entry.size)
    assert not list(storage["keeper"].list("x"))
    assert storage["publisher"].read(newest) == storage["reader"].read(newest)

    unfinished = boto3.client(
        "s3",
        endpoint_url=access["publisher"].endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=access["publisher"].access_key_id,
        aws_secret_access_key=access["publisher"].secret_access_key,
    )
    unfinished.create_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}/news/half")
    [leftover] = storage["keeper"].leftovers("news")
    storage["keeper"].remove_leftover(leftover)
    assert list(storage["keeper"].leftovers()) == []
    # One by one: moto asks of the deletion of several whether the bucket itself may be deleted from.
    for info in list(storage["keeper"].list(f"news/versions/{second.version}/")):
        storage["keeper"].delete(info.key)
    assert [version.version for version in publisher.versions()] == [first.version]
    assert storage["keeper"].copy(key, "news/repaired", sha256=entry.sha256, size=entry.size)
    storage["keeper"].delete("news/repaired")


def test_wrong_keys_are_told(access: dict[str, S3Access]) -> None:
    reader = access["reader"]
    for wrong, message in (
        (dataclasses.replace(reader, secret_access_key="wrong"), "the secret key is wrong"),
        (dataclasses.replace(reader, access_key_id="AKIAUNKNOWN"), "the access key is not known"),
    ):
        with pytest.raises(StoragePermissionError, match=message):
            S3Storage(URL, access=wrong).read("news/channels/production.json")
