"""What is said of places that runs write to, by real servers, and that nothing which is tried stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from retrainer.doctor import stores
from retrainer.doctor.deployment import Deployment
from retrainer.doctor.findings import Finding
from retrainer.doctor.stores import look_at, look_at_artifacts, place_findings
from retrainer.errors import ResourceError
from retrainer.storage import S3Access, Storage, open_storage
from retrainer.storage.s3 import S3Storage
from retrainer.store.conditional import probe_key, require_conditional_writes
from tests.airflow.guarded_bucket import GuardedBucket, guarded_bucket

NO_DELETE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:ListBucket"], "Resource": "*"}],
}
NO_LIST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], "Resource": "*"}],
}


def found_at(storage: Storage) -> list[Finding]:
    return list(place_findings(storage, "news", "store"))


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def test_a_bucket_in_order(s3_bucket: str) -> None:
    storage = open_storage(f"s3://{s3_bucket}/production")
    found = found_at(storage)
    assert states(found) == ["ok"] * 4
    assert "clock is that of the server" in found[0].text
    assert not list(storage.list())


def test_what_a_publisher_left_is_left_alone(s3_bucket: str) -> None:
    storage = open_storage(f"s3://{s3_bucket}")
    assert require_conditional_writes(storage, "news")
    assert not require_conditional_writes(storage, "news")
    assert states(found_at(storage)) == ["ok"] * 4
    assert storage.exists(probe_key("news"))


def test_a_server_that_ignores_conditions(rclone: tuple[S3Access, Path]) -> None:
    storage = open_storage("s3://models/doctor", access=rclone[0])
    broken = [finding for finding in found_at(storage) if finding.state == "broken"]
    assert len(broken) == 1
    assert "ignores conditional writes (If-None-Match)" in broken[0].text
    assert broken[0].hint
    assert not list(storage.list())


@pytest.fixture(scope="module")
def no_delete() -> Iterator[GuardedBucket]:
    with guarded_bucket(NO_DELETE) as bucket:
        yield bucket


def test_what_may_not_be_removed_is_named(no_delete: GuardedBucket) -> None:
    storage = open_storage("s3://models", access=no_delete.access)
    found = found_at(storage)
    assert states(found) == ["ok"] * 5
    assert found[-1].text.startswith("s3://models/news/.probe stays, which publishing would leave as well")
    assert len(found_at(storage)) == 4  # and no more comes to it


def test_a_bucket_that_may_not_be_listed() -> None:
    with guarded_bucket(NO_LIST) as bucket:
        found = found_at(open_storage("s3://models", access=bucket.access))
    (warning,) = (finding for finding in found if finding.state == "warning")
    assert "may not be listed" in warning.text
    assert "s3:ListBucket" in str(warning.hint)


@pytest.mark.parametrize(("seconds", "state"), [(30, "ok"), (300, "warning"), (-3000, "broken")])
def test_a_clock_that_is_wrong(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, seconds: int, state: str) -> None:
    monkeypatch.setattr(S3Storage, "server_time", lambda self: datetime.now(UTC) + timedelta(seconds=seconds))
    clock = found_at(open_storage(f"s3://{s3_bucket}"))[0]
    assert clock.state == state
    if state != "ok":
        assert ("behind" if seconds > 0 else "ahead") in clock.text


def test_the_server_tells_its_time_also_to_whom_it_refuses(no_delete: GuardedBucket) -> None:
    for access in (no_delete.access, replace(no_delete.access, secret_access_key="wrong")):
        told = open_storage("s3://models", access=access).server_time()
        assert told is not None
        assert abs((told - datetime.now(UTC)).total_seconds()) < 5


def test_a_folder_has_no_server(tmp_path: Path) -> None:
    assert open_storage(tmp_path).server_time() is None


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "store").mkdir()
    before = sorted(tmp_path.rglob("*"))
    absent, there, file = (found_at(open_storage(tmp_path / name)) for name in ("absent", "store", "file"))
    assert states([*absent, *there, *file]) == ["ok", "ok", "broken"]
    assert "can be made in" in absent[0].text
    assert "with locks" in there[0].text
    assert "is a file" in file[0].text
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_whose_locks_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(storage: Storage, model: str) -> bool:
        raise OSError(37, "No locks available", str(tmp_path))

    monkeypatch.setattr(stores, "require_conditional_writes", refuse)
    (finding,) = found_at(open_storage(tmp_path))
    assert (finding.state, "No locks available" in finding.text) == ("broken", True)
    assert not list(tmp_path.iterdir())


def test_a_connection_that_cannot_be_read_is_what_is_said_of_a_bucket(tmp_path: Path) -> None:
    deployment = Deployment(access=ResourceError("no connection 'x'", hint="create it"), artifact_root="s3://models")
    (finding,) = look_at_artifacts(deployment)
    assert (finding.state, finding.text, finding.hint) == ("broken", "no connection 'x'", "create it")
    (finding,) = look_at(deployment, str(tmp_path), model="news", what="store")
    assert finding.state == "ok"
