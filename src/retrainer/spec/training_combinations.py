"""What follows from the arguments of a training, and which of them do not work together or with the rest of a pipeline.

transformers finds much of this too, but only once the data is read and the model is loaded. Not here: single values
(``training_arguments.py``), and what depends on the training's libraries (``work/train/rehearsal.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retrainer.errors import PipelineError
from retrainer.spec.known_metrics import lower_is_better
from retrainer.spec.lora import EVERY_LINEAR
from retrainer.spec.problems import Problem
from retrainer.spec.training_arguments import DEFAULTS, known_arguments
from retrainer.tasks import TASKS

if TYPE_CHECKING:
    from retrainer.spec.model import Pipeline
    from retrainer.spec.training import Training

# Schedules that change the learning rate by the scores of evaluations.
_BY_SCORE = frozenset({"reduce_lr_on_plateau", "greedy"})
_EXCLUSIVE = (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval"), ("fsdp", "deepspeed"))
_GPU_ONLY = ("fp16", "tf32")
# What batches without padding cannot do; work/unpadded.py knows the rest, which depends on model and machine.
_OF_PADDED = {
    "fsdp": "shares out the model, which has to be padded then",
    "deepspeed": "shares out the model, which has to be padded then",
    "neftune_noise_alpha": "measures its noise by the length of padded rows",
}
_OF_WORKERS = ("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context")
# Of a schedule, the arguments of which it needs one.
_OF_SCHEDULES: Mapping[str, tuple[str, ...]] = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
_MILLION = 1_000_000
# Which combine with anything and need no further package, once their values are checked.
_PLAIN = frozenset(
    """
    adam_beta1 adam_beta2 adam_epsilon data_seed dataloader_drop_last eval_steps eval_strategy
    gradient_accumulation_steps greater_is_better label_smoothing_factor learning_rate load_best_model_at_end
    logging_first_step logging_steps logging_strategy max_grad_norm max_steps metric_for_best_model num_train_epochs
    per_device_eval_batch_size per_device_train_batch_size save_steps save_strategy save_total_limit seed
    train_sampling_strategy warmup_steps weight_decay
    """.split()  # noqa: SIM905
)
_PLAIN_VALUES = {
    "lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"),
    "optim": ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd"),
    "report_to": ("none",),
}


def worked_out(pipeline: Pipeline, *, has_validation: bool) -> dict[str, Any]:
    """The arguments that a pipeline gives, over what follows from them, over our defaults.

    :param has_validation: without validation rows nothing is evaluated and the last checkpoint is kept.
    """
    given = pipeline.training.arguments
    values = {**DEFAULTS, **given}
    if not has_validation:
        values["eval_strategy"] = "no"
    # Following the user's evaluation, or theirs of saving: the best checkpoint needs the two to coincide.
    values.setdefault("save_strategy", values["eval_strategy"] if values["eval_strategy"] != "no" else "epoch")
    if "eval_strategy" not in given and has_validation and values["save_strategy"] == "steps":
        values["eval_strategy"] = "steps"
        values.setdefault("eval_steps", values.get("save_steps"))
    keeps_best = values["eval_strategy"] != "no" and values["save_strategy"] != "no"
    values.setdefault("load_best_model_at_end", keeps_best)
    if values["load_best_model_at_end"] or values["save_strategy"] == "best":
        first = pipeline.metrics[0] if pipeline.metrics[0] in measured_in_training(pipeline) else "loss"
        best = str(values.setdefault("metric_for_best_model", first)).removeprefix("eval_")
        values.setdefault("greater_is_better", best != "loss" and not lower_is_better(best))
    return values


def measured_in_training(pipeline: Pipeline) -> tuple[str, ...]:
    """Those of the pipeline's metrics that a training measures, too."""
    able = TASKS[pipeline.task].in_training
    return tuple(name for name in pipeline.metrics if able is None or name in able)


# In accelerator_config, how rows reach processes.
_SHARING = ("split_batches", "dispatch_batches", "even_batches")


