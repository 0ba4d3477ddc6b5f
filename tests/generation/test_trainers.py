"""Trainers from Python: used as their documentation uses them, what they refuse, what they honour."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

import retrainer
from retrainer.errors import DataError, ModelError, PipelineError
from retrainer.trainers import BaseTrainer, ClassificationTrainer, GenerationModelTrainer
from retrainer.work.train.choices import checked
from tests.generation import tiny

HAS_ENCODER = {"text2text-generation": True, "text-generation": False}
EACH_KIND = pytest.mark.parametrize("task", HAS_ENCODER)


def rows(count: int = 40, *, longest: int = 3, seed: int = 3) -> datasets.Dataset:
    made = tiny.rows(count, longest=longest, seed=seed)
    return datasets.Dataset.from_dict(
        {"model_input": [text for text, _ in made], "model_output": [output for _, output in made]}
    )


def train(bases: dict[str, Path], task: str, training: Sequence[Any], **choices: Any) -> Any:
    trainer = GenerationModelTrainer(str(bases[task]), HAS_ENCODER[task])
    return trainer.train_model(training, {"max_steps": 2, **choices})


@EACH_KIND
def test_as_its_documentation_uses_it(bases: dict[str, Path], tmp_path: Path, task: str) -> None:
    training_datasets = [rows(30), rows(30, seed=4)]
    hyperparameter_choices = {
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "save_strategy": "epoch",
        "save_total_limit": 1,
    }
    trainer = retrainer.GenerationModelTrainer(str(bases[task]), HAS_ENCODER[task], 32)
    trained_model, trained_tokenizer = trainer.train_model(training_datasets, hyperparameter_choices)
    assert isinstance(trained_model, PreTrainedModel)
    read = trained_tokenizer("red car", return_tensors="pt")
    assert trained_model.generate(read["input_ids"], max_new_tokens=3).shape[0] == 1
    # 60 rows are four batches an epoch; of two checkpoints one is kept.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-8"]
    assert issubclass(retrainer.GenerationModelTrainer, retrainer.BaseTrainer)


@EACH_KIND
def test_the_seed_decides_everything(bases: dict[str, Path], task: str) -> None:
    weights = [train(bases, task, [rows()], seed=seed)[0].state_dict() for seed in (1, 1, 2)]
    same, other = (all(torch.equal(weights[0][name], again[name]) for name in again) for again in weights[1:])
    assert same
    assert not other


WRONG: dict[str, tuple[Any, type[Exception], list[str]]] = {
    "no dataset": ([], DataError, ["training_datasets", "the list of datasets is empty", "at least one"]),
    "not a list": (rows(3), DataError, ["expected a list of datasets", "put it into a list"]),
    "splits": ([datasets.DatasetDict(train=rows(3))], DataError, ["training_datasets[0]", "one of its splits"]),
    "nearly the column": (
        [rows(3), rows(3).rename_column("model_input", "model_inputs")],
        DataError,
        ["training_datasets[1]", "no column 'model_input'", "did you mean 'model_inputs'?", "model_output"],
    ),
    "no rows": ([rows(3).select([])], DataError, ["training_datasets[0]", "no rows"]),
    "no output": (
        [datasets.Dataset.from_dict({"model_input": ["a", "b"], "model_output": ["a", None]})],
        DataError,
        ["training_datasets[0], row 1", "'model_output'"],
    ),
    "numbers": (
        [datasets.Dataset.from_dict({"model_input": [1, 2], "model_output": ["a", "b"]})],
        DataError,
        ["row 0", "'model_input'", "where text is expected"],
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_datasets_are_one_clear_error(bases: dict[str, Path], mistake: str) -> None:
    given, kind, words = WRONG[mistake]
    with pytest.raises(kind) as caught:
        train(bases, "text-generation", given)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"learning_rat": 1e-3}, ["hyperparameter_choices", "did you mean 'learning_rate'?"]),
        ({"train_epochs": 2, "batch": 3}, ["train_epochs", "batch", "num_train_epochs"]),
        ({"evaluation_strategy": "epoch"}, ["eval_strategy"]),
        ({"learning_rate": "fast"}, ["learning_rate", "expected a number"]),
        ({"eval_strategy": "epoch"}, ["eval_strategy", "needs validation rows"]),
        ({"trainer": "a.B"}, ["'trainer' is not an argument"]),
    ],
)
def test_unknown_hyperparameters_name_the_nearest(
    bases: dict[str, Path], choices: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(PipelineError) as caught:
        train(bases, "text-generation", [rows(4)], **choices)
    for word in words:
        assert word in str(caught.value)


@EACH_KIND
def test_has_encoder_must_be_what_the_configuration_says(bases: dict[str, Path], task: str) -> None:
    trainer = GenerationModelTrainer(str(bases[task]), has_encoder=not HAS_ENCODER[task])
    with pytest.raises(ModelError, match="encoder"):
        trainer.train_model([rows(4)], {})


@EACH_KIND
def test_what_is_cut_is_counted_and_warned_of(
    bases: dict[str, Path], task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    long = datasets.Dataset.from_dict({"model_input": [" ".join(tiny.WORDS * 2)] * 2, "model_output": ["a", "red"]})
    trainer = GenerationModelTrainer(str(bases[task]), HAS_ENCODER[task], 16)
    trainer.train_model([rows(10), long], {"max_steps": 1})
    assert "warning: 2 of 12 train inputs are longer than" in capsys.readouterr().err
    GenerationModelTrainer(str(bases[task]), HAS_ENCODER[task]).train_model([rows(10), long], {"max_steps": 1})
    assert "were cut" not in capsys.readouterr().err
    if not HAS_ENCODER[task]:
        with pytest.raises(PipelineError, match="model_max_length: 65 tokens"):
            GenerationModelTrainer(str(bases[task]), False, 65).train_model([rows(10)], {})


@EACH_KIND
def test_validation_datasets_choose_the_best_checkpoint(bases: dict[str, Path], tmp_path: Path, task: str) -> None:
    # By the largest loss, so that it is not the newest.
    choices: dict[str, Any] = {"output_dir": str(tmp_path), "num_train_epochs": 3, "learning_rate": 1e-3}
    choices |= {"metric_for_best_model": "loss", "greater_is_better": True}
    trainer = GenerationModelTrainer(str(bases[task]), HAS_ENCODER[task])
    model, _ = trainer.train_model([rows()], choices, validation_datasets=[rows(9, seed=8)])
    newest = max(tmp_path.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    best = json.loads((newest / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert best != str(newest)
    weights = type(model).from_pretrained(best).state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())


def test_every_name_of_training_arguments_is_taken() -> None:
    """Each with its own default, so that none is refused for its name."""
    arguments = TrainingArguments(output_dir="out", use_cpu=True)
    for field in fields(TrainingArguments):
        if not field.init:
            continue
        given = checked({field.name: getattr(arguments, field.name)})
        assert {**given.arguments, **given.more}.keys() == {field.name}


def test_what_only_python_can_give_reaches_the_training(bases: dict[str, Path], tmp_path: Path) -> None:
    choices: dict[str, Any] = {"output_dir": str(tmp_path / "out"), "save_strategy": "steps", "save_steps": 2}
    choices |= {"max_steps": 4}
    straight, _ = train(bases, "text-generation", [rows()], **choices)
    choices |= {"output_dir": str(tmp_path / "again")}
    before = str(tmp_path / "out" / "checkpoint-2")
    resumed, _ = train(bases, "text-generation", [rows()], **choices, resume_from_checkpoint=before)
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["checkpoint-4"]
    first, second = straight.state_dict(), resumed.state_dict()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    small = tmp_path / "small"
    train(bases, "text-generation", [rows()], output_dir=str(small), save_strategy="steps", save_only_model=True)
    assert not list(small.rglob("optimizer.pt"))
    assert list(small.rglob("model.safetensors"))


def test_a_classifier(tiny_bert: Path) -> None:
    texts = ["the trail is open", "the trail is closed"] * 8
    kind = datasets.ClassLabel(names=["open", "closed"])
    by_index = datasets.Dataset.from_dict({"text": texts, "label": [0, 1] * 8}).cast_column("label", kind)
    by_name = datasets.Dataset.from_dict({"text": texts, "label": ["open", "closed"] * 8})
    trainer = ClassificationTrainer(str(tiny_bert), 16)
    model, tokenizer = trainer.train_model([by_index], {"max_steps": 1})
    assert model.config.id2label == {0: "open", 1: "closed"}
    model, _ = trainer.train_model([by_name], {"num_train_epochs": 1}, validation_datasets=[by_name])
    assert model.config.id2label == {0: "closed", 1: "open"}
    assert tokenizer(texts[0])["input_ids"]
    with pytest.raises(DataError, match="label 'shut' is not in the training datasets"):
        other = datasets.Dataset.from_dict({"text": texts[:1], "label": ["shut"]})
        trainer.train_model([by_name], {}, validation_datasets=[other])


class Bare(BaseTrainer):
    """Its ``__init__`` calls no other."""

    def __init__(self) -> None:
        pass

    def train_model(self, training_datasets: Any, hyperparameter_choices: Any) -> Any:
        raise NotImplementedError


def test_each_trainer_has_a_run_of_its_own() -> None:
    one, other = Bare(), Bare()
    one.run.rows_seen = 7
    assert one.run is one.run
    assert (one.run.rows_seen, other.run.rows_seen, GenerationModelTrainer("base", True).run.rows_seen) == (7, 0, 0)


class Steps(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.seen = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen += 1


def test_callbacks_of_the_run_are_called(bases: dict[str, Path]) -> None:
    trainer = GenerationModelTrainer(str(bases["text-generation"]), False)
    steps = Steps()
    trainer.run.callbacks.append(steps)
    trainer.train_model([rows(8)], {"max_steps": 2})
    assert steps.seen == 2


def test_base_trainer_is_abstract() -> None:
    with pytest.raises(TypeError, match="train_model"):
        BaseTrainer("base")  # type: ignore[abstract]


def test_what_does_not_say_how_much_it_takes_is_cut_at_512_tokens(
    bases: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    long = datasets.Dataset.from_dict({"model_input": ["red " * 1000], "model_output": ["a red car"]})
    model, _ = train(bases, "text2text-generation", [long], max_steps=1)
    assert "1 of 1 train inputs are longer than 512" in capsys.readouterr().err
    assert model.generation_config.max_new_tokens <= 5
