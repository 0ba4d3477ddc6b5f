"""What datasets and transformers say of a pipeline before any row is read: its splits, and its training put together
around nothing.

``python -m retrainer.work.rehearsal`` asks for the pipeline of its input, and says what is refused as steps do: for
``retrainer check``, which must not load these libraries. The first step of a run does it in its own process.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from retrainer.chain.training_packages import require_packages
from retrainer.errors import DataError, PipelineError, RetrainerError, first_line
from retrainer.sources.base_models import require_sizes
from retrainer.sources.identity import is_folder
from retrainer.spec.dataset import HubSource
from retrainer.spec.model import Pipeline
from retrainer.spec.training_combinations import is_plain
from retrainer.work.reporter import Reporter

if TYPE_CHECKING:
    from retrainer.chain import StepRequest

# What only the machine that trains can tell: whether its GPU can do it, whether its processes can share a model, which
# parts the model has.
_OF_GPUS = frozenset({"bf16", "bf16_full_eval", "fp16", "fp16_full_eval", "tf32", "torch_compile", "use_cpu"})
_OF_PROCESSES = frozenset({"fsdp", "fsdp_config"})
_OF_MODELS = frozenset({"optim", "optim_target_modules"})


def before_training(request: StepRequest, reporter: Reporter) -> None:
    """Look at the base models' sizes, and rehearse where the pipeline gives arguments that may be refused.

    In Airflow another worker may train, with other packages: then a package that is missing is a warning.

    :raises RetrainerError: the training would end with this error.
    """
    require_sizes(request.pipeline)
    if is_plain(request.pipeline.training):
        return
    try:
        require_packages(request.pipeline)
    except PipelineError as error:
        if request.context.origin == "cli":
            raise
        reporter.log(f"training will fail unless its worker has what this one has not: {error}", level="warning")
    else:
        with suppress(ImportError):  # the training has an interpreter of its own
            rehearse(request.pipeline)


def rehearse(pipeline: Pipeline) -> None:
    """Build the training's arguments, Trainer, optimizer and schedule, for a model of one weight. Where the
    configuration of the base model is here, put LoRA's matrices beside its layers, too.

    :raises RetrainerError: transformers refuses an argument, or no layer has a name that is to get matrices.
    """
    import torch
    from transformers import Trainer

    from retrainer.work.train.callbacks import callbacks_named
    from retrainer.work.train.loading import without_weights
    from retrainer.work.train.lora import with_lora
    from retrainer.work.training_arguments import refusals, training_arguments

    callbacks_named(pipeline)
    if pipeline.training.peft is not None and (layers := without_weights(pipeline)) is not None:
        with_lora(layers, pipeline.training.peft, where=pipeline.name)
    given = pipeline.training.arguments
    foreign = set(_OF_GPUS) if pipeline.resources.gpus else set()
    if pipeline.resources.processes > 1:
        foreign |= _OF_PROCESSES
    if given.get("optim_target_modules", "all-linear") != "all-linear":
        foreign |= _OF_MODELS
    own = {name: value for name, value in given.items() if name not in foreign}
    training = pipeline.training.model_copy(update={"arguments": {"use_cpu": True} | own})
    tried = pipeline.model_copy(update={"training": training})
    rows = [{"x": torch.zeros(1)}]
    validates = pipeline.dataset.validates
    with tempfile.TemporaryDirectory(prefix="retrainer-rehearsal-") as folder:
        arguments = training_arguments(tried, Path(folder), has_validation=validates)
        with refusals(tried, folder):
            trainer = Trainer(
                model=torch.nn.Sequential(torch.nn.Linear(1, 1)),
                args=arguments,
                train_dataset=rows,
                eval_dataset=rows if validates else None,
            )
            trainer.create_optimizer_and_scheduler(num_training_steps=100)


def require_splits(pipeline: Pipeline) -> None:
    """Go on only where the folders that are read as datasets have the splits that the pipeline names.

    :raises DataError: one has not; names those that there are.
    """
    for source in pipeline.dataset.sources.values():
        if not isinstance(source, HubSource) or not is_folder(source.hub):
            continue
        import datasets

        hub, where = source.hub, f"dataset {source.hub.path}, split {source.hub.split}"
        try:
            names = _split_names(Path(hub.path), hub.name)
            # Large enough for any slice.
            datasets.ReadInstruction.from_spec(hub.split).to_absolute(dict.fromkeys(names, 10**12))
        except Exception as error:
            raise DataError(first_line(error), where=where, hint="check path, name and split") from error


def _split_names(folder: Path, name: str | None) -> list[str]:
    import datasets

    if (folder / "dataset_dict.json").is_file():
        return list(datasets.load_from_disk(str(folder)))
    return ["train"] if (folder / "state.json").is_file() else datasets.get_dataset_split_names(str(folder), name)


def main() -> int:
    """Ask for the pipeline of the input; 1 where something is refused, after a message that says why."""
    pipeline = Pipeline.from_json(sys.stdin.buffer.read(), where="input")
    try:
        require_splits(pipeline)
        if not is_plain(pipeline.training):
            rehearse(pipeline)
    except RetrainerError as error:
        Reporter.from_environment().failed(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
