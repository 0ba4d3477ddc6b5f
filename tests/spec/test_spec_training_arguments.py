"""The names and values under ``training``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, json_schema, parse_pipeline
from retrainer.spec.renamed_arguments import ELSEWHERE, OWNED, REMOVED, RENAMED
from retrainer.spec.training_arguments import LISTING, known_arguments, settable_arguments

# What TrainingArguments accepted in 4.20, 4.40 and 4.57 and no longer does.
OF_OLDER_VERSIONS = """
_n_gpu adafactor dispatch_batches evaluation_strategy fp16_backend fp16_opt_level fsdp_min_num_params
fsdp_transformer_layer_cls_to_wrap group_by_length half_precision_backend include_inputs_for_metrics
include_tokens_per_second jit_mode_eval logging_dir mp_parameters no_cuda overwrite_output_dir past_index
per_gpu_eval_batch_size per_gpu_train_batch_size push_to_hub_model_id push_to_hub_organization push_to_hub_token
ray_scope save_safetensors sharded_ddp split_batches torchdynamo tpu_metrics_debug tpu_num_cores use_ipex
use_legacy_prediction_loop use_mps_device warmup_ratio xpu_backend
""".split()  # noqa: SIM905


def pipeline(training: Any, **more: Any) -> Pipeline:
    return parse_pipeline(
        {
            "name": "x",
            "dataset": {"train": "d.csv"},
            "model": {"base": "m"},
            "publish": {"store": "s"},
            "training": training,
            **more,
        }
    )


def complaint(**training: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        pipeline(training)
    return caught.value.message


def test_the_listing_is_what_transformers_has():
    from tests.spec.list_training_arguments import listing, render

    assert json.loads(LISTING.read_text()) == listing(), "run python -m tests.spec.list_training_arguments"
    assert LISTING.read_text() == render()


def test_transformers_takes_what_the_listing_describes(tmp_path):
    from transformers import TrainingArguments

    values = {
        name: argument["choices"][0] if argument["choices"] else argument["default"]
        for name, argument in known_arguments().items()
        if name in settable_arguments() and not name.startswith(("fsdp", "deepspeed", "lr_scheduler"))
    }
    values["dataloader_num_workers"] = 1  # without any, some of the others are refused
    checked = pipeline({name: value for name, value in values.items() if value is not None}).training.arguments
    plain = {name: value for name, value in checked.items() if not name.startswith(("ddp", "dataloader"))}
    TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{k: v for k, v in plain.items() if k != "use_cpu"})


def test_every_name_belongs_to_one_place():
    known = set(known_arguments())
    assert set(OF_OLDER_VERSIONS).isdisjoint(known)
    assert set(OF_OLDER_VERSIONS) <= set(RENAMED) | set(REMOVED) | set(OWNED)
    for mapping in (RENAMED, REMOVED, ELSEWHERE):
        assert known.isdisjoint(mapping)
    assert set(settable_arguments()).isdisjoint(OWNED)


def test_what_an_old_name_became_exists():
    for name, new in RENAMED.items():
        assert new.split("'")[1].split(":")[0] in known_arguments(), name


@pytest.mark.parametrize("name", OF_OLDER_VERSIONS)
def test_old_names_are_explained(name: str):
    message = complaint(**{name: 1})
    assert any(words in message for words in ("today it is", "no longer has", "sets"))


def test_old_names_name_the_new():
    assert "today it is 'eval_strategy'" in complaint(evaluation_strategy="epoch")
    assert "'per_device_train_batch_size'" in complaint(per_gpu_train_batch_size=8)
    assert "'use_cpu'" in complaint(no_cuda=True)
    assert "train_sampling_strategy: group_by_length" in complaint(group_by_length=True)
    assert "processing_class" in complaint(tokenizer="x")
    assert "'warmup_steps'" in complaint(warmup_ratio=0.1)


def test_unknown_names_are_corrected():
    assert "did you mean 'learning_rate'?" in complaint(learning_rte=1e-4)
    assert "write 'per_device_train_batch_size'" in complaint(batch_size=4)
    assert "'max_length' under 'model'" in complaint(max_length=4)
    assert "did you mean 'eval_strategy'?" in complaint(evaluation_stratgy="epoch")


@pytest.mark.parametrize("name", sorted(OWNED))
def test_what_retrainer_sets_is_refused(name: str):
    assert complaint(**{name: True}).startswith(f"training.{name}: retrainer sets '{name}' itself: ")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", "fast", "expected a number, found 'fast' (text)"),
        ("learning_rate", 0, "must be above 0, found 0"),
        ("learning_rate", float("nan"), "expected a number, found nan"),
        ("learning_rate", True, "expected a number, found true"),
        ("learning_rate", None, "expected a number, found nothing (null)"),
        ("per_device_train_batch_size", 0, "must be at least 1"),
        ("per_device_train_batch_size", 2.5, "expected a whole number, found 2.5 (a number)"),
        ("max_steps", 0, "must be at least 1, found 0"),
        ("max_steps", -5, "must be at least 1, found -5"),
        ("seed", 2**32, "must be at most 4,294,967,295, found 4294967296"),
        ("seed", -1, "must be at least 0, found -1"),
        ("data_seed", 2**32, "must be at most 4,294,967,295"),
        ("per_device_train_batch_size", 10**12, "must be at most 2,147,483,647"),
        ("gradient_accumulation_steps", 10**400, "found a whole number of more than 100 digits"),
        ("num_train_epochs", 1e300, "must be at most 1,000,000"),
        ("dataloader_prefetch_factor", 0, "must be at least 1"),
        ("adam_beta1", -0.1, "must be at least 0"),
        ("bf16", 1, "expected true or false, found 1"),
        ("eval_strategy", "epochs", "'epochs' is not one of no, steps, epoch; did you mean 'epoch'?"),
        ("train_sampling_strategy", "grouped", "is not one of random, sequential, group_by_length"),
        ("lr_scheduler_type", "cosin", "did you mean 'cosine'?"),
        ("lr_scheduler_kwargs", "a.json", "expected a mapping, found 'a.json' (text)"),
        ("label_smoothing_factor", 1.0, "must be below 1"),
        ("report_to", [1], "expected a list of texts or text, found a list"),
        ("early_stopping_patience", 0, "must be at least 1"),
        ("early_stopping_patience", "x", "expected a whole number, found 'x' (text)"),
        ("parallelism_config", {}, "cannot be written in a file"),
        (
            "metric_for_best_model",
            "eval_acc",
            "neither loss nor one of metrics (accuracy, f1); did you mean 'accuracy'?",
        ),
    ],
)
def test_wrong_values(name: str, value: Any, message: str):
    text = complaint(**{name: value})
    assert text.startswith(f"training.{name}: ")
    assert message in text


@pytest.mark.parametrize(
    ("given", "name", "message"),
    [
        ({"fp16": True}, "fp16", "needs a GPU, and resources.gpus is 0"),
        ({"tf32": True}, "tf32", "needs a GPU"),
        ({"bf16_full_eval": True, "fp16_full_eval": True}, "bf16_full_eval", "together with fp16_full_eval"),
        ({"fsdp": True}, "fsdp", "resources.processes is 1"),
        ({"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor", "dataloader_num_workers is 0"),
        ({"dataloader_persistent_workers": True}, "dataloader_persistent_workers", "dataloader_num_workers is 0"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_type", "min_lr or min_lr_rate"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type", "num_decay_steps"),
        ({"optim": "galore_adamw"}, "optim", "optim_target_modules"),
        ({"eval_strategy": "no", "save_strategy": "best"}, "save_strategy", "'best' needs evaluations"),
        ({"eval_strategy": "no", "lr_scheduler_type": "greedy"}, "lr_scheduler_type", "'greedy' needs evaluations"),
        ({"eval_strategy": "no", "load_best_model_at_end": True}, "load_best_model_at_end", "it needs evaluations"),
        ({"eval_strategy": "no", "early_stopping_patience": 1}, "early_stopping_patience", "stopping early needs"),
        ({"eval_strategy": "steps", "save_strategy": "epoch"}, "save_strategy", "eval_strategy is steps"),
        ({"eval_strategy": "steps", "eval_steps": 3}, "save_steps", "500 is not a multiple of eval_steps, 3"),
        ({"save_strategy": "steps", "save_steps": 0.1, "eval_steps": 5}, "save_steps", "0.1 is not a multiple"),
        ({"logging_steps": 2.5}, "logging_steps", "must be a whole number, or a share of all steps below 1"),
    ],
)
def test_arguments_that_do_not_work_together(given: dict[str, Any], name: str, message: str):
    text = complaint(**given)
    assert text.startswith(f"training.{name}: ")
    assert message in text


@pytest.mark.parametrize("sharing", [{"split_batches": True}, {"dispatch_batches": True}, {"even_batches": False}])
def test_rows_are_shared_out_in_one_way(sharing: dict[str, bool]):
    training = {"accelerator_config": sharing}
    assert pipeline(training).training.arguments["accelerator_config"] == sharing
    with pytest.raises(PipelineError, match="would share out rows otherwise"):
        pipeline(training, resources={"processes": 2})


@pytest.mark.parametrize(
    "given",
    [
        {"eval_strategy": "steps", "save_steps": 20},
        {"save_strategy": "steps", "save_steps": 7},
        {"eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.2},
        {"eval_strategy": "epoch", "save_strategy": "steps", "load_best_model_at_end": False},
        {"save_strategy": "best"},
        {"bf16": True},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 0}},
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2},
        {"max_steps": -1},
    ],
)
def test_arguments_that_work_together(given: dict[str, Any], tmp_path):
    """transformers takes what passes."""
    from retrainer.work.training_arguments import training_arguments

    training_arguments(pipeline(given), tmp_path, has_validation=True)


@pytest.mark.parametrize("value", ["epoch", "steps"])
def test_evaluations_need_validation_rows(value: str):
    document = {
        "name": "x",
        "dataset": {"train": "d.csv", "split": {"validation": 0}},
        "model": {"base": "m"},
        "publish": {"store": "s"},
    }
    assert parse_pipeline(document).training.arguments == {}
    with pytest.raises(PipelineError, match=f"eval_strategy: '{value}' needs validation rows, and there are none"):
        parse_pipeline({**document, "training": {"eval_strategy": value}})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", "5e-5", 5e-5),
        ("num_train_epochs", 3.0, 3),
        ("num_train_epochs", "0.5", 0.5),
        ("logging_steps", "10", 10),
        ("bf16", "yes", True),
        ("save_total_limit", None, None),
        ("report_to", ["tensorboard"], ["tensorboard"]),
        ("report_to", "none", "none"),
        ("metric_for_best_model", "eval_f1", "eval_f1"),
        ("metric_for_best_model", "loss", "loss"),
        ("lr_scheduler_kwargs", {"num_cycles": 2}, {"num_cycles": 2}),
        ("eval_strategy", "no", "no"),
        ("include_num_input_tokens_seen", True, True),
    ],
)
def test_right_values(name: str, value: Any, expected: Any):
    arguments = pipeline({name: value}).training.arguments
    assert arguments == {name: expected}
    assert type(arguments[name]) is type(expected)


def test_flat_and_packed_are_the_same():
    flat = pipeline({"seed": 1, "early_stopping_patience": 2})
    assert pipeline(flat.training.model_dump()) == flat
    assert pipeline(None).training.arguments == {}
    assert "expected a mapping" in complaint(arguments=3)


def test_schema_has_no_references_and_flat_training():
    schema = json_schema()
    text = json.dumps(schema)
    assert "$ref" not in text
    assert "$defs" not in text
    training = schema["properties"]["training"]["properties"]
    assert set(training) == set(settable_arguments())
    assert training["eval_strategy"]["enum"] == ["no", "steps", "epoch"]
    assert training["learning_rate"]["type"] == "number"
    assert "hub" in schema["properties"]["dataset"]["properties"]


def described(schema: dict[str, Any], path: str = "") -> list[str]:
    missing = []
    for name, inner in schema.get("properties", {}).items():
        if not inner.get("description"):
            missing.append(f"{path}{name}")
        missing += described(inner, f"{path}{name}.")
    return missing


def test_every_key_is_described():
    assert described(json_schema()) == []


def test_the_schema_agrees_with_the_records():
    jsonschema = pytest.importorskip("jsonschema")
    valid = {
        "name": "x",
        "dataset": {"train": "d.csv", "text": ["a", "b"]},
        "task": "text-pair-classification",
        "model": {"base": "m"},
        "publish": {"store": "s"},
        "training": {"seed": 1, "early_stopping_patience": 2},
    }
    jsonschema.validate(valid, json_schema())
    hub = {**valid, "dataset": {"hub": {"path": "glue"}, "text": ["a", "b"]}}
    jsonschema.validate(hub, json_schema())
    parse_pipeline(hub)
    for wrong in ({"training": {"sede": 1}}, {"dataset": {"text": "a"}}, {"export": {"precisions": ["fp64"]}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**valid, **wrong}, json_schema())
        with pytest.raises(PipelineError):
            parse_pipeline({**valid, **wrong})


@pytest.mark.parametrize(
    ("training", "place", "said"),
    [
        ({"freeze_layers": 0}, "freeze_layers", "at least 1"),
        ({"freeze_layers": "most"}, "freeze_layers", "half"),
        ({"freeze_cache_gb": -1}, "freeze_cache_gb", "at least 0"),
        ({"freeze_cache_gb": 1}, "freeze_cache_gb", "freeze_layers is not given"),
        ({"callbacks": "MyCallback"}, "callbacks[0]", "as 'my_package.MyClass'"),
        ({"warm_start": "best"}, "warm_start", "one of none, champion"),
        ({"peft": {"rank": 4}}, "peft", "unknown key 'rank'"),
        ({"peft": {}, "freeze_layers": 1}, "freeze_layers", "together with peft"),
        ({"freeze_layers": 1, "neftune_noise_alpha": 5}, "neftune_noise_alpha", "with freeze_layers they do not"),
        ({"peft": {}, "deepspeed": {"a": 1}}, "deepspeed", "together with peft"),
    ],
)
def test_what_is_ours_is_checked_as_well(training: dict[str, Any], place: str, said: str) -> None:
    with pytest.raises(PipelineError) as caught:
        pipeline(training)
    assert f"training.{place}" in str(caught.value)
    assert said in str(caught.value)
