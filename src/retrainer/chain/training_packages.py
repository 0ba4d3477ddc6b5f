"""Packages that arguments of a training need beyond what this project installs, found without importing them.

Not here: what transformers says of the arguments themselves (``work/rehearsal.py``).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator

from retrainer.errors import PipelineError
from retrainer.spec.model import Pipeline
from retrainer.spec.problems import listed, suggestion
from retrainer.spec.training import Training

# Name of an optimizer to the module that has it; the first that fits.
_OPTIMIZERS = {
    r"adamw_torch_[48]bit": "torchao",
    r"adamw_torch_xla": "torch_xla",
    r"adamw_torch_npu_fused": "torch_npu",
    r"adamw_anyprecision": "torchdistx",
    r"galore_.*": "galore_torch",
    r"apollo_.*": "apollo_torch",
    r"(ada)?lomo": "lomo_optim",
    r"grokadamw": "grokadamw",
    r"schedule_free_.*": "schedulefree",
    r"stable_adamw": "optimi",
    r"paged_.*|lion_.*|ademamix.*|rmsprop_bnb.*|adamw_(bnb_)?8bit": "bitsandbytes",
}
# Name of what training is reported to, to the modules of which it needs one.
_REPORTERS = {
    **{name: (name,) for name in ("clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "mlflow", "neptune")},
    **{name: (name,) for name in ("swanlab", "trackio", "wandb")},
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "all": (),
    "none": (),
    "kubeflow": (),
}
# Where a package is called otherwise than its module.
_PACKAGES = {"azureml": "azureml-sdk", "optimi": "torch-optimi", "liger_kernel": "liger-kernel"}


def require_packages(pipeline: Pipeline) -> None:
    """Go on only where this interpreter has what the training's arguments need.

    :raises PipelineError: names the argument and the package, or nothing of that name is known.
    """
    for name, value, modules in _needed(pipeline.training):
        if modules is None:
            raise PipelineError(
                f"'{value}' is not one of {listed(sorted(_REPORTERS))}{suggestion(value, _REPORTERS)}",
                where=f"{pipeline.name}: training.{name}",
            )
        if modules and not any(map(importlib.util.find_spec, modules)):
            package = _PACKAGES.get(modules[0], modules[0].replace("_", "-"))
            raise PipelineError(
                f"'{value}' needs {listed(modules)}, which is not installed",
                where=f"{pipeline.name}: training.{name}",
                hint=f"pip install {package} where it trains, or change that argument",
            )


def _needed(training: Training) -> Iterator[tuple[str, str, tuple[str, ...] | None]]:
    """Argument, value, and the modules of which it needs one; ``None`` for a value that is not known."""
    arguments = training.arguments
    for callback in training.callbacks:
        yield "callbacks", callback, (callback.partition(".")[0],)
    if training.peft is not None:
        yield "peft", "peft", ("peft",)
    optimizer = str(arguments.get("optim"))
    for pattern, module in _OPTIMIZERS.items():
        if re.fullmatch(pattern, optimizer):
            yield "optim", optimizer, (module,)
    reporters = arguments.get("report_to") or []
    for reporter in [reporters] if isinstance(reporters, str) else reporters:
        yield "report_to", reporter, _REPORTERS.get(reporter)
    if "tpu_metrics_debug" in (arguments.get("debug") or ()):
        yield "debug", "tpu_metrics_debug", ("torch_xla",)
    for name, module in (("deepspeed", "deepspeed"), ("use_liger_kernel", "liger_kernel")):
        if arguments.get(name):
            yield name, name, (module,)
