"""Pipelines whose models write text, up to the trained checkpoint: what they learn, say, resume from and refuse."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoTokenizer, BertConfig, BertModel, GenerationConfig

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import TrainingRecord, WarmStart
from retrainer.chain import TRAIN, StepRef
from retrainer.errors import ModelError, PipelineError, StepKilled
from retrainer.run.processes import StepProcess, run_step
from retrainer.sources.base_models import fingerprint, require_sizes
from retrainer.spec.model import Model
from retrainer.tasks import TASKS
from retrainer.work.reporter import Reporter
from retrainer.work.train.checkpoints import Marker
from retrainer.work.train.loading import Base, load_base
from retrainer.work.train.shares import IGNORED
from tests.chain.made import CONTEXT
from tests.generation import tiny
from tests.generation.conftest import TASKS_THAT_WRITE, MakeWriter
from tests.training.conftest import ignore, train_here
from tests.training.test_blending import publish

EACH_TASK = pytest.mark.parametrize("task", TASKS_THAT_WRITE)


def model_of(task: str, checkpoint: Path) -> tuple[Any, Any]:
    model = TASKS[task].part("model_class").from_pretrained(checkpoint).eval()
    return model, AutoTokenizer.from_pretrained(checkpoint)


def written(task: str, checkpoint: Path, texts: list[str]) -> list[str]:
    model, tokenizer = model_of(task, checkpoint)
    found = []
    for text in texts:
        read = tokenizer(text, return_tensors="pt")
        ids = model.generate(read["input_ids"], attention_mask=read["attention_mask"], do_sample=False)[0]
        start = 0 if TASKS[task].has_encoder else read["input_ids"].shape[1]
        found.append(tokenizer.decode(ids[start:], skip_special_tokens=True))
    return found


@EACH_TASK
def test_a_model_learns_to_write_the_outputs_and_to_end_them(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], tmp_path: Path, task: str
) -> None:
    pipeline = make_writer(task, {"num_train_epochs": 12, "lr_scheduler_type": "constant"}, metrics=["exact_match"])
    checkpoint, trained = train_here(pipeline, snapshots[task], tmp_path / "here")
    assert set(trained.metrics) == {"loss", "exact_match"}
    assert trained.metrics["exact_match"] > 0, "no row is exact, so no output ends"

    # What training calls exact is what a greedy search writes.
    rows = pq.read_table(Artifacts(snapshots[task].root).fetch("ingest", snapshots[task].digest) / "validation.parquet")
    texts, targets = rows.column("text").to_pylist(), rows.column("target").to_pylist()
    answers = written(task, checkpoint, texts)
    exact = sum(answer == target for answer, target in zip(answers, targets, strict=True)) / len(texts)
    assert exact == pytest.approx(trained.metrics["exact_match"])
    assert GenerationConfig.from_pretrained(checkpoint).max_new_tokens == 6
    assert not TrainingRecord.load(tmp_path / "here").cut["train"].inputs


@pytest.mark.parametrize("task", ["text2text-generation"])
def test_a_killed_training_resumes_and_ends_where_it_would_have(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], tmp_path: Path, task: str
) -> None:
    pipeline = make_writer(task, {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 5, "seed": 3})
    request = TRAIN.plan(pipeline, snapshots[task], context=CONTEXT)
    work = Artifacts(request.root).work_folder("train", request.digest)

    def kill_after_a_checkpoint(process: StepProcess) -> None:
        deadline = time.monotonic() + 120
        while not list(work.glob(f"checkpoint-*/{Marker.file}")):
            assert time.monotonic() < deadline, "no checkpoint was saved"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(StepKilled, match="SIGKILL"):
        run_step(request, on_message=ignore, started=kill_after_a_checkpoint)
    resumed, went_on = train_here(pipeline, snapshots[task], tmp_path / "resumed", root=request.root)
    assert (went_on.resumed_from or "").startswith("checkpoint-")

    straight, trained = train_here(pipeline, snapshots[task], tmp_path / "straight")
    assert trained.resumed_from is None
    first, second = load_file(straight / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert max(float(abs(first[name] - second[name]).max()) for name in first) < 1e-5


def loaded(make_writer: MakeWriter, task: str, folder: Path, **changes: Any) -> Base:
    return load_base(make_writer(task, **changes), (), Reporter(folder / "messages.jsonl"))


def batch_of(base: Base, task: str, rows: list[tuple[str, str]], folder: Path, model: Model) -> Any:
    columns = {"text": [text for text, _ in rows], "target": [output for _, output in rows]}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    encoded = TASKS[task].part("encode")(folder / "rows.parquet", base.tokenizer, model)
    return TASKS[task].part("collate")(base, pad_to_multiple_of=None)([encoded[at] for at in range(len(encoded))])


@EACH_TASK
def test_the_loss_is_of_outputs_and_their_ends_alone(make_writer: MakeWriter, tmp_path: Path, task: str) -> None:
    base = loaded(make_writer, task, tmp_path)
    model = make_writer(task).model
    rows = [("red car", "a tree is here"), ("is", "old")]
    batch = batch_of(base, task, rows, tmp_path, model)
    end = base.tokenizer.eos_token_id
    for row, (text, output) in zip(batch["labels"].tolist(), rows, strict=True):
        learnt = [label for label in row if label != IGNORED]
        assert base.tokenizer.decode(learnt[:-1]) == output, text
        assert learnt[-1] == end
    # On the right: what is read starts each row.
    assert batch["attention_mask"][:, 0].tolist() == [1, 1]

    # The loss is the mean over these tokens: each logit that has a gradient is one that answers with a label.
    logits = base.model(**batch).logits
    shifted = TASKS[task].has_encoder is False
    wanted = batch["labels"][:, 1:] if shifted else batch["labels"]
    output = base.model(**batch)
    output.logits.retain_grad()
    output.loss.backward()
    moved = output.logits.grad.abs().sum(dim=-1) > 0
    assert torch.equal(moved[:, :-1] if shifted else moved, wanted != IGNORED)
    assert not (shifted and moved[:, -1].any())
    assert logits.shape == output.logits.shape


@EACH_TASK
def test_input_and_output_are_the_same_tokens_apart_and_together(
    make_writer: MakeWriter, tmp_path: Path, task: str
) -> None:
    base = loaded(make_writer, task, tmp_path)
    batch = batch_of(base, task, [("red car", "old tree")], tmp_path, make_writer(task).model)
    served = base.tokenizer("red car")["input_ids"]
    assert batch["input_ids"][0].tolist()[: len(served)] == served
    if not TASKS[task].has_encoder:
        answer = base.tokenizer("old tree", add_special_tokens=False)["input_ids"]
        assert batch["input_ids"][0].tolist() == [*served, *answer, base.tokenizer.eos_token_id]


@EACH_TASK
def test_what_is_cut_is_counted_and_has_no_end(make_writer: MakeWriter, tmp_path: Path, task: str) -> None:
    long = " ".join(tiny.WORDS)
    rows = [*tiny.rows(40), *((f"{long} {word}", "a") for word in tiny.WORDS[:3]), ("a a a a", long)]
    columns = {"text": [text for text, _ in rows], "target": [output for _, output in rows]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    pipeline = make_writer(task)
    base = loaded(make_writer, task, tmp_path)
    encoded = TASKS[task].part("encode")(tmp_path / "train.parquet", base.tokenizer, pipeline.model)
    assert (encoded.cut.inputs, encoded.cut.outputs) == (3, 1)
    end = base.tokenizer.eos_token_id
    assert end not in encoded[len(rows) - 1]["labels"][-pipeline.model.max_new_tokens :]
    assert all(encoded[at]["labels"][-1] == end for at in range(len(rows) - 1))


def test_cut_rows_are_warned_of_and_kept_in_the_record(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], bases: dict[str, Path], tmp_path: Path
) -> None:
    task = "text-generation"
    pipeline = make_writer(
        task, {"max_steps": 1}, model={"base": str(bases[task]), "max_length": 8, "max_new_tokens": 2}
    )
    train_here(pipeline, snapshots[task], tmp_path / "here")
    count = TrainingRecord.load(tmp_path / "here").cut["train"].outputs
    assert count
    said = (tmp_path / "here" / "messages.jsonl").read_text()
    assert re.search(rf'"level":"warning".*{count} of \d+ train outputs are longer than 2 tokens.*max_new_tokens', said)


@pytest.mark.parametrize(
    ("task", "other"), [("text-generation", "text2text-generation"), ("text2text-generation", "text-generation")]
)
def test_a_base_of_the_other_kind_is_refused(
    make_writer: MakeWriter, bases: dict[str, Path], tmp_path: Path, task: str, other: str
) -> None:
    with pytest.raises(ModelError, match="encoder") as caught:
        loaded(make_writer, task, tmp_path, model={"base": str(bases[other]), "max_length": 8})
    assert caught.value.hint == f"write task: {other}, or name another base"


def test_a_base_that_reads_in_both_directions_is_refused(
    make_writer: MakeWriter, bases: dict[str, Path], tmp_path: Path
) -> None:
    words = AutoTokenizer.from_pretrained(bases["text-generation"])
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    words.save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="weights are not in it"):
        loaded(make_writer, "text-generation", tmp_path, model={"base": str(tmp_path / "bert"), "max_length": 8})
    TASKS["text-generation"].part("model_class").from_config(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="reads in both directions"):
        loaded(make_writer, "text-generation", tmp_path, model={"base": str(tmp_path / "bert"), "max_length": 8})


def test_input_and_output_have_to_fit_into_one_row(make_writer: MakeWriter, bases: dict[str, Path]) -> None:
    model = {"base": str(bases["text-generation"]), "max_length": 32}
    with pytest.raises(PipelineError, match=r"96 tokens with those of max_length.*at most 64"):
        require_sizes(make_writer("text-generation", model=model))
    require_sizes(make_writer("text2text-generation", model={**model, "base": str(bases["text2text-generation"])}))


@EACH_TASK
def test_arguments_are_honoured(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], tmp_path: Path, task: str
) -> None:
    """Those that meet labels and logits on their way."""
    arguments: dict[str, Any] = {"max_steps": 2, "label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2}
    arguments |= {"include_num_input_tokens_seen": "all", "train_sampling_strategy": "random", "bf16": True}
    arguments |= {"gradient_checkpointing": True, "neftune_noise_alpha": 1.0, "metric_for_best_model": "exact_match"}
    _, trained = train_here(make_writer(task, arguments), snapshots[task], tmp_path / "here")
    assert trained.steps == 2


@EACH_TASK
def test_a_training_starts_from_the_champion(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], tmp_path: Path, task: str
) -> None:
    champion, _ = train_here(make_writer(task, {"max_steps": 4}), snapshots[task], tmp_path / "champion")
    pipeline = make_writer(task, {"max_steps": 1, "learning_rate": 1e-9, "warm_start": "champion"})
    of_base = fingerprint(pipeline.model)
    version = publish(pipeline, tmp_path / "version", champion, task=task, labels=(), base_revision=of_base)
    warm, trained = train_here(pipeline, snapshots[task], tmp_path / "warm")
    assert trained.warm_start == WarmStart(champion=version)
    theirs, own = load_file(champion / "model.safetensors"), load_file(warm / "model.safetensors")
    assert theirs.keys() == own.keys()
    assert max(float(abs(own[name] - theirs[name]).max()) for name in own) < 1e-6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"training": {"metric_for_best_model": "chrf"}}, "use loss or exact_match"),
        ({"training": {"blend_with_champion": "auto"}}, "blend_with_champion is for tasks with labels"),
        ({"positive_label": "x"}, "positive_label is for tasks with labels"),
        ({"export": {"calibration": "temperature"}}, "calibration is for tasks with labels"),
        ({"model": {"base": "x", "max_new_token": 3}}, "did you mean 'max_new_tokens'"),
    ],
)
def test_what_a_pipeline_cannot_ask_of_it(make_writer: MakeWriter, changes: dict[str, Any], said: str) -> None:
    training = changes.pop("training", None)
    with pytest.raises(PipelineError, match=said):
        make_writer("text-generation", training, **changes)


def test_a_classifier_writes_nothing(make_writer: MakeWriter) -> None:
    with pytest.raises(PipelineError, match="a classifier writes nothing"):
        make_writer("text-classification", model={"base": "x", "max_new_tokens": 9})


@EACH_TASK
def test_frozen_layers_are_those_that_read_and_compute_in_every_epoch(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], bases: dict[str, Path], tmp_path: Path, task: str
) -> None:
    base_folder, first, rest = bases[task], "transformer.h.0.", "transformer.h.1."
    if TASKS[task].has_encoder:
        base_folder, first, rest = tiny.save_t5(tmp_path / "t5", layers=2), "encoder.block.0.", "decoder.block.0."
    model = {"base": str(base_folder), "max_length": 8, "max_new_tokens": 6}
    pipeline = make_writer(task, {"freeze_layers": 1, "max_steps": 2}, model=model)
    checkpoint, trained = train_here(pipeline, snapshots[task], tmp_path / "here")
    own, base = (load_file(folder / "model.safetensors") for folder in (checkpoint, base_folder))
    same = {name for name, weight in base.items() if np.array_equal(weight, own[name])}
    assert {name for name in base if name.startswith(first)} <= same
    assert not {name for name in base if name.startswith(rest) and name.endswith("weight")} & same
    assert trained.trained_parameters is not None
    assert trained.trained_parameters < sum(weight.size for weight in own.values())
    assert "compute in every epoch" in (tmp_path / "here" / "messages.jsonl").read_text()
