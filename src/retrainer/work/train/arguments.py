"""``transformers.TrainingArguments`` from a pipeline: its own arguments over our defaults."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from retrainer.errors import PipelineError, first_line
from retrainer.spec.known_metrics import lower_is_better
from retrainer.spec.model import Pipeline
from retrainer.spec.training_arguments import DEFAULTS


def training_arguments(pipeline: Pipeline, output: Path, *, has_validation: bool) -> TrainingArguments:
    """The arguments of a training.

    :param output: where checkpoints go.
    :param has_validation: without validation rows nothing is evaluated and the last checkpoint is kept.
    :raises PipelineError: transformers refuses a value or a combination.
    """
    given = dict(pipeline.training.arguments)
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
    if values["load_best_model_at_end"]:
        best = str(values.setdefault("metric_for_best_model", pipeline.metrics[0])).removeprefix("eval_")
        values.setdefault("greater_is_better", best != "loss" and not lower_is_better(best))
    on_cpu = values.get("use_cpu", not torch.cuda.is_available())
    if pipeline.training.early_stopping_patience is not None:
        values["restore_callback_states_from_checkpoint"] = True
    try:
        return TrainingArguments(
            **{
                **values,
                "output_dir": str(output),
                "use_cpu": on_cpu,
                "dataloader_pin_memory": values.get("dataloader_pin_memory", not on_cpu),
                "disable_tqdm": True,
            }
        )
    except (ValueError, TypeError, ImportError) as error:
        raise PipelineError(
            first_line(error),
            where=f"{pipeline.name}: training",
            hint="change that argument",
        ) from error
