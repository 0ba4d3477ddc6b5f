"""A checkpoint in a bucket that somebody else wrote, with a marker to go with it: none of its files is executed.

Who may write to the bucket may change what is learnt. That is not looked for here.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import torch

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import TRAIN, StepRef
from retrainer.errors import IntegrityError, TrainingError
from retrainer.records import sha256_file
from retrainer.spec import Pipeline
from retrainer.work.reporter import Reporter
from retrainer.work.train.checkpoints import Checkpoints, Marker, checkpoints_of
from tests.chain.made import CONTEXT, planned
from tests.made_once import made_once
from tests.training.conftest import MakePipeline, train_here

ARGUMENTS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no"}


class Opens:
    """Makes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self._witness = str(witness)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (self._witness, "w")


@pytest.fixture
def checkpoint(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of one that a training really left."""

    def make(folder: Path) -> None:
        train_here(make_pipeline(ARGUMENTS), snapshot, folder / "run")
        (found,) = (folder / "run").glob("root/.work/train/*/checkpoint-1")
        found.rename(folder / "checkpoint-1")

    shutil.copytree(made_once(tmp_path_factory, "a_checkpoint", make) / "checkpoint-1", tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / Marker.file).unlink()
    return tmp_path / "checkpoint-1"


def digest_of_training(pipeline: Pipeline, snapshot: StepRef) -> str:
    return planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT)).digest


def put(bucket: str, checkpoint: Path, digest: str, **others: str) -> None:
    """Into the bucket, as the training itself would have put it there."""
    files = {str(path.relative_to(checkpoint)): sha256_file(path) for path in checkpoint.rglob("*") if path.is_file()}
    Marker(request=digest, step=1, files={**files, **others}).save(checkpoint)
    for name in [*files, Marker.file]:
        boto3.client("s3").upload_file(str(checkpoint / name), bucket, f".work/train/{digest}/{checkpoint.name}/{name}")


REFUSED = "a file of it holds more than tensors and was not loaded"


@pytest.mark.parametrize(
    ("file", "form", "refused"),
    [
        ("optimizer.pt", "torch", REFUSED),
        ("optimizer.pt", "pickle", REFUSED),
        ("scheduler.pt", "torch", REFUSED),
        ("rng_state.pth", "torch", REFUSED),
        ("rng_state.pth", "pickle", REFUSED),
        ("pytorch_model.bin", "torch", REFUSED),
        ("pytorch_model.bin", "pickle", REFUSED),
        ("pytorch_model.bin beside model.safetensors", "torch", None),
        ("training_args.bin", "torch", None),
        ("adapter/adapter_model.bin", "torch", None),
        ("global_step1/mp_rank_00_model_states.pt", "torch", None),
        ("pytorch_model_fsdp_0/.metadata", "pickle", "only supported when using PyTorch FSDP"),
    ],
)
def test_nothing_of_it_is_executed(
    make_pipeline: MakePipeline,
    snapshot: StepRef,
    checkpoint: Path,
    s3_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    form: str,
    refused: str | None,
) -> None:
    pipeline = make_pipeline(ARGUMENTS)
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    weapon, witness = checkpoint / file.partition(" ")[0], tmp_path / "witness"
    weapon.parent.mkdir(exist_ok=True)
    if file == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    if form == "torch":
        torch.save({"state": Opens(witness)}, weapon)
        torch.load(weapon, weights_only=False)
    else:
        weapon.write_bytes(pickle.dumps(Opens(witness), protocol=2))
        pickle.loads(weapon.read_bytes())
    witness.unlink()  # it is loaded
    put(s3_bucket, checkpoint, digest_of_training(pipeline, snapshot))
    if refused is None:
        _, trained = train_here(pipeline, snapshot, tmp_path / "here", root=f"s3://{s3_bucket}")
        assert trained.resumed_from == "checkpoint-1"
    else:
        with pytest.raises((IntegrityError, TrainingError), match=refused):
            train_here(pipeline, snapshot, tmp_path / "here", root=f"s3://{s3_bucket}")
    assert not witness.exists()


def test_an_adapter_is_not_executed(
    make_pipeline: MakePipeline,
    snapshot: StepRef,
    s3_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """peft reads ``adapter_model.bin`` where there is no ``adapter_model.safetensors``."""
    pipeline = make_pipeline({**ARGUMENTS, "peft": {"r": 2}})
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    train_here(pipeline, snapshot, tmp_path / "there")
    (found,) = (tmp_path / "there").glob("root/.work/train/*/checkpoint-1")
    (found / Marker.file).unlink()
    (found / "adapter_model.safetensors").unlink()
    torch.save({"state": Opens(tmp_path / "witness")}, found / "adapter_model.bin")
    put(s3_bucket, found, digest_of_training(pipeline, snapshot))
    with pytest.raises(IntegrityError, match=REFUSED):
        train_here(pipeline, snapshot, tmp_path / "here", root=f"s3://{s3_bucket}")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("sharing", [{}, {"fsdp": "full_shard"}, {"deepspeed": "zero.json"}])
def test_what_must_be_unpickled_is_not_taken_from_a_bucket(
    make_pipeline: MakePipeline,
    snapshot: StepRef,
    checkpoint: Path,
    s3_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sharing: dict[str, str],
) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    pipeline = make_pipeline()
    request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT))
    training = pipeline.training.model_copy(update={"arguments": sharing})
    request = request.model_copy(
        update={"root": f"s3://{s3_bucket}", "pipeline": pipeline.model_copy(update={"training": training})}
    )
    put(s3_bucket, checkpoint, request.digest)
    assert (checkpoints_of(request, Reporter()).newest() is None) == bool(sharing)


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/../../../escaped"])
def test_a_marker_that_names_files_elsewhere(
    checkpoint: Path, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    put(s3_bucket, checkpoint, "a" * 64, **{name: "0" * 64})
    said: list[str] = []
    assert Checkpoints(Artifacts(f"s3://{s3_bucket}"), "a" * 64, say=said.append).newest() is None
    assert said == [f"checkpoint-1 does not count: {Marker.file} names a file outside of it"]


def test_names_in_the_bucket_that_are_no_checkpoints_reach_no_folder(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    digest = "a" * 64
    for name in ("../checkpoint-1", "..", "checkpoint-1x", "checkpoint-1 "):
        boto3.client("s3").put_object(Bucket=s3_bucket, Key=f".work/train/{digest}/{name}/{Marker.file}", Body=b"{}")
    artifacts = Artifacts(f"s3://{s3_bucket}")
    other = artifacts.work_folder("train", "b" * 64)
    assert Checkpoints(artifacts, digest).newest() is None
    assert other.is_dir()


def test_a_state_whose_best_checkpoint_lies_elsewhere(
    checkpoint: Path, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    (checkpoint / "trainer_state.json").write_text(json.dumps({**state, "best_model_checkpoint": "/etc/.."}))
    put(s3_bucket, checkpoint, "a" * 64)
    assert Checkpoints(Artifacts(f"s3://{s3_bucket}"), "a" * 64).newest() is None
