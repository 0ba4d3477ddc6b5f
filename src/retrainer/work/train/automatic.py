"""``training.auto``: what makes a training fast, chosen for the machine and the rows, each with the reason.

What is given in the pipeline stays. Nothing here changes how many rows a step of the optimizer has. Not here: how rows
are read without padding (``work/unpadded.py``).
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_tf32_available

from retrainer.artifacts.training import Choice, Padding, Tried
from retrainer.serve.cores import usable_cores
from retrainer.serve.processor import CPU_INFO, cpu_features
from retrainer.spec.model import Pipeline
from retrainer.spec.training import Training
from retrainer.spec.training_combinations import worked_out
from retrainer.work.train.encoding import EncodedRows
from retrainer.work.train.loading import Base
from retrainer.work.unpadded import Unpadded, attention_dropout, why_not

# With either, a processor multiplies bf16 in one instruction; without, bf16 is slower than fp32.
BF16_INSTRUCTIONS = frozenset({"amx_bf16", "avx512_bf16"})
# The first GPUs that compute bf16 and TF32.
AMPERE = (8, 0)
# The first that Triton compiles for.
VOLTA = (7, 0)
# What of the choices changes numbers: a resumed training goes on with it.
NUMBERS = frozenset({"bf16", "tf32", "torch_compile"})
# Compiling takes a minute or two. From so many batches on it pays, if each is only some 15 ms faster.
LONG_RUN_BATCHES = 10_000
_CORES_FOR_LOADING = 4
_LOADING = 2


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine that trains, as far as choices depend on it.

    :param device: ``cpu`` or ``cuda``, which ROCm's devices are called, too.
    :param name: for people.
    :param capability: of a GPU.
    :param tf32: whether transformers sets it here; not on ROCm.
    :param why_not_compiled: what torch's compiler lacks; ``None`` where it lacks nothing.
    :param instructions: those of ``BF16_INSTRUCTIONS`` that the processor has.
    :param cores: that each process may use.
    """

    device: str
    name: str
    capability: tuple[int, int] | None = None
    instructions: frozenset[str] = frozenset()
    cores: int = 1
    tf32: bool = False
    why_not_compiled: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The training, as far as choices depend on it.

    :param batches: that each device reads, all epochs together.
    """

    batches: int


def this_machine(pipeline: Pipeline) -> Hardware:
    """What this process trains on."""
    cores = max(1, usable_cores() // pipeline.resources.processes)
    if pipeline.training.arguments.get("use_cpu") or not torch.cuda.is_available():
        found = frozenset(cpu_features(CPU_INFO, BF16_INSTRUCTIONS)) & BF16_INSTRUCTIONS
        return Hardware("cpu", "the processor", instructions=found, cores=cores)
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    why_not = why_not_compiled(name, capability)
    return Hardware("cuda", name, capability, cores=cores, tf32=is_torch_tf32_available(), why_not_compiled=why_not)


def why_not_compiled(name: str, capability: tuple[int, int]) -> str | None:
    """What torch's compiler lacks here, which would fail in the first step; ``None`` where it lacks nothing."""
    if capability < VOLTA:
        return f"{name} is older than what Triton compiles for"
    try:
        importlib.import_module("triton")
    except ImportError:
        return "Triton is not installed"
    if not any(map(shutil.which, filter(None, (os.environ.get("CC"), "gcc", "clang", "cc")))):
        return "there is no C compiler, which Triton needs"
    return None


def run_of(pipeline: Pipeline, rows: int, *, batch: int, devices: int) -> Run:
    """How much a training has to do.

    :param rows: to train on.
    :param batch: rows of a batch on a device.
    """
    values = worked_out(pipeline, has_validation=False)
    if (steps := values.get("max_steps", -1)) > 0:
        return Run(steps * values.get("gradient_accumulation_steps", 1))
    epochs = values.get("num_train_epochs", TrainingArguments.num_train_epochs)
    return Run(int(epochs * rows / (batch * devices)))


def choices_of(pipeline: Pipeline, rows: int, *, batch: int) -> tuple[Choice, ...]:
    """What ``training.auto`` chooses here, of arguments that are not given; nothing where it is off.

    :param rows: to train on.
    :param batch: rows of a batch on a device, as the pipeline asks for: what is chosen does not change when the GPU's
        memory runs out.
    """
    if not pipeline.training.auto:
        return ()
    devices = max(pipeline.resources.processes, pipeline.resources.gpus)
    return chosen(pipeline.training, this_machine(pipeline), run_of(pipeline, rows, batch=batch, devices=devices))


