"""``transformers.TrainingArguments`` from a pipeline, and what transformers and torch refuse, in words.

Not here: what a pipeline leaves out (``spec/training_combinations.py``), putting a training together (``train/``).
"""

from __future__ import annotations

import pkgutil
import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from retrainer.errors import PipelineError, RetrainerError, TrainingError
from retrainer.spec.model import Pipeline
from retrainer.spec.training_combinations import without_evaluation, worked_out
from retrainer.work.resources import resource_error

# Beyond it a message is a report of its own, and the log has it.
LONGEST_MESSAGE = 600


def training_arguments(
    pipeline: Pipeline, output: Path, *, has_validation: bool, more: Mapping[str, Any] | None = None
) -> TrainingArguments:
    """The arguments of a training.

    :param output: where checkpoints go.
    :param has_validation: without validation rows nothing is evaluated and the last checkpoint is kept.
    :param more: in place of the pipeline's values, or what a pipeline cannot give and people who train from Python can.
    :raises PipelineError: transformers refuses a value or a combination, or one needs validation rows.
    """
    with refusals(pipeline, str(output)):
        return TrainingArguments(**argument_values(pipeline, output, has_validation=has_validation) | dict(more or {}))


def argument_values(pipeline: Pipeline, output: Path, *, has_validation: bool) -> dict[str, Any]:
    """The same by name."""
    for name, message in without_evaluation(pipeline, has_validation=has_validation).items():
        raise PipelineError(message, where=f"{pipeline.name}: training.{name}", hint="drop it, or add rows")
    values = worked_out(pipeline, has_validation=has_validation)
    on_cpu = values.get("use_cpu", not torch.cuda.is_available())
    # Else losses that are no numbers are left out of the mean, and nobody learns of them.
    values.setdefault("logging_nan_inf_filter", False)
    if pipeline.training.early_stopping_patience is not None:
        values["restore_callback_states_from_checkpoint"] = True
    return {
        **values,
        "output_dir": str(output),
        "use_cpu": on_cpu,
        "dataloader_pin_memory": values.get("dataloader_pin_memory", not on_cpu),
        "disable_tqdm": True,
    }


@contextmanager
def refusals(pipeline: Pipeline, root: str) -> Iterator[None]:
    """Whatever transformers and torch raise in this block becomes an error that names the argument, if it can be told.

    Errors of ours and of the machine pass. The log has the stack trace.

    :param root: where the artifacts lie.
    :raises PipelineError: an argument is at fault, or a class in ``training.callbacks``.
    :raises TrainingError: it is not known what is.
    """
    try:
        yield
    except RetrainerError:
        raise
    except Exception as error:
        if resource_error(error, root) is not None:
            raise
        said = " ".join(str(error).split())[:LONGEST_MESSAGE] or "nothing"
        if callback := _callback(error, pipeline):
            raise PipelineError(
                f"{callback} ended the training with {type(error).__name__}: {said}",
                where=f"{pipeline.name}: training.callbacks",
                hint="mend or drop that callback; the step's log has the stack trace",
            ) from error
        name = _argument(said, pipeline.training.arguments)
        if name is not None:
            where = f"{pipeline.name}: training.{name}"
            raise PipelineError(said, where=where, hint="change that argument, or install what it needs") from error
        raise TrainingError(
            f"the training stopped with {type(error).__name__}: {said}",
            where=f"{pipeline.name}: training",
            hint="the step's log has the stack trace",
        ) from error


def _callback(error: Exception, pipeline: Pipeline) -> str | None:
    """The name in ``training.callbacks`` of the one that was running when the error was raised."""
    on_the_stack = {type(frame.f_locals.get("self")) for frame, _ in traceback.walk_tb(error.__traceback__)}
    running = {kind for kind in on_the_stack if issubclass(kind, TrainerCallback)}
    # Where none runs, the names may not even be there.
    named = pipeline.training.callbacks if running else ()
    return next((name for name in named if pkgutil.resolve_name(name) in running), None)


def _argument(message: str, given: Mapping[str, Any]) -> str | None:
    """The given argument that a message is about: it has its name, its value, or what it is for."""
    words = set(re.findall(r"\w+", message))
    if named := [name for name in given if name in words]:
        return named[0]
    for name, value in given.items():
        texts = [value] if isinstance(value, str) else value if isinstance(value, (list, dict)) else []
        if any(len(text) > 2 and text.lower() in message.lower() for text in map(str, texts)):
            return name
    meant = (name for name, stem in _STEMS.items() if name in given and stem in message.lower())
    return next(meant, None)


_STEMS = {
    "optim": "optimizer",
    "optim_args": "unpack",
    "lr_scheduler_kwargs": "schedule",
    "lr_scheduler_type": "schedule",
    "use_liger_kernel": "liger",
    "activation_checkpointing": "checkpointing",
    "gradient_checkpointing": "checkpointing",
    "torch_compile": "inductor",
    "ddp_backend": "backend",
    "seed": "seed",
}