def is_plain(training: Training) -> bool:
    """Whether transformers is known to take all of it, so that nobody needs to load it to find out."""
    if training.callbacks or training.peft is not None:
        return False
    given = training.arguments.items()
    return all(name in _PLAIN or value in _PLAIN_VALUES.get(name, ()) for name, value in given)


def combinations(pipeline: Pipeline) -> list[Problem]:
    """Everything that cannot work, whatever the data, the model and the libraries are."""
    given = pipeline.training.arguments
    values = worked_out(pipeline, has_validation=pipeline.dataset.validates)
    found = {**_steps(values), **without_evaluation(pipeline, has_validation=pipeline.dataset.validates)}
    for first, second in _EXCLUSIVE:
        if given.get(first) and given.get(second):
            found[second] = f"cannot be used together with {first}"
    if not pipeline.resources.gpus:
        found |= {name: "needs a GPU, and resources.gpus is 0" for name in _GPU_ONLY if given.get(name)}
    if not given.get("dataloader_num_workers"):
        why = "is for processes that load data, and dataloader_num_workers is 0"
        found |= {name: why for name in _OF_WORKERS if given.get(name)}
    if given.get("fsdp") and pipeline.resources.processes < 2:
        found["fsdp"] = "shares a model between processes, and resources.processes is 1"
    if pipeline.resources.processes > 1 and isinstance(shared := given.get("accelerator_config"), dict):
        others = [name for name in _SHARING if name in shared]
        if others:
            why = "and with resources.processes above 1 rows are shared out so that steps are those of one process"
            found["accelerator_config"] = f"{' and '.join(others)} would share out rows otherwise, {why}"
    schedule, optimizer = str(given.get("lr_scheduler_type")), str(given.get("optim"))
    needed, told = _OF_SCHEDULES.get(schedule, ()), given.get("lr_scheduler_kwargs") or {}
    if needed and not any(name in told for name in needed):
        found["lr_scheduler_type"] = f"'{schedule}' needs lr_scheduler_kwargs: {{{' or '.join(needed)}: ...}}"
    if optimizer.startswith(("galore", "apollo")) and not given.get("optim_target_modules"):
        found["optim"] = f"'{optimizer}' needs optim_target_modules, such as all-linear"
    if optimizer.endswith("layerwise") and given.get("gradient_accumulation_steps", 1) > 1:
        found["gradient_accumulation_steps"] = f"must be 1 with optim '{optimizer}'"
    if pipeline.training.unpadded:
        why = "and with unpadded: true there is no padding"
        found |= {name: f"{what}, {why}" for name, what in _OF_PADDED.items() if given.get(name)}
        if TASKS[pipeline.task].writes == "text":
            found["unpadded"] = f"is for models that answer with a label, and {pipeline.task} writes text"
    found |= _what_learns(pipeline)
    return [Problem(("training", name), message) for name, message in found.items()]


def _what_learns(pipeline: Pipeline) -> dict[str, str]:
    """Ways to let only a part of the model learn, which do not fit together or with the arguments."""
    training = pipeline.training
    found: dict[str, str] = {}
    if training.peft is not None:
        why = "cannot be used together with peft, whose matrices it would have to gather"
        found |= {name: why for name in ("fsdp", "deepspeed") if training.arguments.get(name)}
        if EVERY_LINEAR in training.peft.target_modules and len(training.peft.target_modules) > 1:
            found["peft"] = f"target_modules: {EVERY_LINEAR} is every linear layer, and stands alone"
        if training.freeze_layers is not None:
            found["freeze_layers"] = "cannot be used together with peft, which leaves every layer as it is"
    if training.freeze_layers is None and training.freeze_cache_gb != type(training)().freeze_cache_gb:
        found["freeze_cache_gb"] = "is for what frozen layers make of the rows, and freeze_layers is not given"
    if training.freeze_layers is not None and training.arguments.get("neftune_noise_alpha"):
        found["neftune_noise_alpha"] = "is noise in embeddings that learn, and with freeze_layers they do not"
    return found


