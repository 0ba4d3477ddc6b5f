"""``training.freeze_layers``: the first layers do not learn, and what they make of each row is computed once and kept.

Of some types of models it is known where the layers are and what they share; of all others the layers are frozen and
compute in every epoch. The model itself stays whole: what is saved, exported and blended knows nothing of this.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from retrainer.errors import PipelineError
from retrainer.spec.model import Pipeline
from retrainer.work.distributed import is_first_rank
from retrainer.work.reporter import Reporter
from retrainer.work.train.encoding import EncodedRows

# Of a batch, what the frozen layers made of it.
STATES = "frozen_states"
_GB = 10**9


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a type of model has its layers: in ``layer`` of this module. All of them read what is ``shared``."""

    stack: str = "encoder"
    shared: tuple[str, ...] = ()


# Models whose last layer's output is what `last_hidden_state` has, and whose layers read nothing that changes with
# training but the output of the one before.
_KNOWN = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _Place()),
    "distilbert": _Place("transformer"),
    "mpnet": _Place(shared=("relative_attention_bias",)),
}


class FrozenLayers:
    """The embeddings and the first layers of a model, which lose their gradients.

    :param wanted: how many layers, or ``half``.
    :param where: the pipeline's name, for errors.
    :raises PipelineError: the model has no such layers, or none would be left to learn.
    """

    def __init__(self, model: PreTrainedModel, wanted: int | str, *, where: str) -> None:
        kind = model.config.model_type
        self._model = model
        self._place = _KNOWN.get(kind)
        layers = self._stack.layer if self._place else _layers(model)
        place = f"{where}: training.freeze_layers"
        if layers is None:
            raise PipelineError(
                f"it cannot be told which are the first layers of a {kind}", where=place, hint="drop it, or use peft"
            )
        self.count = len(layers) // 2 if wanted == "half" else int(wanted)
        if not 0 < self.count < len(layers):
            raise PipelineError(
                f"the model has {len(layers)} layers, and at least one must be frozen and one must learn",
                where=place,
                hint=f"give a number from 1 to {len(layers) - 1}" if len(layers) > 1 else "drop it",
            )
        self.total = len(layers)
        self._layers = list(layers)
        parts = list(_before(model.base_model, layers[self.count]))
        if self._place:
            parts += [getattr(self._stack, name) for name in self._place.shared]
        self._parts = parts
        for part in parts:
            part.requires_grad_(False)

    @property
    def _stack(self) -> Any:
        """The module of which ``layer`` are the layers."""
        assert self._place is not None
        return self._model.base_model.get_submodule(self._place.stack)

    @property
    def can_be_kept(self) -> bool:
        """Whether it is known how to go on from what these layers made."""
        return self._place is not None

    def rest(self) -> None:
        """No dropout in what does not learn. The Trainer wakes the whole model in each step."""
        for part in self._parts:
            part.eval()

    @contextmanager
    def given(self, states: torch.Tensor) -> Iterator[None]:
        """The model goes on from these states, ``[rows, tokens, width]``, in place of what its frozen layers make."""
        first = self._layers[self.count]
        dtype = next(first.parameters()).dtype
        handle = first.register_forward_pre_hook(lambda _, inputs: (states.to(dtype), *inputs[1:]))
        try:
            with self._only(self._layers[self.count :]):
                yield
        finally:
            handle.remove()

    def made_of(self, batch: dict[str, Any]) -> torch.Tensor:
        """What these layers make of a batch, ``[rows, tokens, width]``. The model is left in evaluation mode."""
        read = inspect.signature(self._model.base_model.forward).parameters
        fed = {name: values.to(self._model.device) for name, values in batch.items() if name in read}
        self._model.eval()
        with torch.no_grad(), self._only(self._layers[: self.count]):
            states: torch.Tensor = self._model.base_model(**fed).last_hidden_state
        return states

    @contextmanager
    def _only(self, layers: Sequence[torch.nn.Module]) -> Iterator[None]:
        stack = self._stack
        whole, stack.layer = stack.layer, torch.nn.ModuleList(layers)
        try:
            yield
        finally:
            stack.layer = whole


class KeptRows(EncodedRows):
    """Rows, with what frozen layers made of them; only the columns that the model reads.

    :param path: of all tokens' states, one after another.
    :param dtype: of what is in it, ``float32`` or ``float16``.
    """

    def __init__(self, rows: EncodedRows, path: Path, dtype: str, width: int) -> None:
        super().__init__(rows.columns, rows.offsets, rows.labels)
        self._path = path
        self._dtype = dtype
        self._shape = (int(rows.offsets[-1]), width)
        self._open: npt.NDArray[Any] | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._open is None:
            # Private pages, since torch takes none that cannot be written to.
            self._open = np.memmap(self._path, dtype=self._dtype, mode="c", shape=self._shape)
        start, end = self.offsets[index], self.offsets[index + 1]
        return {**super().__getitem__(index), STATES: torch.from_numpy(self._open[start:end])}

    def __getstate__(self) -> dict[str, Any]:
        """For processes that load data: each maps the file by itself."""
        return {**self.__dict__, "_open": None}


