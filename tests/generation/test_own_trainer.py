"""``training.trainer``: somebody's own trainer in the train step, with its checkpoints, progress and digests."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSeq2SeqLM

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import TRAIN, StepRef
from retrainer.cli.pipeline_commands import check_file
from retrainer.errors import ModelError, PipelineError, TrainingError
from tests.chain.made import CONTEXT, planned
from tests.generation.conftest import MakeWriter
from tests.training.conftest import train_here

TASK = "text2text-generation"

CODE = '''
import os

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq
from transformers import Trainer, TrainerCallback, TrainingArguments

from retrainer import BaseTrainer, GenerationModelTrainer


class Accident(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if str(state.global_step) == os.environ.get("ACCIDENT_AT"):
            raise RuntimeError("the lights went out")


class Mine(BaseTrainer):
    """A loop of its own, without anything of retrainer's but what the run gives."""

    def train_model(self, training_datasets, hyperparameter_choices):
        tokenizer = AutoTokenizer.from_pretrained(self.pretrained_model_name)
        model = AutoModelForSeq2SeqLM.from_pretrained(self.pretrained_model_name)

        def encode(row):
            inputs = tokenizer(row["model_input"], truncation=True, max_length=self.model_max_length)
            return {**inputs, "labels": tokenizer(text_target=row["model_output"])["input_ids"]}

        (rows,) = training_datasets
        rows = rows.map(encode, remove_columns=rows.column_names)
        validation = self.run.validation.map(encode, remove_columns=self.run.validation.column_names)
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**hyperparameter_choices),
            train_dataset=rows,
            eval_dataset=validation,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
            callbacks=[*self.run.callbacks, Accident()],
        )
        trainer.train(resume_from_checkpoint=self.run.resume_from)
        return trainer.model, tokenizer


class Shouting(GenerationModelTrainer):
    """Ours, with one thing changed."""

    def train_model(self, training_datasets, hyperparameter_choices):
        shouted = [rows.map(lambda row: {"model_output": "here"}) for rows in training_datasets]
        return super().train_model(shouted, hyperparameter_choices | {"learning_rate": 2e-2})


class Abstract(BaseTrainer):
    pass


class OfNothing(BaseTrainer):
    def __init__(self):
        pass

    def train_model(self, training_datasets, hyperparameter_choices):
        return None, None


class Empty(BaseTrainer):
    def train_model(self, training_datasets, hyperparameter_choices):
        return None, None


class NoTrainer:
    pass
'''


@pytest.fixture
def my_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a user, which says when it is imported."""
    folder = tmp_path / "packages" / "my_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from my_package.trainers import *\n")
    (folder / "trainers.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("PYTHONPATH", str(folder.parent), prepend=os.pathsep)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def test_a_trainer_of_ones_own_resumes_and_leaves_what_ours_leaves(
    make_writer: MakeWriter,
    snapshots: dict[str, StepRef],
    my_package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 5, "save_total_limit": 1}
    pipeline = make_writer(TASK, {"trainer": "my_package.trainers.Mine", **steps})
    request = planned(TRAIN.plan(pipeline, snapshots[TASK], context=CONTEXT))
    root = str(tmp_path / "root")
    work = Artifacts(root).work_folder("train", request.digest)
    monkeypatch.setenv("ACCIDENT_AT", "13")
    with pytest.raises(TrainingError, match="the lights went out"):
        train_here(pipeline, snapshots[TASK], tmp_path / "first", root=root)
    monkeypatch.delenv("ACCIDENT_AT")
    # What a kill in the middle of a save leaves behind.
    (work / "checkpoint-12").mkdir()
    checkpoint, _ = train_here(pipeline, snapshots[TASK], tmp_path / "here", root=root)
    record = TrainingRecord.load(tmp_path / "here")
    assert record.resumed_from == "checkpoint-10"
    assert (record.epochs, record.steps) == (4, 56)
    assert record.validation["loss"] > 0
    assert record.rows_per_second > 0
    said = [json.loads(line) for line in (tmp_path / "here" / "messages.jsonl").read_text().splitlines()]
    assert any(line["kind"] == "progress" and line["done"] == line["total"] == 56 for line in said)
    assert any(line["kind"] == "metrics" for line in said)
    assert AutoModelForSeq2SeqLM.from_pretrained(checkpoint).config.d_model == 32
    assert (checkpoint / "tokenizer.json").is_file()
    assert len(list(work.glob("checkpoint-*"))) <= 2, "old ones are deleted"


def test_its_code_is_part_of_what_identifies_a_training(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], my_package: Path
) -> None:
    def digest(trainer: str | None) -> str:
        pipeline = make_writer(TASK, {"trainer": trainer})
        return TRAIN.plan(pipeline, snapshots[TASK], context=CONTEXT).digest

    names = (None, "my_package.trainers.Mine", "my_package.trainers.Empty", "my_package.Mine")
    before = {digest(name) for name in names}
    assert len(before) == 4
    (my_package / "trainers.py").write_text(CODE + "# another\n")
    assert digest("my_package.trainers.Mine") not in before
    assert digest("my_package.Mine") not in before, "it comes from there"
    assert digest(None) in before
    assert "my_package" not in sys.modules, "planning imports nobody's code"


def test_a_subclass_of_ours_changes_one_thing_and_keeps_the_rest(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], my_package: Path, tmp_path: Path
) -> None:
    pipeline = make_writer(TASK, {"trainer": "my_package.Shouting", "num_train_epochs": 2})
    checkpoint, trained = train_here(pipeline, snapshots[TASK], tmp_path / "here")
    assert trained.epochs == 2
    assert set(trained.metrics) == {"loss", "exact_match"}
    assert json.loads((checkpoint / "generation_config.json").read_text())["max_new_tokens"] == 6


@pytest.mark.parametrize(("trainer", "state"), [("my_package.Mine", "ok"), ("my_packages.Mine", "broken")])
def test_check_looks_for_its_module(
    make_writer: MakeWriter, my_package: Path, tmp_path: Path, trainer: str, state: str
) -> None:
    pipeline = make_writer(TASK, {"trainer": trainer})
    (tmp_path / "pipeline.yaml").write_text(pipeline.to_json().decode())
    assert {found.what: found.state for found in check_file(tmp_path / "pipeline.yaml")}["trainer"] == state
    assert "my_package" not in sys.modules


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        ("no_such_package.Mine", ["there is no Python module 'no_such_package'", "PYTHONPATH"]),
        ("my_package.no_such.Mine", ["there is no Python module 'my_package.no_such'"]),
        ("Mine", ["does not say where the class is", "my_package.MyTrainer"]),
        ("my_package.trainers.Shoutin", ["has no 'Shoutin'", "did you mean 'Shouting'?"]),
        ("my_package.trainers.NoTrainer", ["is not a subclass of retrainer.BaseTrainer"]),
        ("my_package.trainers.Abstract", ["has no train_model"]),
        ("my_package.trainers.OfNothing", ["cannot be made", "for_pipeline"]),
        ("my_package.trainers.Empty", ["gave a NoneType as model"]),
    ],
)
def test_a_trainer_that_cannot_train_is_one_clear_error(
    make_writer: MakeWriter, snapshots: dict[str, StepRef], my_package: Path, tmp_path: Path, trainer: str, words: Any
) -> None:
    with pytest.raises((PipelineError, ModelError)) as caught:
        train_here(make_writer(TASK, {"trainer": trainer, "max_steps": 1}), snapshots[TASK], tmp_path / "here")
    assert caught.value.where == "writer: training.trainer"
    for word in words:
        assert word in str(caught.value)
