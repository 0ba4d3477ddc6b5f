"""``training.auto``: what is chosen for described machines, that what is given stays, and that the record says it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainingArguments

from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import TRAIN, StepRef
from retrainer.errors import PipelineError
from retrainer.serve.processor import FEATURES, cpu_features
from retrainer.spec.model import Training
from retrainer.work.train.automatic import (
    BF16_INSTRUCTIONS,
    LONG_RUN_BATCHES,
    Hardware,
    Run,
    chosen,
    padding_of,
    run_of,
    this_machine,
)
from retrainer.work.train.loading import Base
from tests.chain.made import CONTEXT, planned
from tests.training.conftest import MakePipeline, train_here
from tests.training.test_unpadded import model_of

H100 = Hardware("cuda", "NVIDIA H100", (9, 0), cores=16)
T4 = Hardware("cuda", "Tesla T4", (7, 5), cores=2)
AMX = Hardware("cpu", "the processor", instructions=frozenset({"amx_bf16"}), cores=2)
ZEN4 = Hardware("cpu", "the processor", instructions=frozenset({"avx512_bf16"}), cores=16)
AVX2 = Hardware("cpu", "the processor", cores=2)
APPLE = Hardware("mps", "Apple M3", cores=8)
ALWAYS = {"optim": "adamw_torch_fused", "train_sampling_strategy": "group_by_length"}
ON_H100 = {**ALWAYS, "bf16": True, "tf32": True, "dataloader_num_workers": 2, "dataloader_persistent_workers": True}
LONG, SHORT = Run(LONG_RUN_BATCHES), Run(LONG_RUN_BATCHES - 1)


def values(hardware: Hardware, run: Run = SHORT, **training: Any) -> dict[str, Any]:
    choices = chosen(Training(auto=True, **training), hardware, run)
    assert all(choice.why for choice in choices)
    return {choice.argument: choice.value for choice in choices}


@pytest.mark.parametrize(
    ("hardware", "run", "expected"),
    [
        (H100, SHORT, {**ON_H100, "torch_compile": False}),
        (H100, LONG, {**ON_H100, "torch_compile": True}),
        (T4, SHORT, {**ALWAYS, "bf16": False, "tf32": False, "dataloader_num_workers": 0, "torch_compile": False}),
        (AMX, LONG, {**ALWAYS, "bf16": True}),
        (ZEN4, LONG, {**ALWAYS, "bf16": True}),
        (AVX2, LONG, {**ALWAYS, "bf16": False}),
        (APPLE, LONG, {**ALWAYS, "bf16": False}),
    ],
)
def test_what_is_chosen(hardware: Hardware, run: Run, expected: dict[str, Any]) -> None:
    assert values(hardware, run) == expected


@pytest.mark.parametrize(
    ("given", "left_alone"),
    [
        ({"bf16": False}, {"bf16"}),
        ({"fp16": True}, {"bf16"}),
        ({"tf32": False}, {"tf32"}),
        ({"optim": "sgd"}, {"optim"}),
        ({"train_sampling_strategy": "random"}, {"train_sampling_strategy"}),
        ({"dataloader_num_workers": 0}, {"dataloader_num_workers", "dataloader_persistent_workers"}),
        ({"dataloader_persistent_workers": False}, {"dataloader_persistent_workers"}),
        ({"torch_compile": False}, {"torch_compile"}),
        ({"torch_compile_mode": "default"}, {"torch_compile"}),
    ],
)
def test_what_is_given_stays(given: dict[str, Any], left_alone: set[str]) -> None:
    assert values(H100, LONG, arguments=given).keys() == values(H100, LONG).keys() - left_alone


@pytest.mark.parametrize("training", [{"freeze_layers": 1}, {"peft": {}}])
def test_nothing_is_compiled_where_only_a_part_learns(training: dict[str, Any]) -> None:
    assert values(H100, LONG, **training)["torch_compile"] is False


def test_reasons_name_the_machine_and_the_run() -> None:
    lines = {choice.argument: choice.line() for choice in chosen(Training(auto=True), T4, Run(120))}
    assert lines["bf16"] == "bf16 false (Tesla T4 has no bf16)"
    assert lines["torch_compile"] == "torch_compile false (120 batches are too few to make up for compiling)"


def test_how_much_a_run_has_to_do(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline({"num_train_epochs": 3})
    assert run_of(pipeline, 12_000, batch=16, devices=1) == Run(2_250)
    assert run_of(pipeline, 12_000, batch=16, devices=2) == Run(1_125)
    steps = make_pipeline({"max_steps": 500, "gradient_accumulation_steps": 4})
    assert run_of(steps, 12_000, batch=16, devices=1) == Run(2_000)


def test_the_default_of_a_bundle_is_not_moved_by_these_instructions() -> None:
    assert not BF16_INSTRUCTIONS & FEATURES
    assert not BF16_INSTRUCTIONS & set(cpu_features())


def test_without_padding_only_where_it_is_faster_or_asked_for(make_pipeline: MakePipeline, tmp_path: Any) -> None:
    """On a processor rows that are grouped by length are as fast, so nobody's attention loses its dropout for it."""
    base = Base(model_of("bert"), tokenizer=None)  # not looked at
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    for training, asked in (({}, False), ({"auto": True}, True), ({"auto": True, "unpadded": False}, False)):
        unpadded, padding = padding_of(make_pipeline(training), base, None, arguments)
        assert unpadded is None
        assert (padding is not None) == asked


def test_a_training_says_what_it_chose(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Any) -> None:
    pipeline = make_pipeline({"auto": True, "max_steps": 4, "train_sampling_strategy": "random"})
    _, trained = train_here(pipeline, snapshot, tmp_path / "out")
    record = TrainingRecord.load(tmp_path / "out")
    here = this_machine(pipeline)
    assert trained.chosen == record.chosen == chosen(pipeline.training, here, Run(4))
    assert {choice.argument for choice in record.chosen} >= {"bf16", "optim"}
    assert "train_sampling_strategy" not in {choice.argument for choice in record.chosen}
    said = (tmp_path / "out" / "messages.jsonl").read_text()
    facts = dict(trained.facts())
    for choice in record.chosen:
        assert f"training.auto: {choice.line()}" in said
        assert choice.line() in facts["chosen"]
    if here.device == "cpu":
        assert facts["padding"].startswith("padded: a processor is not faster without it")


def test_it_is_part_of_what_a_training_is_only_where_it_is_on(make_pipeline: MakePipeline, snapshot: StepRef) -> None:
    def identity(training: dict[str, Any]) -> Any:
        return planned(TRAIN.plan(make_pipeline(training), snapshot, context=CONTEXT)).identity["training"]

    assert identity({}) == identity({"auto": False})
    assert identity({"auto": True})["auto"] is True
    assert identity({"unpadded": True})["unpadded"] is True


@pytest.mark.parametrize("training", [{"auto": "always"}, {"unpadded": "some"}])
def test_values_that_are_refused(make_pipeline: MakePipeline, training: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=next(iter(training))):
        make_pipeline(training)


def test_a_trainer_of_ones_own_chooses_itself(make_pipeline: MakePipeline) -> None:
    with pytest.raises(PipelineError, match=r"auto is done by the training that training.trainer takes the place of"):
        make_pipeline({"auto": True, "trainer": "my_package.MyTrainer"})