class PadStates:
    """A collator that pads at the end, for rows with states and without, around one that knows nothing of states."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Any]) -> None:
        self._collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        """One padded batch."""
        batch = self._collate([{name: value for name, value in row.items() if name != STATES} for row in rows])
        if STATES in rows[0]:
            tokens, width = batch["input_ids"].shape[1], rows[0][STATES].shape[1]
            padded = rows[0][STATES].new_zeros((len(rows), tokens, width))
            for at, row in enumerate(rows):
                padded[at, : len(row[STATES])] = row[STATES]
            batch[STATES] = padded
        return batch


def keep_states(pipeline: Pipeline, frozen: FrozenLayers, trainer: Trainer, folder: Path, reporter: Reporter) -> None:
    """Give a trainer rows with what frozen layers make of them, where these can be kept; says so where they cannot.

    :param folder: of the step, on this host; its processes share it.
    """
    frozen_are = f"the embeddings and {frozen.count} of {frozen.total} layers are frozen"
    rows = [part for part in (trainer.train_dataset, trainer.eval_dataset) if part is not None]
    width = int(trainer.model.config.hidden_size)
    numbers = sum(int(part.offsets[-1]) for part in rows) * width
    room = min(pipeline.training.freeze_cache_gb * _GB, shutil.disk_usage(folder).free / 2)
    size = {name: numbers * np.dtype(name).itemsize for name in ("float32", "float16")}
    dtype = next((name for name, needed in size.items() if needed <= room), None)
    if why_not := _why_not(frozen, trainer.args, trainer.processing_class.padding_side):
        reporter.log(f"{frozen_are}, and compute in every epoch: {why_not}")
        return
    if dtype is None:
        needed, left = size["float16"] / _GB, room / _GB
        reporter.log(
            f"{frozen_are}, and compute in every epoch: what they make of the rows needs {needed:.2f} GB, and "
            f"freeze_cache_gb and the disk leave {left:.2f} GB for it",
            level="warning" if pipeline.training.freeze_cache_gb else "info",
        )
        return
    read = inspect.signature(trainer.model.forward).parameters
    kept = []
    # One process writes what all of a host read.
    with trainer.args.main_process_first(desc="frozen layers"):
        for name, part in zip(("train", "validation"), rows, strict=False):
            columns = {key: values for key, values in part.columns.items() if key in read}
            used = EncodedRows(columns, part.offsets, part.labels)
            path = folder / f"frozen-{name}.{dtype}"
            if is_first_rank():
                _write(frozen, used, trainer, path, dtype, width, reporter)
            kept.append(KeptRows(used, path, dtype, width))
    reporter.log(f"{frozen_are}; what they make of the rows is kept, {size[dtype] / _GB:.2f} GB of {dtype}")
    trainer.train_dataset = kept[0]
    trainer.eval_dataset = kept[1] if len(kept) > 1 else None
    trainer.data_collator = PadStates(trainer.data_collator)
    trainer.args.remove_unused_columns = False  # the model reads no states; all other columns it does


def _why_not(frozen: FrozenLayers, arguments: TrainingArguments, side: str) -> str | None:
    """Why states cannot be kept, whatever their size."""
    if not frozen.can_be_kept:
        return "it is not known how a model of this type goes on from there"
    reasons = {
        "padding in front moves the tokens, and so changes what they make of a row": side != "right",
        "several GPUs share one process": arguments.n_gpu > 1,
        "activation_checkpointing computes them again": arguments.activation_checkpointing,
        "torch_compile is on": arguments.torch_compile,
        "fsdp shares out the layers": bool(arguments.fsdp),
        "deepspeed shares out the layers": bool(arguments.deepspeed),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _write(
    frozen: FrozenLayers, rows: EncodedRows, trainer: Trainer, path: Path, dtype: str, width: int, reporter: Reporter
) -> None:
    """Let the frozen layers read all rows, of like length together, and write down what they make of them.

    :raises PipelineError: it is not a number, or too large for float16.
    """
    total, at_once = len(rows), trainer.args.per_device_eval_batch_size
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    states = np.memmap(path, dtype=dtype, mode="w+", shape=(max(int(rows.offsets[-1]), 1), width))
    for start in range(0, total, at_once):
        chosen = by_length[start : start + at_once]
        batch = trainer.data_collator([rows[int(at)] for at in chosen])
        made = frozen.made_of(batch).float().cpu().numpy()
        for at, of_row in zip(chosen, made, strict=True):
            begin, end = rows.offsets[at], rows.offsets[at + 1]
            states[begin:end] = of_row[: end - begin]
            if not np.isfinite(states[begin:end]).all():
                raise PipelineError(
                    f"what the frozen layers make of a row is not a number in {dtype}",
                    where="training.freeze_layers",
                    hint="set freeze_cache_gb: 0" if dtype == "float16" else "check the base model's weights",
                )
        reporter.progress("frozen layers", done=min(start + at_once, total), total=total, unit="row")
    states.flush()


def _layers(model: PreTrainedModel) -> Any:
    """The first list of as many modules as the configuration has layers; ``None`` where there is none."""
    wanted = getattr(model.config, "num_hidden_layers", 0)
    lists = (module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
    return next((found for found in lists if len(found) == wanted and wanted > 1), None)


def _before(whole: torch.nn.Module, layer: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules that come before a layer, as a model has them in order."""
    for module in whole.modules():
        if module is layer:
            return
        if all(inner is not layer for inner in module.modules()):
            yield module