def require_batches(pipeline: Pipeline, rows: Mapping[str, int], *, devices: int) -> None:
    """Go on only where ``dataloader_drop_last``, which leaves out a batch that is not full, leaves one.

    :param rows: of each split.
    :raises PipelineError: a split does not fill one batch on that many devices.
    """
    values = worked_out(pipeline, has_validation=rows["validation"] > 0)
    if not values.get("dataloader_drop_last"):
        return
    for name, split in (("per_device_train_batch_size", "train"), ("per_device_eval_batch_size", "validation")):
        batch = values[name] * devices
        if rows[split] < batch and (split == "train" or values["eval_strategy"] != "no"):
            raise PipelineError(
                f"{rows[split]:,} {split} rows do not fill a batch of {batch:,}, which dataloader_drop_last leaves out",
                where=f"{pipeline.name}: training.{name}",
                hint="set it lower, or dataloader_drop_last: false",
            )


def without_evaluation(pipeline: Pipeline, *, has_validation: bool) -> dict[str, str]:
    """Arguments that were given and need evaluations, where there are none, each with what to say of it."""
    given, patience = pipeline.training.arguments, pipeline.training.early_stopping_patience
    wanted = {
        "eval_strategy": given.get("eval_strategy", "no") != "no",
        "eval_on_start": given.get("eval_on_start"),
        "metric_for_best_model": given.get("metric_for_best_model"),
        "load_best_model_at_end": given.get("load_best_model_at_end"),
        "save_strategy": given.get("save_strategy") == "best",
        "lr_scheduler_type": given.get("lr_scheduler_type") in _BY_SCORE,
        "early_stopping_patience": patience,
    }
    asked = [name for name, by in wanted.items() if by]
    if not has_validation:
        why = "needs validation rows, and there are none (dataset.split.validation, dataset.validation)"
        return {name: f"{_shown(given, name)} {why}" for name in asked}
    if given.get("eval_strategy") == "no":
        able = {"eval_on_start", "metric_for_best_model"}
        return {
            name: f"{_shown(given, name)} needs evaluations, and eval_strategy is no"
            for name in asked
            if name not in able
        }
    if patience and given.get("load_best_model_at_end") is False:
        message = "stopping early keeps the best checkpoint; drop load_best_model_at_end: false"
        return {"early_stopping_patience": message}
    return {}


def _shown(given: Mapping[str, Any], name: str) -> str:
    if name == "early_stopping_patience":
        return "stopping early"
    value = given.get(name)
    return f"'{value}'" if isinstance(value, str) else "it"


def _steps(values: Mapping[str, Any]) -> dict[str, str]:
    """Strategies, and the steps that they count, which do not fit together."""
    steps = {name: values.get(name) or known_arguments()[name]["default"] for name in ("save_steps", "logging_steps")}
    # transformers takes the steps of logging for those of evaluation where none are given.
    steps["eval_steps"] = values.get("eval_steps") or steps["logging_steps"]
    strategies = {name: values.get(name.replace("steps", "strategy"), "steps") for name in steps}
    found = {
        name: f"must be a whole number, or a share of all steps below 1; found {value:g}"
        for name, value in steps.items()
        if strategies[name] == "steps" and value > 1 and value != int(value)
    }
    save, evaluate = strategies["save_steps"], strategies["eval_steps"]
    if found or not values["load_best_model_at_end"] or save == "best":
        return found
    if save != evaluate:
        name = "load_best_model_at_end" if "no" in (save, evaluate) else "save_strategy"
        detail = (
            f"the best checkpoint must be one that was evaluated, and eval_strategy is {evaluate}, save_strategy {save}"
        )
        return {name: detail}
    if save == "steps" and not _is_multiple(steps["save_steps"], steps["eval_steps"]):
        of = f"{steps['save_steps']:g} is not a multiple of eval_steps, {steps['eval_steps']:g}"
        return {"save_steps": f"the best checkpoint must be one that was evaluated, and {of}"}
    return {}


def _is_multiple(steps: float, of: float) -> bool:
    """Whether it is a round multiple; shares of all steps are one of shares only."""
    return (steps < 1) == (of < 1) and round(steps * _MILLION) % round(of * _MILLION) == 0
