"""``training.auto``: what is chosen for described machines, that what is given stays, and that the record says it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
from transformers import TrainingArguments

from retrainer.artifacts.training import TrainingRecord, Tried
from retrainer.chain import TRAIN, StepRef
from retrainer.errors import PipelineError
from retrainer.serve.processor import FEATURES, cpu_features
from retrainer.spec.training import Training
from retrainer.work.train import automatic
from retrainer.work.train.automatic import (
    BF16_INSTRUCTIONS,
    LONG_RUN_BATCHES,
    Hardware,
    Run,
    as_before,
    chosen,
    padding_of,
    run_of,
    this_machine,
    why_not_compiled,
)
from retrainer.work.train.loading import Base
from tests.chain.made import CONTEXT, planned
from tests.training.conftest import MakePipeline, train_here
from tests.training.test_unpadded import memory_for, model_of

H100 = Hardware("cuda", "NVIDIA H100", (9, 0), cores=16, tf32=True)
MI300 = Hardware("cuda", "AMD Instinct MI300X", (9, 4), cores=16)
NO_COMPILER = Hardware("cuda", "NVIDIA H100", (9, 0), cores=16, tf32=True, why_not_compiled="there is no C compiler")
T4 = Hardware("cuda", "Tesla T4", (7, 5), cores=2)
AMX = Hardware("cpu", "the processor", instructions=frozenset({"amx_bf16"}), cores=2)
ZEN4 = Hardware("cpu", "the processor", instructions=frozenset({"avx512_bf16"}), cores=16)
AVX2 = Hardware("cpu", "the processor", cores=2)
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
        (MI300, LONG, {**ON_H100, "tf32": False, "torch_compile": True}),
        (NO_COMPILER, LONG, {**ON_H100, "torch_compile": False}),
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


def test_what_a_compiler_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert "is older than" in (why_not_compiled("Tesla P100", (6, 0)) or "")
    monkeypatch.setitem(sys.modules, "triton", None)
    assert why_not_compiled("T4", (7, 5)) == "Triton is not installed"
    monkeypatch.setitem(sys.modules, "triton", sys)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no C compiler" in (why_not_compiled("T4", (7, 5)) or "")
    (tmp_path / "gcc").touch(0o755)
    assert why_not_compiled("T4", (7, 5)) is None


def test_a_resumed_training_keeps_what_changes_numbers() -> None:
    training = Training(auto=True)
    h100, t4 = (Tried(step=0, chosen=chosen(training, one, SHORT)) for one in (H100, T4))
    kept = {choice.argument: choice.value for choice in as_before(h100.chosen, t4)}
    assert kept == {**ON_H100, "bf16": False, "tf32": False, "torch_compile": False}
    other = as_before(t4.chosen, h100)
    assert [choice.value for choice in other] == [choice.value for choice in t4.chosen]
    assert [choice.argument for choice in other if "before it was resumed it was true" in choice.why] == [
        "bf16",
        "tf32",
    ]
    assert as_before(h100.chosen, Tried(step=0)) == h100.chosen


@pytest.mark.long
@pytest.mark.parametrize("earlier", [False, True])
def test_both_tries_are_in_the_record(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    """The second machine computes in bf16 where the first did not, or the other way round; memory runs out between."""
    able, unable = (replace(one, cores=1) for one in (AMX, AVX2))
    machines = iter((able, unable) if earlier else (unable, able))
    runs: list[Run] = []

    def noted(training: Training, hardware: Hardware, run: Run) -> Any:
        runs.append(run)
        return chosen(training, hardware, run)

    monkeypatch.setattr(automatic, "this_machine", lambda pipeline: next(machines))
    monkeypatch.setattr(automatic, "chosen", noted)
    saved = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "no", "num_train_epochs": 1}
    pipeline = make_pipeline({"auto": True, **saved})
    with memory_for(rows=4, until=6):
        _, trained = train_here(pipeline, snapshot, tmp_path / "out")
    assert trained.resumed_from == "checkpoint-4"
    assert runs[0] == runs[1]
    tries = TrainingRecord.load(tmp_path / "out").tries
    bf16 = [next(choice.value for choice in tried.chosen if choice.argument == "bf16") for tried in tries]
    assert bf16 == ([True, False] if earlier else [False])
    assert [tried.step for tried in tries] == ([0, 4] if earlier else [0])
    said = (tmp_path / "out" / "messages.jsonl").read_text()
    assert ("the choices differ from those that checkpoint-4" in said) == earlier


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
