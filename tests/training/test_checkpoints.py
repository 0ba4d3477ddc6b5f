"""Which checkpoint a retry resumes from: the newest that is complete and belongs to the same request."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import INGEST, TRAIN
from retrainer.spec import Pipeline
from retrainer.work.train.checkpoints import Checkpoints, Marker
from tests.chain.made import CONTEXT, in_root, planned
from tests.training.conftest import MakePipeline

DIGEST, OTHER = "a" * 64, "b" * 64


def save(checkpoints: Checkpoints, step: int, *, complete: bool = True, best: Path | None = None) -> Path:
    folder = checkpoints.folder / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    state = {"best_model_checkpoint": str(best) if best else None}
    (folder / "trainer_state.json").write_text(json.dumps(state))
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
    said: list[str] = []
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST, say=said.append)
    good = save(checkpoints, 10)
    cut = save(checkpoints, 20, complete=False)
    assert checkpoints.newest() == good
    assert not cut.exists()
    assert said == ["checkpoint-20 does not count: its save was cut short"]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: (path / "model.safetensors").write_bytes(b"w" * 99), "model.safetensors is damaged"),
    "altered": (
        lambda path: (path / "model.safetensors").write_bytes(b"w" * 99 + b"v"),
        "model.safetensors is damaged",
    ),
    "missing": (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
    "more": (lambda path: (path / "pytorch_model.bin").write_bytes(b"w"), "pytorch_model.bin is none of its files"),
    "marker": (lambda path: (path / Marker.file).write_text("{"), f"{Marker.file} cannot be read"),
    "old marker": (
        lambda path: (path / Marker.file).write_text(json.dumps({"format_version": 1, "request": DIGEST, "step": 20})),
        f"{Marker.file} cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_does_not_count(tmp_path: Path, damage: str) -> None:
    do, why = DAMAGES[damage]
    said: list[str] = []
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST, say=said.append)
    good, bad = save(checkpoints, 10), save(checkpoints, 20)
    do(bad)
    assert checkpoints.newest() == good
    assert len(said) == 1
    assert said[0].startswith(f"checkpoint-20 does not count: {why}")


def test_one_whose_best_is_damaged_does_not_count(tmp_path: Path) -> None:
    """Or the weights of the last step would be kept under the name and the scores of the best."""
    said: list[str] = []
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST, say=said.append)
    first, best = save(checkpoints, 10), save(checkpoints, 20)
    save(checkpoints, 30, best=best)
    assert checkpoints.newest() == checkpoints.folder / "checkpoint-30"
    (best / "model.safetensors").write_bytes(b"v" * 100)
    assert checkpoints.newest() == first
    assert said == [
        "checkpoint-30 does not count: its best is checkpoint-20, which does not: model.safetensors is damaged",
        "checkpoint-20 does not count: model.safetensors is damaged",
    ]


def test_what_the_trainer_pickles_for_nobody_is_not_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(Artifacts(tmp_path), DIGEST)
    folder = save(checkpoints, 1, complete=False)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    checkpoints.complete(folder, step=1)
    assert checkpoints.newest() == folder
    assert not (folder / "training_args.bin").exists()


def test_another_request_never_resumes(tmp_path: Path) -> None:
    theirs = Checkpoints(Artifacts(tmp_path), OTHER)
    folder = save(theirs, 10)
    ours = Checkpoints(Artifacts(tmp_path), DIGEST)
    assert ours.newest() is None
    folder.rename(ours.folder / folder.name)
    assert ours.newest() is None


def test_what_changed_never_resumes(
    make_pipeline: MakePipeline, rows_file: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    """Data, configuration, base model or its revision, order of the labels: each is another request."""
    other_rows, other_base = tmp_path / "rows.csv", tmp_path / "base"
    other_rows.write_text(rows_file.read_text().replace(",open", ",closed", 1))
    shutil.copytree(tiny_bert, other_base)
    with (other_base / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\x01")
    hub = {"base": "somebody/model", "max_length": 32}
    pipelines = {
        "as it was": make_pipeline(),
        "data": make_pipeline(dataset={"train": str(other_rows)}),
        "configuration": make_pipeline({"learning_rate": 1e-3}),
        "weights of the base": make_pipeline(model={"base": str(other_base), "max_length": 32}),
        "base on the hub": make_pipeline(model={**hub, "revision": "0" * 40}),
        "its revision": make_pipeline(model={**hub, "revision": "1" * 40}),
        "labels": make_pipeline(dataset={"train": str(rows_file), "labels": ["open", "closed"]}),
        "their order": make_pipeline(dataset={"train": str(rows_file), "labels": ["closed", "open"]}),
    }
    digests = {changed: digest_of_training(pipeline, tmp_path) for changed, pipeline in pipelines.items()}
    assert len(set(digests.values())) == len(pipelines)
    left = save(Checkpoints(Artifacts(tmp_path), digests["as it was"]), 10)
    for changed, digest in digests.items():
        found = Checkpoints(Artifacts(tmp_path), digest).newest()
        assert found == (left if changed == "as it was" else None)


def digest_of_training(pipeline: Pipeline, root: Path) -> str:
    """Of a training on the snapshot that would be made of the pipeline's data; an empty one is enough to plan it."""
    ingest = planned(INGEST.plan(pipeline, context=in_root(root)))
    artifacts = Artifacts(root)
    with artifacts.staging("ingest", ingest.digest) as staging:
        made = artifacts.commit(
            staging,
            step="ingest",
            digest=ingest.digest,
            identity=ingest.identity,
            inputs={},
            output={},
            created_at="2026-01-01T00:00:00+00:00",
        )
    snapshot = INGEST.reference(made, ingest, reused=False)
    return planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).digest


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


def test_what_was_damaged_here_is_fetched_again(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    checkpoints = Checkpoints(Artifacts(f"s3://{s3_bucket}"), DIGEST)
    newest = save(checkpoints, 7)
    (newest / "model.safetensors").write_bytes(b"v" * 100)
    assert checkpoints.newest() == newest
    assert (newest / "model.safetensors").read_bytes() == b"w" * 100


def test_what_was_damaged_in_the_bucket_gives_way_to_the_one_before(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "one"))
    root = f"s3://{s3_bucket}"
    for step in (7, 14, 21):
        save(Checkpoints(Artifacts(root), DIGEST), step)
    client = boto3.client("s3")
    client.put_object(Bucket=s3_bucket, Key=f".work/train/{DIGEST}/checkpoint-21/model.safetensors", Body=b"half")
    client.delete_object(Bucket=s3_bucket, Key=f".work/train/{DIGEST}/checkpoint-14/model.safetensors")

    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "two"))
    said: list[str] = []
    found = Checkpoints(Artifacts(root), DIGEST, say=said.append).newest()
    assert found is not None
    assert found.name == "checkpoint-7"
    assert said[0] == "checkpoint-21 does not count: model.safetensors is damaged"
    assert said[1].startswith("checkpoint-14 does not count: ")
