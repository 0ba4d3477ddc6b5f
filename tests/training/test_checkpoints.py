"""Which checkpoint a retry resumes from: the newest that is complete and belongs to the same request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.work.train.checkpoints import Checkpoints, Marker

DIGEST, OTHER = "a" * 64, "b" * 64


def save(checkpoints: Checkpoints, step: int, *, complete: bool = True) -> Path:
    folder = checkpoints.folder / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    (folder / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": None}))
    if complete:
        checkpoints.complete(folder, step=step)
    return folder


def test_none_at_first(tmp_path: Path) -> None:
    assert Checkpoints(Artifacts(tmp_path), DIGEST).newest() is None


def test_the_newest_by_number_not_by_name(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST)
    for step in (9, 100, 20):
        save(checkpoints, step)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == "checkpoint-100"


def test_one_that_was_cut_short_is_deleted(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST)
    good = save(checkpoints, 10)
    cut = save(checkpoints, 20, complete=False)
    assert checkpoints.newest() == good
    assert not cut.exists()


@pytest.mark.parametrize("damage", ["truncated", "missing", "marker"])
def test_a_damaged_one_does_not_count(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST)
    good, bad = save(checkpoints, 10), save(checkpoints, 20)
    if damage == "truncated":
        (bad / "model.safetensors").write_bytes(b"w" * 99)
    elif damage == "missing":
        (bad / "model.safetensors").unlink()
    else:
        (bad / Marker.file).write_text("{")
    assert checkpoints.newest() == good


def test_another_request_never_resumes(tmp_path: Path) -> None:
    theirs = Checkpoints(Artifacts(tmp_path), OTHER)
    folder = save(theirs, 10)
    ours = Checkpoints(Artifacts(tmp_path), DIGEST)
    assert ours.newest() is None
    folder.rename(ours.folder / folder.name)
    assert ours.newest() is None


def test_rotation_keeps_newest_and_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST)
    best = save(checkpoints, 1)
    for step in (2, 3, 4):
        save(checkpoints, step)
    checkpoints.rotate(2, str(best))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["checkpoint-1", "checkpoint-4"]


def test_another_host_goes_on(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"s3://{s3_bucket}"
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "one"))
    here = Checkpoints(Artifacts(root), DIGEST)
    best = save(here, 1)
    newest = here.folder / "checkpoint-2"
    newest.mkdir()
    (newest / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": str(best)}))
    here.complete(newest, step=2)

    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "two"))
    there = Checkpoints(Artifacts(root), DIGEST)
    found = there.newest()
    assert found is not None
    assert found == there.folder / "checkpoint-2"
    state = json.loads((found / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(there.folder / "checkpoint-1")
    assert Path(state["best_model_checkpoint"], "model.safetensors").is_file()
    assert there.newest() == found
    there.rotate(1, None)
    assert Artifacts(root).remote_work("train", DIGEST) == ["checkpoint-2"]
