"""What a storage says to a bucket's server, request by request, and what it makes of answers that go wrong."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import IntegrityError, NotFoundError, PreconditionFailed, StorageError
from retrainer.storage import S3Access, Transfer, open_storage
from retrainer.storage.s3 import S3Storage
from tests.storage.conftest import Exchange, Relay

MB = 1024 * 1024
LARGE = 9 * MB  # two parts


def a_file(folder: Path, size: int, name: str = "file") -> Transfer:
    path = folder / name
    path.write_bytes((hashlib.shake_128(name.encode()).digest(min(size, MB - 1)) * (size // (MB - 1) + 1))[:size])
    return Transfer(path, name, hashlib.sha256(path.read_bytes()).hexdigest(), size)


def sha256_base64(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def everything(storage: S3Storage, folder: Path) -> None:
    """Each way in which an object is made or read."""
    small, large = a_file(folder, 100, "small"), a_file(folder, LARGE, "large")
    storage.upload_all([small, large])
    storage.upload(small.path, "again")
    storage.write("pointer", b"content")
    storage.write("absent", b"content", if_absent=True)
    assert storage.copy("large", "copy", sha256=str(large.sha256), size=large.size)
    storage.download_all([Transfer(folder / f"fetched {t.key}", t.key, t.sha256, t.size) for t in (small, large)])
    storage.read("pointer")


def test_every_body_is_named_by_its_sha256_and_no_request_carries_an_acl(
    relay: Relay, s3_bucket: str, tmp_path: Path
) -> None:
    everything(S3Storage(f"s3://{s3_bucket}/p"), tmp_path)
    bodies = [one for one in relay.seen if one.method == "PUT" and "x-amz-copy-source" not in one.headers]
    assert len(bodies) == 6
    for one in bodies:
        assert one.headers["x-amz-checksum-sha256"] == sha256_base64(one.body)
    for one in relay.seen:
        assert one.path.startswith(f"/{s3_bucket}/p/")  # also: the bucket in the path
        assert not [name for name in one.headers if name.lower().startswith(("x-amz-acl", "x-amz-grant"))]


def test_encryption_is_asked_of_every_new_object(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    key = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000"
    access = S3Access(sse="aws:kms", sse_kms_key_id=key, bucket_key=True)
    everything(S3Storage(f"s3://{s3_bucket}", access=access), tmp_path)
    made = [one for one in relay.seen if one.what in {"PUT", "POST uploads"}]
    assert len(made) == 6
    for one in relay.seen:
        asked = {
            name: one.headers.get(f"x-amz-server-side-encryption{name}")
            for name in ("", "-aws-kms-key-id", "-bucket-key-enabled")
        }
        if one in made:
            assert asked == {"": "aws:kms", "-aws-kms-key-id": key, "-bucket-key-enabled": "true"}
        else:
            assert set(asked.values()) == {None}


def test_a_bucket_s_own_encryption_is_left_alone(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    everything(S3Storage(f"s3://{s3_bucket}"), tmp_path)
    assert not [n for one in relay.seen for n in one.headers if n.lower().startswith("x-amz-server-side-encryption")]
    relay.seen.clear()
    S3Storage(f"s3://{s3_bucket}", access=S3Access(sse="AES256")).write("x", b"")
    assert relay.seen[0].headers["x-amz-server-side-encryption"] == "AES256"


def test_each_small_file_is_fetched_by_one_request(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    storage = S3Storage(f"s3://{s3_bucket}")
    small, large = a_file(tmp_path, 100, "small"), a_file(tmp_path, LARGE, "large")
    storage.upload_all([small, large])
    relay.seen.clear()
    storage.download_all([Transfer(tmp_path / "fetched", t.key, t.sha256, t.size) for t in (small, large)])
    assert sorted(one.path.rpartition("/")[2] for one in relay.seen) == ["large"] * 2 + ["small"]
    assert {one.method for one in relay.seen} == {"GET"}


@pytest.mark.parametrize("size", [100, LARGE])
def test_a_body_damaged_on_its_way_is_noticed_and_removed(
    relay: Relay, s3_bucket: str, tmp_path: Path, size: int
) -> None:
    def damage(exchange: Exchange) -> None:
        if exchange.method == "PUT" and len(exchange.body) > 50:
            exchange.body = b"?" + exchange.body[1:]

    def recompute(exchange: Exchange) -> bool:
        # moto repeats the checksum of a request's header; S3 would have refused the request.
        if "x-amz-checksum-sha256" in exchange.answer_headers and exchange.method == "PUT":
            exchange.answer_headers["x-amz-checksum-sha256"] = sha256_base64(exchange.body)
        return True

    relay.before, relay.after = damage, recompute
    storage = S3Storage(f"s3://{s3_bucket}")
    with pytest.raises(IntegrityError, match="other bytes arrived") as caught:
        storage.upload_all([a_file(tmp_path, size)])
    assert caught.value.where == f"s3://{s3_bucket}/file"
    assert list(storage.list()) == []
    assert list(storage.leftovers()) == []


@pytest.mark.parametrize("size", [0, 100, LARGE])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_server_without_checksums_is_read_back(
    relay: Relay, s3_bucket: str, tmp_path: Path, size: int, damaged: bool
) -> None:
    def damage(exchange: Exchange) -> None:
        if damaged and exchange.method == "PUT" and len(exchange.body) > 50:
            exchange.body = b"?" + exchange.body[1:]

    def without(exchange: Exchange) -> bool:
        exchange.answer_headers = {
            name: value for name, value in exchange.answer_headers.items() if "checksum" not in name.lower()
        }
        return True

    relay.before, relay.after = damage, without
    storage = S3Storage(f"s3://{s3_bucket}")
    transfer = a_file(tmp_path, size)
    if damaged and size:
        with pytest.raises(IntegrityError, match="other bytes arrived"):
            storage.upload_all([transfer])
        assert not storage.exists("file")
    else:
        storage.upload_all([transfer])
        assert storage.exists("file")


def test_a_copy_that_the_server_does_not_prove_is_none(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    def silent(exchange: Exchange) -> bool:
        head, _, rest = exchange.answer.partition(b"<ChecksumSHA256>")
        exchange.answer = head + rest.partition(b"</ChecksumSHA256>")[2] if rest else head
        return True

    storage = S3Storage(f"s3://{s3_bucket}")
    transfer = a_file(tmp_path, 100)
    storage.upload_all([transfer])
    relay.after = silent
    assert not storage.copy("file", "copy", sha256=str(transfer.sha256), size=100)
    assert [info.key for info in storage.list()] == ["file"]
    relay.after = lambda exchange: True
    assert storage.copy("file", "copy", sha256=str(transfer.sha256), size=100)
    relay.seen.clear()
    assert not storage.copy("file", "too large", sha256=str(transfer.sha256), size=5 * 1024**3 + 1)
    assert relay.seen == []
    relay.before = lambda exchange: exchange.refuse(501, "NotImplemented")
    assert not storage.copy("file", "other", sha256=str(transfer.sha256), size=100)


REFUSALS = [
    (403, "AccessDenied"),
    (403, "InvalidObjectState"),  # archived
    (400, "InvalidRequest"),
    (400, "KMS.DisabledException"),
    (412, "PreconditionFailed"),
]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
def test_a_copy_that_is_refused_is_none(relay: Relay, s3_bucket: str, tmp_path: Path, status: int, code: str) -> None:
    """The file can still be sent."""
    storage = S3Storage(f"s3://{s3_bucket}")
    transfer = a_file(tmp_path, 100)
    storage.upload_all([transfer])

    def refuse(exchange: Exchange) -> None:
        if "x-amz-copy-source" in exchange.headers:
            exchange.refuse(status, code)

    relay.before = refuse
    assert not storage.copy("file", "copy", sha256=str(transfer.sha256), size=100)
    storage.upload(transfer.path, "copy")
    relay.before = lambda exchange: exchange.refuse(400, "ExpiredToken") if exchange.method == "PUT" else None
    with pytest.raises(StorageError, match="expired"):
        storage.copy("file", "other", sha256=str(transfer.sha256), size=100)


def test_a_copy_never_touches_what_is_there(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    """Another publisher of the same bundle may have sent it meanwhile: before the copy, or before it is taken back."""
    storage = S3Storage(f"s3://{s3_bucket}")
    good, other = a_file(tmp_path, 100), a_file(tmp_path, 100, "other")
    storage.upload_all([good, other])
    relay.seen.clear()
    assert not storage.copy("other", "file", sha256=str(good.sha256), size=100)
    assert [one.what for one in relay.seen] == ["HEAD"]
    assert storage.read("file") == good.path.read_bytes()

    def send_meanwhile(exchange: Exchange) -> bool:
        if "x-amz-copy-source" in exchange.headers:
            assert exchange.headers["If-None-Match"] == "*"
            relay.after = lambda exchange: True
            storage.upload(good.path, "late")
        return True

    relay.after = send_meanwhile
    assert not storage.copy("other", "late", sha256=str(good.sha256), size=100)
    assert storage.read("late") == good.path.read_bytes()
    # What it made itself goes.
    assert not storage.copy("other", "new", sha256=str(good.sha256), size=100)
    assert not storage.exists("new")


def test_a_conflict_is_tried_again_and_a_lost_condition_is_not(
    relay: Relay, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("retrainer.storage.s3.time.sleep", pauses.append)
    storage = S3Storage(f"s3://{s3_bucket}")
    answers = iter([(409, "ConditionalRequestConflict"), (409, "OperationAborted"), (412, "PreconditionFailed")])
    relay.before = lambda exchange: exchange.refuse(*next(answers))
    with pytest.raises(PreconditionFailed):
        storage.write("x", b"", if_absent=True)
    assert len(relay.seen) == 3
    assert 0.05 <= pauses[0] <= 0.1 <= pauses[1] <= 0.2
    relay.before = lambda exchange: exchange.refuse(409, "ConditionalRequestConflict")
    with pytest.raises(StorageError, match="others are writing") as caught:
        storage.write("x", b"", if_absent=True)
    assert type(caught.value) is StorageError


def test_a_server_that_is_busy_is_asked_again(relay: Relay, s3_bucket: str) -> None:
    busy = iter([True, False])

    def refuse(exchange: Exchange) -> None:
        if next(busy):
            exchange.refuse(503, "SlowDown")

    relay.before = refuse
    storage = S3Storage(f"s3://{s3_bucket}")
    storage.write("x", b"content", if_absent=True)
    assert [one.status for one in relay.seen] == [503, 200]


def test_one_connection_serves_one_call_after_the_other(
    relay: Relay, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[object] = []
    serve = relay.process_request

    def count(request: Any, client: Any) -> None:
        connections.append(client)
        serve(request, client)

    monkeypatch.setattr(relay, "process_request", count)
    storage = S3Storage(f"s3://{s3_bucket}")
    storage.write("x", b"content")
    assert storage.read("x") == b"content"
    assert not storage.exists("y")
    with pytest.raises(NotFoundError):
        storage.read("y")
    with pytest.raises(PreconditionFailed):
        storage.write("x", b"", if_absent=True)
    assert len(list(storage.list())) == 1
    assert len(connections) == 1


def test_a_key_is_asked_for_as_it_was_signed(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    storage = S3Storage(f"s3://{s3_bucket}")
    relay.before = lambda exchange: exchange.refuse(403, "AccessDenied")
    for key, path in (("a/../x", "a/../x"), ("a//./x~ +ä", "a//./x~%20%2B%C3%A4")):
        relay.seen.clear()
        with pytest.raises(StorageError):
            storage.download_all([Transfer(tmp_path / "x", key, "0" * 64, 1, foreign=True)])
        assert [one.path for one in relay.seen] == [f"/{s3_bucket}/{path}"]


def test_a_write_whose_answer_was_lost_loses_against_itself(relay: Relay, s3_bucket: str) -> None:
    lost = iter([False])
    relay.after = lambda exchange: next(lost, True)
    storage = S3Storage(f"s3://{s3_bucket}")
    with pytest.raises(PreconditionFailed):  # as Storage.write says: whoever cares reads and compares
        storage.write("x", b"content", if_absent=True)
    assert [one.status for one in relay.seen] == [200, 412]
    assert storage.read("x") == b"content"


def test_an_upload_that_fails_in_the_middle_is_ended(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    def refuse(exchange: Exchange) -> None:
        if "partNumber=2" in exchange.path:
            exchange.refuse(403, "AccessDenied")

    relay.before = refuse
    storage = S3Storage(f"s3://{s3_bucket}")
    with pytest.raises(StorageError, match="access denied") as caught:
        storage.upload_all([a_file(tmp_path, LARGE, "large"), a_file(tmp_path, 100, "small")])
    assert caught.value.where == f"s3://{s3_bucket}/large"
    assert not storage.exists("large")
    assert list(storage.leftovers()) == []


def test_a_download_that_is_cut_goes_on_or_leaves_nothing(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    storage = S3Storage(f"s3://{s3_bucket}")
    transfer = a_file(tmp_path, LARGE)
    storage.upload_all([transfer])
    cuts = iter([True, False])

    def cut(exchange: Exchange) -> bool:
        return "Range" not in exchange.headers or exchange.headers["Range"].startswith("bytes=0-") or next(cuts, True)

    relay.after = cut
    target = Transfer(tmp_path / "fetched" / "file", transfer.key, transfer.sha256, transfer.size)
    storage.download_all([target])
    assert target.path.read_bytes() == transfer.path.read_bytes()
    target.path.unlink()
    relay.before = lambda exchange: exchange.refuse(403, "AccessDenied") if "8388608" in str(exchange.headers) else None
    with pytest.raises(StorageError, match="access denied"):
        storage.download_all([target])
    assert list(target.path.parent.iterdir()) == []


def test_an_object_replaced_while_it_is_fetched_does_not_appear(relay: Relay, s3_bucket: str, tmp_path: Path) -> None:
    storage = S3Storage(f"s3://{s3_bucket}")
    old, new = a_file(tmp_path, LARGE, "old"), a_file(tmp_path, LARGE, "new")
    storage.upload(old.path, "x")
    replaced: list[bool] = []

    def replace(exchange: Exchange) -> None:
        if exchange.headers.get("Range", "").startswith("bytes=8388608-") and not replaced:
            replaced.append(True)
            storage.upload(new.path, "x")

    relay.before = replace
    with pytest.raises((IntegrityError, StorageError)) as caught:
        storage.download_all([Transfer(tmp_path / "fetched" / "x", "x", old.sha256, LARGE)])
    assert caught.value.where == f"s3://{s3_bucket}/x"
    assert list((tmp_path / "fetched").iterdir()) == []


@pytest.mark.parametrize("how", ["cut", "damaged"])
def test_an_answer_that_is_not_whole_is_no_content(relay: Relay, s3_bucket: str, how: str) -> None:
    storage = S3Storage(f"s3://{s3_bucket}")
    storage.write("x", b"content")

    def spoil(exchange: Exchange) -> bool:
        if how == "cut":
            exchange.announced = 7
        exchange.answer = {"cut": b"con", "damaged": b"?ontent"}[how]
        return True

    relay.after = spoil
    with pytest.raises((StorageError, IntegrityError)) as caught:
        storage.read("x")
    assert isinstance(caught.value, IntegrityError) == (how == "damaged")
    assert caught.value.where == f"s3://{s3_bucket}/x"


SECRETS = ("AKIDEXAMPLE", "wJalrSECRET", "FQoGTOKEN")


def test_secrets_are_in_no_text(relay: Relay, s3_bucket: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG, "retrainer")
    caplog.set_level(logging.INFO)
    access = S3Access(access_key_id=SECRETS[0], secret_access_key=SECRETS[1], session_token=SECRETS[2])
    storage = open_storage(f"s3://{s3_bucket}", access=access)
    texts = [repr(access), str(access), repr(storage)]
    attempts: list[Callable[[], object]] = [
        lambda: storage.read("x"),
        lambda: storage.write("x", b""),
        lambda: storage.upload_all([a_file(tmp_path, 10)]),
    ]
    for code in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied", "InvalidToken", "Other"):
        relay.before = partial(Exchange.refuse, status=400, code=code)
        for attempt in attempts:
            with pytest.raises(StorageError) as caught:
                attempt()
            texts += [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    for endpoint in ("https://me:hunter2@host", "https://me:hunter2@not a host"):
        with pytest.raises(StorageError) as caught:
            open_storage("s3://bucket", access=S3Access(endpoint_url=endpoint)).read("x")
        texts += [str(caught.value), str(caught.value.__cause__)]
    everything_said = "\n".join([*texts, caplog.text])
    for secret in [*SECRETS, "hunter2"]:
        assert secret not in everything_said
