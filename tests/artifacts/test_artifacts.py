"""Artifacts are there in full or not at all, on a folder and on S3."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrainer.artifacts.repository import ArtifactManifest, Artifacts
from retrainer.errors import ArtifactError
from retrainer.storage import open_storage

DIGEST = "ab" * 32


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    if request.param == "folder":
        return str(tmp_path / "artifacts")
    bucket = request.getfixturevalue("s3_bucket")
    return f"s3://{bucket}/some/prefix"


def commit(artifacts: Artifacts, staging: Path) -> ArtifactManifest:
    return artifacts.commit(
        staging,
        step="ingest",
        digest=DIGEST,
        identity={"a": 1},
        inputs={},
        output={"rows": 3},
        created_at="2026-01-01T00:00:00+00:00",
    )


def make(artifacts: Artifacts, text: str = "content") -> ArtifactManifest:
    with artifacts.staging("ingest", DIGEST) as staging:
        (staging / "deep").mkdir()
        (staging / "deep" / "file.txt").write_text(text)
        return commit(artifacts, staging)


def test_round_trip(root: str) -> None:
    artifacts = Artifacts(root)
    assert artifacts.find("ingest", DIGEST) is None
    made = make(artifacts)
    assert artifacts.find("ingest", DIGEST) == made
    assert (artifacts.fetch("ingest", DIGEST) / "deep" / "file.txt").read_text() == "content"


def test_another_host_reads_what_was_committed(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(Artifacts(root))
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "another cache"))
    folder = Artifacts(root).fetch("ingest", DIGEST)
    assert (folder / "deep" / "file.txt").read_text() == "content"


def test_what_was_never_committed_is_not_there(root: str) -> None:
    artifacts = Artifacts(root)
    with artifacts.staging("ingest", DIGEST) as staging:
        (staging / "half").write_text("x")
    assert artifacts.find("ingest", DIGEST) is None
    assert not staging.exists()
    with pytest.raises(ArtifactError, match="no ingest artifact"):
        artifacts.fetch("ingest", DIGEST)


def test_files_without_a_manifest_are_not_an_artifact(root: str) -> None:
    open_storage(root).write(f"ingest/{DIGEST}/deep/file.txt", b"half of an upload")
    artifacts = Artifacts(root)
    assert artifacts.find("ingest", DIGEST) is None
    make(artifacts)
    assert (artifacts.fetch("ingest", DIGEST) / "deep" / "file.txt").read_text() == "content"


def test_damage_is_noticed(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(Artifacts(root))
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "another cache"))
    folder = "/".join(part for part in ("ingest", DIGEST, made.upload) if part)
    open_storage(root).write(f"{folder}/deep/file.txt", b"cont")
    with pytest.raises(ArtifactError, match=r"damaged|does not match"):
        Artifacts(root).fetch("ingest", DIGEST)


def test_the_first_commit_stays(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with files of the same name and other bytes, made at the same time on another host."""
    first = make(Artifacts(root), "first")
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "another host"))
    second = make(Artifacts(root), "second")
    assert first == second
    assert (Artifacts(root).fetch("ingest", DIGEST) / "deep" / "file.txt").read_text() == "first"


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    script = (
        "import sys, time; from retrainer.artifacts.repository import Artifacts\n"
        f"with Artifacts({str(tmp_path)!r}).lock('train', 'x', holder='run one of news'):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    said: list[str] = []

    def hear(line: str) -> None:
        """Whoever waits knows at once for whom; then the holder dies."""
        said.append(line)
        holder.kill()

    started = time.monotonic()
    with Artifacts(tmp_path).lock("train", "x", say=hear):
        assert time.monotonic() - started < 60  # the holder would have kept it for ten times that
    assert said == ["waiting for run one of news, which makes the same train artifact, x"]
    holder.wait()


def test_work_outlives_a_try_and_reaches_another_host(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"s3://{s3_bucket}"
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "one"))
    here = Artifacts(root)
    checkpoint = here.work_folder("train", DIGEST) / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(b"w")
    (checkpoint / "marker").write_bytes(b"m")
    here.upload_work("train", DIGEST, "checkpoint-1", last="marker")

    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "two"))
    there = Artifacts(root)
    assert there.remote_work("train", DIGEST) == ["checkpoint-1"]
    there.download_work("train", DIGEST, "checkpoint-1", ["weights"])
    assert (there.work_folder("train", DIGEST) / "checkpoint-1" / "weights").read_bytes() == b"w"
    there.drop_work_folder("train", DIGEST)
    assert there.remote_work("train", DIGEST) == []


def test_the_manifest_names_every_file(tmp_path: Path) -> None:
    manifest = make(Artifacts(tmp_path))
    assert set(manifest.files) == {"deep/file.txt"}
    assert (tmp_path / "ingest" / DIGEST / ArtifactManifest.file).is_file()
