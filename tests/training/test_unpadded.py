"""Training without padding: the answers, gradients and losses of padded batches, for each type of model that can."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PreTrainedModel,
    RobertaConfig,
    TrainingArguments,
    XLMRobertaConfig,
    set_seed,
)

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import Padding, TrainingRecord
from retrainer.chain import INGEST, TRAIN, StepRef
from retrainer.errors import PipelineError
from retrainer.run.processes import run_step
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.train.trainer import FineTuner
from retrainer.work.unpadded import STARTS, OneLine, Unpadded, kernel_is_there, of_each_row, why_not
from tests.base_models import BASE_MODELS, save_base_model
from tests.chain.made import CONTEXT, in_root
from tests.training.conftest import MakePipeline, ignore, train_here

PADDING = 1
LONGEST = 60
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
WINDOWS = {**SMALL, "local_attention": 8, "global_attn_every_n_layers": 2}
CONFIGS: dict[str, Any] = {
    "bert": (BertConfig, SMALL),
    "electra": (ElectraConfig, {**SMALL, "embedding_size": 8}),
    "roberta": (RobertaConfig, {**SMALL, "type_vocab_size": 1}),
    "xlm-roberta": (XLMRobertaConfig, {**SMALL, "type_vocab_size": 1}),
    "camembert": (CamembertConfig, {**SMALL, "type_vocab_size": 1}),
    "distilbert": (DistilBertConfig, {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}),
    "modernbert": (ModernBertConfig, {**WINDOWS, "classifier_pooling": "mean"}),
    "modernbert, first token": (ModernBertConfig, {**WINDOWS, "classifier_pooling": "cls"}),
}


def model_of(kind: str) -> PreTrainedModel:
    """Without dropout, of which padded and unpadded batches draw other numbers."""
    config, values = CONFIGS[kind]
    set_seed(1)
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2)
    made = config(
        **{"vocab_size": 100, "max_position_embeddings": 64, "num_labels": 3, "pad_token_id": PADDING},
        **{"initializer_range": 0.3, **special, **values},
    )
    model = AutoModelForSequenceClassification.from_config(made)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model.train()


@pytest.fixture(scope="module", params=CONFIGS)
def kind_and_model(request: pytest.FixtureRequest) -> tuple[str, PreTrainedModel, Unpadded]:
    model = model_of(request.param)
    return request.param, model, Unpadded(model)


def rows_of(lengths: list[int], *, pairs: bool, chance: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of any ids, that of padding among them, as a text may have it."""
    rows = []
    for at, length in enumerate(lengths):
        row = {"input_ids": chance.integers(0, 90, length).tolist(), "attention_mask": [1] * length, "labels": at % 3}
        if pairs:
            row["token_type_ids"] = [int(token >= length // 2) for token in range(length)]
        rows.append(row)
    return rows


def padded(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    columns = rows[0].keys() - {"labels"}
    batch = {
        name: torch.tensor(
            [row[name] + [PADDING if name == "input_ids" else 0] * (longest - len(row[name])) for row in rows]
        )
        for name in columns
    }
    return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def answers(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    outputs = model(**batch)
    outputs.loss.backward()
    gradients = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    return outputs.logits.detach(), gradients


@settings(max_examples=10)
@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=8), st.integers(0, 99))
def test_logits_and_gradients_are_those_of_padded_batches(
    kind_and_model: tuple[str, PreTrainedModel, Unpadded], lengths: list[int], seed: int
) -> None:
    kind, model, unpadded = kind_and_model
    rows = rows_of(lengths, pairs=kind in {"bert", "electra"}, chance=np.random.default_rng(seed))
    logits, gradients = answers(model, padded(rows))
    line = unpadded.collate(rows)
    assert line["input_ids"].shape == line["position_ids"].shape == (1, sum(lengths))
    with unpadded.attending():
        of_line, gradients_of_line = answers(model, line)
    torch.testing.assert_close(of_line, logits, atol=1e-5, rtol=1e-4)
    assert gradients.keys() == gradients_of_line.keys()
    torch.testing.assert_close(gradients_of_line, gradients, atol=1e-4, rtol=1e-3)
    # The model is as it was.
    torch.testing.assert_close(answers(model, padded(rows))[0], logits, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_real_tokenizers_pairs_and_texts(kind: str, tmp_path: Path) -> None:
    folder = save_base_model(tmp_path, kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    unpadded = Unpadded(model)
    first = ["the trail is open", "rope mill", "the upper loop is closed until Monday, and muddy"]
    for second in (None, ["all week", "the lower lot is closed", ""]):
        encoded = tokenizer(first, second)
        rows = [{name: values[at] for name, values in encoded.items()} | {"labels": at} for at in range(3)]
        expected = model(**tokenizer.pad({name: list(values) for name, values in encoded.items()}, return_tensors="pt"))
        with unpadded.attending():
            found = model(**unpadded.collate(rows))
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-4)


def test_a_row_does_not_see_its_neighbours(kind_and_model: tuple[str, PreTrainedModel, Unpadded]) -> None:
    _, model, unpadded = kind_and_model
    rows = rows_of([5, 9, 3], pairs=False, chance=np.random.default_rng(0))
    others = rows_of([7, 9, 20], pairs=False, chance=np.random.default_rng(1))
    others[1] = rows[1]
    with unpadded.attending():
        one, other = (model(**unpadded.collate(batch)).logits for batch in (rows, others))
    torch.testing.assert_close(one[1], other[1], atol=1e-5, rtol=1e-4)
    assert (one[0] - other[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_what_a_gpu_is_given_is_what_the_kernel_takes(kind: str) -> None:
    """Shapes alone, on torch's device for these: forward and backward of the kernel itself."""
    assert kernel_is_there()
    assert inspect.signature(of_each_row).parameters.keys() <= inspect.signature(varlen_attn).parameters.keys()
    model = model_of(kind)
    unpadded = Unpadded(model)
    batch = unpadded.collate(rows_of([3, 9, 1], pairs=False, chance=np.random.default_rng(0)))
    assert batch[STARTS].dtype == torch.int32
    model.to("meta", torch.bfloat16)
    with unpadded.attending():
        outputs = model(**{name: one.to("meta") if name != "max_length_q" else one for name, one in batch.items()})
        outputs.loss.backward()
    assert outputs.logits.shape == (3, 3)
    assert all(part.grad is not None for part in model.parameters())


def test_positions_begin_behind_padding_and_leave_it_out() -> None:
    rows = [{"input_ids": ids, "labels": 0} for ids in ([5, PADDING, 6], [7], [8, 9])]
    assert OneLine(PADDING)(rows)["position_ids"].tolist() == [[2, 1, 3, 2, 2, 3]]
    assert OneLine(None)(rows)["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]


@pytest.mark.parametrize(
    "kind", sorted(BASE_MODELS.keys() - {"bert", "roberta", "distilbert", "electra", "modernbert"})
)
def test_other_types_are_padded(kind: str, tmp_path: Path) -> None:
    import transformers

    made = BASE_MODELS[kind]
    config = getattr(transformers, made.model).config_class(vocab_size=50, pad_token_id=0, **made.config)
    model = AutoModelForSequenceClassification.from_config(config)
    assert "is none that torch's kernel" in (why_not(model, TrainingArguments(str(tmp_path), use_cpu=True)) or "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"neftune_noise_alpha": 5.0}, "neftune"),
        ({"accelerator_config": {"split_batches": True}}, "divides batches"),
        ({}, None),
    ],
)
def test_what_stands_against_it(tmp_path: Path, arguments: dict[str, Any], why: str | None) -> None:
    found = why_not(model_of("bert"), TrainingArguments(str(tmp_path), use_cpu=True, **arguments))
    assert (found is None) == (why is None)
    assert why is None or why in (found or "")


def losses(folder: Path) -> list[float]:
    """What was logged, of training and validation rows."""
    curve = TrainingRecord.load(folder).curve
    return [loss for point in curve for loss in (point.loss, point.validation.get("loss")) if loss is not None]


@pytest.mark.long
@pytest.mark.parametrize(
    "training",
    [
        {},
        {"class_weights": "balanced", "label_smoothing_factor": 0.1},
        {"freeze_layers": 1},
        {"peft": {"dropout": 0.0}},
        {"activation_checkpointing": True, "gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 1, "train_sampling_strategy": "random", "bf16": True},
        {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 6},
    ],
    ids=lambda training: next(iter(training), "plain"),
)
def test_a_training_has_the_losses_of_a_padded_one(
    make_pipeline: MakePipeline, snapshot: StepRef, still_bert: Path, tmp_path: Path, training: dict[str, Any]
) -> None:
    common = {"logging_steps": 1, "max_steps": 20, "eval_strategy": "steps", "eval_steps": 10, **training}
    if common["max_steps"] < common["eval_steps"]:
        common |= {"eval_strategy": "no"}
    model = {"base": str(still_bert), "max_length": 32}
    for name, more in (("padded", {}), ("unpadded", {"unpadded": True})):
        train_here(make_pipeline({**common, **more}, model=model), snapshot, tmp_path / name)
    near = 0.05 if "bf16" in training else 2e-4
    assert losses(tmp_path / "unpadded") == pytest.approx(losses(tmp_path / "padded"), abs=near)
    records = [TrainingRecord.load(tmp_path / name) for name in ("padded", "unpadded")]
    assert [record.padding for record in records] == [None, Padding()]
    assert records[1].padding_fraction == 0.0
    assert (records[0].padding_fraction or 0.0) > 0.0


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_several_labels_a_row_have_the_same_loss(kind: str) -> None:
    model = model_of(kind)
    model.config.problem_type = "multi_label_classification"
    unpadded = Unpadded(model)
    rows = rows_of([5, 19, 1, 40], pairs=False, chance=np.random.default_rng(3))
    for at, row in enumerate(rows):
        row["labels"] = [float(at % 2), 1.0, float(at > 1)]
    batch = padded(rows)
    expected, gradients = answers(model, batch)
    with unpadded.attending():
        found, of_line = answers(model, unpadded.collate(rows))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(of_line, gradients, atol=1e-4, rtol=1e-3)


def pairs_of(base: Path, folder: Path) -> Pipeline:
    rows = [
        f"the trail number {at} {'and its loop ' * (at % 4)},is {state},{state}"
        for at, state in enumerate(["open", "closed", "wet"] * 20)
    ]
    (folder / "pairs.csv").write_text("\n".join(["one,other,label", *rows]) + "\n")
    content = {
        "name": "pairs",
        "task": "text-pair-classification",
        "dataset": {
            **{"train": str(folder / "pairs.csv"), "text": ["one", "other"]},
            "checks": {"min_rows": 10, "near_duplicate_similarity": None},
        },
        "model": {"base": str(base), "max_length": 32},
        "training": {"max_steps": 6, "logging_steps": 1, "eval_strategy": "no", "per_device_train_batch_size": 8},
        "publish": {"store": str(folder / "store")},
    }
    return parse_pipeline(content, where="test", base_folder=folder)


@pytest.mark.long
def test_pairs_train_the_same(still_bert: Path, tmp_path: Path) -> None:
    pipeline = pairs_of(still_bert, tmp_path)
    snapshot = run_step(INGEST.plan(pipeline, context=in_root(tmp_path / "artifacts")), on_message=ignore)
    training = pipeline.training.model_copy(update={"unpadded": True})
    unpadded = pipeline.model_copy(update={"training": training})
    for name, one in (("padded", pipeline), ("unpadded", unpadded)):
        train_here(one, snapshot, tmp_path / name)
    assert losses(tmp_path / "unpadded") == pytest.approx(losses(tmp_path / "padded"), abs=2e-4)


@contextmanager
def memory_for(rows: int, until: int) -> Iterator[None]:
    """Batches of more rows are too much, once so many steps are done."""
    train = FineTuner.training_step

    def limited(trainer: FineTuner, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        if len(inputs["labels"]) > rows and trainer.state.global_step >= until:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return train(trainer, model, inputs, *arguments, **named)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(FineTuner, "training_step", limited)
        yield


@pytest.mark.long
def test_smaller_batches_resume_from_a_checkpoint(
    make_pipeline: MakePipeline, snapshot: StepRef, still_bert: Path, tmp_path: Path
) -> None:
    common = {"max_steps": 13, "per_device_train_batch_size": 32, "unpadded": True, "eval_strategy": "no"}
    saved = {"save_strategy": "steps", "save_steps": 7}
    model = {"base": str(still_bert), "max_length": 32}
    pipeline = make_pipeline({**common, **saved}, model=model)
    whole, _ = train_here(pipeline, snapshot, tmp_path / "whole")
    with memory_for(rows=16, until=8):
        parts, trained = train_here(pipeline, snapshot, tmp_path / "parts")
    assert trained.resumed_from == "checkpoint-7"
    assert trained.smaller_batches is not None
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, parts))
    torch.testing.assert_close(other, one, atol=1e-3, rtol=1e-3)


@pytest.mark.long
def test_two_processes_make_the_same_step(
    make_pipeline: MakePipeline, snapshot: StepRef, still_bert: Path, tmp_path: Path
) -> None:
    plain = {
        "max_steps": 1, "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential", "eval_strategy": "no", "per_device_train_batch_size": 16,
    }  # fmt: skip
    model = {"base": str(still_bert), "max_length": 32}
    whole, _ = train_here(make_pipeline(plain, model=model), snapshot, tmp_path / "one")
    halves = {**plain, "per_device_train_batch_size": 8, "unpadded": True}
    two = make_pipeline(halves, model=model, resources={"processes": 2})
    ref = run_step(TRAIN.plan(two, snapshot, context=CONTEXT), on_message=ignore)
    trained = Artifacts(ref.root).fetch("train", ref.digest)
    assert TrainingRecord.load(trained).padding == Padding()
    found, expected = (load_file(folder / "model.safetensors") for folder in (trained / "checkpoint", whole))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_model_that_cannot_is_padded_and_the_record_says_why(
    make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path
) -> None:
    base = save_base_model(tmp_path / "base", "mpnet")
    model = {"base": str(base), "max_length": 32}
    train_here(make_pipeline({"unpadded": True, "max_steps": 2}, model=model), snapshot, tmp_path / "out")
    padding = TrainingRecord.load(tmp_path / "out").padding
    assert padding is not None
    assert "attention of a mpnet" in (padding.why or "")
    warned = [line for line in (tmp_path / "out" / "messages.jsonl").read_text().splitlines() if "warning" in line]
    assert any("padded: attention of a mpnet" in line for line in warned)


def test_dropout_that_is_left_out_is_said(make_pipeline: MakePipeline, snapshot: StepRef, tmp_path: Path) -> None:
    _, trained = train_here(make_pipeline({"unpadded": True, "max_steps": 2}), snapshot, tmp_path / "out")
    assert trained.padding == Padding(dropout_left_out=0.1)
    assert dict(trained.facts())["padding"] == "none; so attention has no dropout, and the model asks for 10%"


@pytest.mark.parametrize(
    ("training", "changes", "key"),
    [
        ({"neftune_noise_alpha": 5}, {}, "neftune_noise_alpha"),
        ({"fsdp": "full_shard"}, {"resources": {"processes": 2}}, "fsdp"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, {}, "deepspeed"),
        ({"trainer": "my_package.MyTrainer"}, {}, "unpadded is done by"),
        ({}, {"task": "text-generation"}, "answer with a label"),
    ],
)
def test_what_is_refused(
    make_pipeline: MakePipeline, training: dict[str, Any], changes: dict[str, Any], key: str
) -> None:
    with pytest.raises(PipelineError) as caught:
        make_pipeline({"unpadded": True, **training}, **changes)
    assert key in str(caught.value)
    assert "unpadded" in str(caught.value)