def chosen(training: Training, hardware: Hardware, run: Run) -> tuple[Choice, ...]:
    """What is chosen of arguments that are not given.

    Two of them are defaults already. They are said, since an artifact is read when defaults are others.
    """
    given = training.arguments
    on_gpu = hardware.device == "cuda"
    choices = [] if given.keys() & {"bf16", "fp16"} else [_bf16(hardware)]
    if on_gpu and "tf32" not in given:
        able = hardware.tf32
        why = "what is left to fp32 is multiplied in TF32" if able else f"{hardware.name} has no TF32"
        choices.append(Choice(argument="tf32", value=able, why=why))
    if "optim" not in given:
        choices.append(Choice(argument="optim", value="adamw_torch_fused", why="one kernel for all weights"))
    if "train_sampling_strategy" not in given:
        why = "rows of like length need hardly any padding"
        choices.append(Choice(argument="train_sampling_strategy", value="group_by_length", why=why))
    if on_gpu:
        choices += _loading(given, hardware)
        if not any(name.startswith("torch_compile") for name in given):
            choices.append(_compiled(training, hardware, run))
    return tuple(choices)


def as_before(choices: Sequence[Choice], before: Tried) -> tuple[Choice, ...]:
    """The choices, as far as they change numbers those of the try that is resumed, where this machine would take them.

    :param before: the try that wrote the checkpoint; without choices where none is resumed.
    """
    earlier = {choice.argument: choice for choice in before.chosen}
    found = []
    for choice in choices:
        then = earlier.get(choice.argument)
        if then is None or choice.argument not in NUMBERS or then.value == choice.value:
            found.append(choice)
        elif then.value:
            found.append(choice.model_copy(update={"why": f"{choice.why}; before it was resumed it was true"}))
        else:
            found.append(then.model_copy(update={"why": "as before it was resumed"}))
    return tuple(found)


def arguments_of(choices: Sequence[Choice]) -> dict[str, Any]:
    """As arguments of a training."""
    values = {choice.argument: choice.value for choice in choices}
    if values.get("torch_compile"):
        # TrainingArguments has no word for it, and accelerate reads it here: batches differ in length.
        os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "true")
    return values


def padding_of(
    pipeline: Pipeline, base: Base, train: Any, arguments: TrainingArguments, before: Padding | None = None
) -> tuple[Unpadded | None, Padding | None]:
    """Whether the training does without padding, and what the record says of it; nothing where nobody asks.

    :param train: its rows.
    :param before: of the try that is resumed: what was padded stays so.
    """
    asked = pipeline.training.unpadded
    if not (pipeline.training.auto if asked is None else asked):
        return None, None
    if before is not None and before.why is not None:
        return None, before
    if arguments.device.type == "cpu" and not asked:
        return None, Padding(why="a processor is not faster without it where rows are grouped by length")
    if not isinstance(train, EncodedRows):
        return None, Padding(why="rows of this task have an output beside what is read")
    if why := why_not(base.model, arguments):
        return None, Padding(why=why)
    return Unpadded(base.model), Padding(dropout_left_out=attention_dropout(base.model))


def _bf16(hardware: Hardware) -> Choice:
    if hardware.device == "cuda":
        able = (hardware.capability or (0, 0)) >= AMPERE
        why = f"{hardware.name} computes in bf16; weights stay in fp32" if able else f"{hardware.name} has no bf16"
    else:
        able = bool(hardware.instructions & BF16_INSTRUCTIONS)
        found = ", ".join(sorted(hardware.instructions))
        why = f"the processor has {found}; weights stay in fp32" if able else "it has neither AMX nor AVX512_BF16"
    return Choice(argument="bf16", value=able, why=why)


def _loading(given: Mapping[str, Any], hardware: Hardware) -> list[Choice]:
    """Processes that make batches while the GPU computes."""
    if "dataloader_num_workers" in given:
        return []
    if hardware.cores < _CORES_FOR_LOADING:
        why = f"{hardware.cores} cores have enough to do"
        return [Choice(argument="dataloader_num_workers", value=0, why=why)]
    choices = [
        Choice(argument="dataloader_num_workers", value=_LOADING, why="they make batches while the GPU computes")
    ]
    if "dataloader_persistent_workers" not in given:
        choices.append(Choice(argument="dataloader_persistent_workers", value=True, why="not begun anew in each epoch"))
    return choices


def _compiled(training: Training, hardware: Hardware, run: Run) -> Choice:
    if training.freeze_layers is not None:
        able, why = False, "what frozen layers make is kept instead"
    elif training.peft is not None:
        able, why = False, "with peft nobody has measured it"
    elif hardware.why_not_compiled is not None:
        able, why = False, hardware.why_not_compiled
    elif run.batches < LONG_RUN_BATCHES:
        able, why = False, f"{run.batches:,} batches are too few to make up for compiling"
    else:
        able, why = True, f"{run.batches:,} batches make up for compiling"
    return Choice(argument="torch_compile", value=able, why=why)
