"""The train step in its own process: what it leaves, how it resumes, what it refuses."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2Model, set_seed
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import TRAIN, StepRef
from retrainer.chain.messages import Message, Metrics, Progress
from retrainer.chain.training_packages import require_packages
from retrainer.errors import ModelError, PipelineError, RetrainerError, StepKilled, TrainingError
from retrainer.run.processes import StepProcess, run_step
from retrainer.spec.training_arguments import known_arguments
from retrainer.store.bundle import BundleInfo
from retrainer.work.export.bundle import export_bundle
from retrainer.work.export.sample import Row
from retrainer.work.rehearsal import rehearse
from retrainer.work.train.checkpoints import Marker
from retrainer.work.training_arguments import training_arguments
from tests.chain.made import CONTEXT
from tests.training.conftest import MakePipeline, ignore, train_here


def checkpoint_of(ref: StepRef) -> Path:
    return Artifacts(ref.root).fetch("train", ref.digest) / "checkpoint"


def weights_of(checkpoint: Path) -> dict[str, Any]:
    weights: dict[str, Any] = load_file(checkpoint / "model.safetensors")
    return weights


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    return max(float(abs(first[name] - second[name]).max()) for name in first)


def test_what_it_leaves_and_says(make_pipeline: MakePipeline, snapshot: StepRef) -> None:
    messages: list[Message] = []
    pipeline = make_pipeline({"num_train_epochs": 5})
    ref = run_step(TRAIN.plan(pipeline, snapshot, context=CONTEXT), on_message=messages.append)
    folder = Artifacts(ref.root).fetch("train", ref.digest)
    record = TrainingRecord.from_json((folder / "training.json").read_bytes(), where="training.json")
    assert record.epochs == 5
    assert record.resumed_from is None
    assert set(record.validation) == {"accuracy", "f1", "loss"}
    assert record.validation["accuracy"] > 0.7
    scores = [message for message in messages if isinstance(message, Metrics)]
    assert [message.epoch for message in scores] == [1, 2, 3, 4, 5]
    assert all(set(message.values) == {"accuracy", "f1", "loss"} for message in scores)
    progress = [message for message in messages if isinstance(message, Progress)]
    assert {"epoch", "rows_per_second"} <= set(progress[-1].figures)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {p.name for p in checkpoint_of(ref).iterdir()}
    assert not (Path(ref.root) / ".work" / "train" / ref.digest).exists()

    again = run_step(TRAIN.plan(pipeline, snapshot, context=CONTEXT), on_message=messages.append)
    assert again.reused
    assert again.digest == ref.digest


def test_changed_arguments_are_another_training(make_pipeline: MakePipeline, snapshot: StepRef) -> None:
    digests = {
        TRAIN.plan(pipeline, snapshot, context=CONTEXT).digest
        for pipeline in (
            make_pipeline(),
            make_pipeline({"seed": 7}),
            make_pipeline(metrics=["accuracy"]),
            make_pipeline(model={**make_pipeline().model.model_dump(), "max_length": 16}),
        )
    }
    assert len(digests) == 4


def test_a_killed_training_resumes_and_ends_where_it_would_have(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    # Long enough to be killed in the middle; the callback that counts patience must survive as well.
    pipeline = make_pipeline(
        {"num_train_epochs": 6, "save_strategy": "steps", "save_steps": 7, "eval_strategy": "steps", "eval_steps": 7,
         "early_stopping_patience": 20}
    )  # fmt: skip
    request = TRAIN.plan(pipeline, snapshot, context=CONTEXT)
    work = Artifacts(request.root).work_folder("train", request.digest)

    def kill_after_a_checkpoint(process: StepProcess) -> None:
        deadline = time.monotonic() + 120
        while not list(work.glob(f"checkpoint-1*/{Marker.file}")):
            assert time.monotonic() < deadline, "no checkpoint was saved"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(StepKilled, match="SIGKILL"):
        run_step(request, on_message=ignore, started=kill_after_a_checkpoint)
    assert Artifacts(request.root).find("train", request.digest) is None
    # What a kill in the middle of a save leaves behind.
    torn = work / "checkpoint-9999"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half")

    resumed = run_step(request, on_message=ignore)
    went_on = TRAIN.output_of(resumed)
    assert (went_on.resumed_from or "").startswith("checkpoint-")
    assert went_on.resumed_from != "checkpoint-9999"

    straight, trained = train_here(pipeline, snapshot, tmp_path / "straight")
    assert trained.resumed_from is None
    assert trained.best_step == went_on.best_step
    assert largest_difference(weights_of(straight), weights_of(checkpoint_of(resumed))) < 1e-5


def test_a_subclass_of_our_trainer_trains_the_same_classifier(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from retrainer import ClassificationTrainer\n\nclass Plain(ClassificationTrainer):\n    pass\n"
    (tmp_path / "plain_trainer.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = {"num_train_epochs": 1}
    own, trained = train_here(
        make_pipeline({"trainer": "plain_trainer.Plain", **arguments}), snapshot, tmp_path / "own"
    )
    ours, same = train_here(make_pipeline(arguments), snapshot, tmp_path / "ours")
    assert json.loads((own / "config.json").read_text())["id2label"] == {"0": "closed", "1": "open"}
    assert largest_difference(weights_of(own), weights_of(ours)) == 0
    assert (trained.metrics, trained.steps) == (same.metrics, same.steps)


@pytest.mark.parametrize("label", ["closed", "open"])
def test_a_subclass_of_our_trainer_scores_the_positive_label(
    make_pipeline: MakePipeline,
    snapshot: StepRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    label: str,
) -> None:
    """Hardly anything is learnt, so that the scores of the two labels differ."""
    code = "from retrainer import ClassificationTrainer\n\nclass Scoring(ClassificationTrainer):\n    pass\n"
    (tmp_path / "scoring_trainer.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = {"max_steps": 1, "learning_rate": 1e-9, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    scores = []
    for more in ({}, {"trainer": "scoring_trainer.Scoring"}):
        pipeline = make_pipeline({**arguments, **more}, metrics=["f1_binary"], positive_label=label)
        _, trained = train_here(pipeline, snapshot, tmp_path / f"trained_{len(more)}")
        scores.append(trained.metrics["f1_binary"])
    assert scores[0] == scores[1]


def test_accumulation_is_one_large_batch(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    """Also guards against transformers multiplying the loss of classifiers that ignore the number of items."""
    common = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant"}
    common |= {"train_sampling_strategy": "sequential", "eval_strategy": "no", "max_grad_norm": 0.0}
    one, _ = train_here(make_pipeline({**common, "per_device_train_batch_size": 16}), snapshot, tmp_path / "one")
    many = {**common, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    four, _ = train_here(make_pipeline(many), snapshot, tmp_path / "four")
    # Dropout differs between the two; a loss four times too large would move the head four times as far.
    moved = abs(weights_of(one)["classifier.bias"]).max()
    assert 0.5 < abs(weights_of(four)["classifier.bias"]).max() / moved < 2


def test_two_processes_train_the_same_loss(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    # Hardly any learning, so that the loss is that of the start whatever the number of steps.
    arguments = {"num_train_epochs": 1, "learning_rate": 1e-9}
    _, one = train_here(make_pipeline(arguments), snapshot, tmp_path / "one")
    pipeline = make_pipeline(arguments, resources={"processes": 2})
    two = TRAIN.output_of(run_step(TRAIN.plan(pipeline, snapshot, context=CONTEXT), on_message=ignore))
    assert two.steps == -(-one.steps // 2)
    assert two.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=1e-2)


def test_early_stopping_ends_a_training_that_no_longer_improves(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    # Too small a rate to change any prediction: the first epoch stays the best.
    pipeline = make_pipeline({"num_train_epochs": 12, "learning_rate": 1e-12, "early_stopping_patience": 2})
    _, trained = train_here(pipeline, snapshot, tmp_path / "here")
    assert trained.epochs == 3
    assert trained.best_step == trained.steps // 3


def test_a_broken_base_model_is_one_clear_error(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_bert.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes(b"not weights at all")
    pipeline = make_pipeline(model={"base": str(broken), "max_length": 32})
    with pytest.raises(ModelError, match="cannot be loaded for text-classification") as caught:
        train_here(pipeline, snapshot, tmp_path / "here")
    assert str(broken) in str(caught.value)


@pytest.mark.parametrize("base", ["package:no_such_package/model", "/nowhere/model"])
def test_a_missing_base_model_is_found_before_anything_starts(
    make_pipeline: MakePipeline, snapshot: StepRef, base: str
) -> None:
    with pytest.raises(ModelError, match=base):
        TRAIN.plan(make_pipeline(model={"base": base}), snapshot, context=CONTEXT)


def test_too_long_for_the_model(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, tmp_path: Path
) -> None:
    pipeline = make_pipeline(model={"base": str(tiny_bert), "max_length": 300})
    with pytest.raises(PipelineError, match="at most 128"):
        train_here(pipeline, snapshot, tmp_path / "here")


@pytest.mark.parametrize(
    ("arguments", "named", "said"),
    [
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 256}, "per_device_train_batch_size", "256"),
        ({"dataloader_drop_last": True, "per_device_eval_batch_size": 128}, "per_device_eval_batch_size", "validation"),
        ({"report_to": "wandb"}, "report_to", "wandb"),
        ({"optim": "adamw_8bit"}, "optim", "bitsandbytes"),
        ({"optim_args": "no pairs"}, "optim_args", "unpack"),
        ({"lr_scheduler_kwargs": {"no_such_thing": 1}}, "lr_scheduler_kwargs", "no_such_thing"),
        ({"accelerator_config": {"no_such_thing": 1}}, "accelerator_config", "no_such_thing"),
        ({"use_liger_kernel": True}, "use_liger_kernel", "liger"),
        ({"torch_compile_backend": "no_such_thing"}, "torch_compile_backend", "NO_SUCH_THING"),
        ({"debug": "everything"}, "debug", "DebugOption"),
    ],
)
def test_arguments_that_end_a_training_are_named(
    make_pipeline: MakePipeline,
    snapshot: StepRef,
    tmp_path: Path,
    arguments: dict[str, Any],
    named: str,
    said: str,
) -> None:
    with pytest.raises(PipelineError) as caught:
        train_here(make_pipeline({"max_steps": 1, **arguments}), snapshot, tmp_path / "here")
    assert caught.value.where == f"tiny: training.{named}"
    assert said in caught.value.message


def test_every_reporter_and_optimizer_is_known_to_need_what_transformers_looks_for(make_pipeline: MakePipeline) -> None:
    """Without its package each of these is refused, by ours before transformers is asked, and by transformers."""
    there = {"kubeflow", "tensorboard"}
    reporters = [{"report_to": name} for name in INTEGRATION_TO_CALLBACK if name not in there]
    optimizers = known_arguments()["optim"]["choices"]
    built_in = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
    wanted = [{"optim": name, "optim_target_modules": "all-linear"} for name in optimizers if name not in built_in]
    for arguments in (*reporters, *wanted):
        pipeline = make_pipeline(arguments)
        for refuse in (require_packages, rehearse):
            with pytest.raises(RetrainerError) as caught:
                refuse(pipeline)
            assert "install" in str(caught.value) or "import" in str(caught.value), arguments


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"report_to": "wandb"}, "report_to"),
        ({"optim": "adamw_8bit"}, "optim"),
        ({"optim_args": "no pairs"}, "optim_args"),
        ({"lr_scheduler_kwargs": {"no_such_thing": 1}}, "lr_scheduler_kwargs"),
        ({"accelerator_config": {"no_such_thing": 1}}, "accelerator_config"),
        ({"torch_compile_backend": "no_such_thing"}, "torch_compile_backend"),
        ({"neftune_noise_alpha": 5, "bf16": True, "auto_find_batch_size": True, "full_determinism": False}, None),
        ({"gradient_checkpointing": True, "save_strategy": "best", "dataloader_num_workers": 2}, None),
    ],
)
def test_a_rehearsal_refuses_what_a_training_would(
    make_pipeline: MakePipeline, arguments: dict[str, Any], named: str | None
) -> None:
    if named is None:
        rehearse(make_pipeline(arguments))
        return
    with pytest.raises(PipelineError) as caught:
        rehearse(make_pipeline(arguments))
    assert caught.value.where == f"tiny: training.{named}"


def test_what_torch_raises_while_it_trains_is_one_error_that_says_what(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("some kernel\ndid not launch")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", broken)
    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", broken)
    with pytest.raises(TrainingError, match="RuntimeError: some kernel did not launch"):
        train_here(make_pipeline({"max_steps": 1}), snapshot, tmp_path / "here")


def test_validation_rows_that_are_asked_for_must_be_there(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    pipeline = make_pipeline({"eval_strategy": "epoch"})
    with pytest.raises(PipelineError, match="'epoch' needs validation rows, and there are none"):
        training_arguments(pipeline, tmp_path, has_validation=False)


def test_a_decoder_that_pads_in_front_trains_and_serves_with_padding_at_the_end(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert, padding_side="left")
    set_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64)
    GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    pipeline = make_pipeline({"max_steps": 2}, model={"base": str(tmp_path / "gpt2"), "max_length": 16})
    checkpoint, _ = train_here(pipeline, snapshot, tmp_path / "here")
    rows = [Row(f"{at:016x}", f"the trail is {'open ' * at}today", 0) for at in range(12)]
    report = export_bundle(
        checkpoint, rows, tmp_path / "bundle", task=pipeline.task, labels=("closed", "open"), max_length=16
    )
    assert report.max_difference["fp32"] <= 1e-4
    assert BundleInfo.load(tmp_path / "bundle").padding_side == "right"


def test_a_training_that_runs_away_is_stopped(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    pipeline = make_pipeline({"learning_rate": 1e30, "max_grad_norm": 0.0})
    with pytest.raises(PipelineError, match="the training diverged"):
        train_here(pipeline, snapshot, tmp_path / "here")


class Broken:
    """A loss that is not what it should be once its ``call`` comes; or whose gradients are not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: int, *, gradients: bool = False) -> None:
        self._forward = torch.nn.CrossEntropyLoss.forward
        self._calls = 0

        def loss(criterion: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            self._calls += 1
            value = self._forward(criterion, logits, labels)
            if self._calls != call:
                return value
            if gradients:
                logits.register_hook(lambda gradient: gradient * math.inf)
                return self._forward(criterion, logits, labels)
            return value * math.nan

        monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", loss)


@pytest.mark.parametrize(
    ("call", "gradients", "said"),
    [
        (9, False, "the loss of the validation rows is nan at step 2"),
        (7, True, "weights are no longer numbers at step 2"),  # the loss of the last of four batches is one
        (8, True, "weights are no longer numbers at step 2"),
    ],
)
def test_what_is_no_number_is_found_before_a_checkpoint_of_it_is_kept(
    make_pipeline: MakePipeline,
    snapshot: StepRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
    gradients: bool,
    said: str,
) -> None:
    Broken(monkeypatch, call, gradients=gradients)
    steps = {"max_steps": 4, "gradient_accumulation_steps": 4, "save_strategy": "steps", "save_steps": 2}
    evaluation = {"eval_strategy": "steps" if not gradients else "no", "eval_steps": 2}
    with pytest.raises(PipelineError, match=f"the training diverged: {said}"):
        train_here(make_pipeline({**steps, **evaluation}), snapshot, tmp_path / "here")
    assert not list((tmp_path / "here" / "root").glob(f".work/train/*/checkpoint-*/{Marker.file}"))


@pytest.mark.parametrize("fault", ["no tokenizer", "do not have the shape"])
def test_half_a_base_model(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, tmp_path: Path, fault: str
) -> None:
    """transformers would fill what is missing with random numbers, or make up a tokenizer, and go on."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_bert.iterdir():
        if fault != "no tokenizer" or not file.name.startswith("tokenizer"):
            (broken / file.name).write_bytes(file.read_bytes())
    if fault != "no tokenizer":
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    pipeline = make_pipeline(model={"base": str(broken), "max_length": 32})
    with pytest.raises(ModelError, match=fault):
        train_here(pipeline, snapshot, tmp_path / "here")
