"""``training.freeze_layers``: the first layers do not learn, and what they make of each row is computed once and kept.

Of some types of models it is known where the layers are and what they share; of all others the layers are frozen and
compute in every epoch. Of a model with an encoder and a decoder, they are the encoder's. The model itself stays whole:
what is saved, exported and blended knows nothing of this.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

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
    """The embeddings and the first layers of a model, and all else that these read, which lose their gradients.

    :param wanted: how many layers, or ``half``.
    :param new: names of the weights that did not come from the base.
    :param where: the pipeline's name, for errors.
    :raises PipelineError: the model has no such layers, none would be left to learn, or one of these weights would not.
    """

    def __init__(self, model: PreTrainedModel, wanted: int | str, *, new: Collection[str] = (), where: str) -> None:
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
        for part in parts:
            part.requires_grad_(False)
        if not self._place:
            if is_deepspeed_zero3_enabled():
                raise PipelineError(
                    f"what the first layers of a {kind} read cannot be told where deepspeed shares out the weights",
                    where=place,
                    hint="drop it, or use a lower stage of ZeRO",
                )
            parts += _freeze_read(model, layers[self.count])
        self._parts = parts
        frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        if random := sorted(frozen.intersection(new)):
            raise PipelineError(
                f"{len(random)} weights that are not in the base model would stay random, first {random[0]}",
                where=place,
                hint="freeze fewer layers, drop it, or name a base that has them",
            )

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

    :param path: of all tokens' states in float32, one after another.
    """

    def __init__(self, rows: EncodedRows, path: Path, width: int) -> None:
        super().__init__(rows.columns, rows.offsets, rows.labels)
        self._path = path
        self._shape = (int(rows.offsets[-1]), width)
        self._open: npt.NDArray[Any] | None = None

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._open is None:
            # Private pages, since torch takes none that cannot be written to.
            self._open = np.memmap(self._path, dtype=np.float32, mode="c", shape=self._shape)
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
    if why_not := _why_not(frozen, rows, trainer.args, trainer.processing_class.padding_side):
        reporter.log(f"{frozen_are}, and compute in every epoch: {why_not}")
        return
    read = inspect.signature(trainer.model.forward).parameters
    used = [
        EncodedRows({key: values for key, values in part.columns.items() if key in read}, part.offsets, part.labels)
        for part in rows
    ]
    paths = [folder / f"frozen-{name}.float32" for name, _ in zip(("train", "validation"), used, strict=False)]
    # The first process decides and writes, and whether the files are there tells the others that see its folder. All
    # wait, for one on another host may see it, too.
    with trainer.args.main_process_first(local=False, desc="frozen layers"):
        if is_first_rank():
            limit = pipeline.training.freeze_cache_gb
            size, no_room = _write_all(frozen, used, trainer, paths, limit, reporter)
            if no_room:
                said = f"{frozen_are}, and compute in every epoch: {no_room}"
                reporter.log(said, level="warning" if limit else "info")
            else:
                reporter.log(f"{frozen_are}; what they make of the rows is kept, {size / _GB:.2f} GB")
        if not all(path.exists() for path in paths):
            return
    width = int(trainer.model.config.hidden_size)
    kept = [KeptRows(part, path, width) for part, path in zip(used, paths, strict=True)]
    trainer.train_dataset = kept[0]
    trainer.eval_dataset = kept[1] if len(kept) > 1 else None
    trainer.data_collator = PadStates(trainer.data_collator)
    trainer.args.remove_unused_columns = False  # the model reads no states; all other columns it does


def _why_not(frozen: FrozenLayers, rows: Sequence[Any], arguments: TrainingArguments, side: str) -> str | None:
    """Why states cannot be kept, whatever their size."""
    if not frozen.can_be_kept:
        return "it is not known how a model of this type goes on from there"
    reasons = {
        "rows of this task have an output beside what is read": not all(isinstance(part, EncodedRows) for part in rows),
        "padding in front moves the tokens, and so changes what they make of a row": side != "right",
        "several GPUs share one process": arguments.n_gpu > 1,
        "activation_checkpointing computes them again": arguments.activation_checkpointing,
        "torch_compile is on": arguments.torch_compile,
        "fsdp shares out the layers": bool(arguments.fsdp),
        "deepspeed shares out the layers": bool(arguments.deepspeed),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _write_all(
    frozen: FrozenLayers,
    rows: Sequence[EncodedRows],
    trainer: Trainer,
    paths: Sequence[Path],
    limit_gb: float,
    reporter: Reporter,
) -> tuple[int, str | None]:
    """Write what frozen layers make of the rows; either all files are there then, or none.

    :return: the bytes that this takes, and why it was not done.
    """
    for path in paths:
        path.unlink(missing_ok=True)  # of an earlier try
    width = int(trainer.model.config.hidden_size)
    size = sum(int(part.offsets[-1]) for part in rows) * width * np.dtype(np.float32).itemsize
    room = min(limit_gb * _GB, shutil.disk_usage(paths[0].parent).free / 2)
    what = f"what they make of the rows needs {size / _GB:.2f} GB"
    if size > room:
        return size, f"{what}, and freeze_cache_gb and the disk leave {room / _GB:.2f} GB for it"
    try:
        for part, path in zip(rows, paths, strict=True):
            _write(frozen, part, trainer, path, reporter)
    except OSError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        return size, f"{what}, and cannot be written: {error.strerror or error}"
    return size, None


def _write(frozen: FrozenLayers, rows: EncodedRows, trainer: Trainer, path: Path, reporter: Reporter) -> None:
    """Let the frozen layers read all rows, of like length together, and write down what they make of them.

    :raises OSError: the disk is full. Written as a file, for one that is mapped would end the process then.
    :raises PipelineError: it is not a number.
    """
    total, at_once = len(rows), trainer.args.per_device_eval_batch_size
    by_length = np.argsort(np.diff(rows.offsets), kind="stable")
    with path.open("wb") as file:
        for start in range(0, total, at_once):
            chosen = by_length[start : start + at_once]
            batch = trainer.data_collator([rows[int(at)] for at in chosen])
            made = frozen.made_of(batch).float().cpu().numpy()
            for at, of_row in zip(chosen, made, strict=True):
                states = of_row[: rows.offsets[at + 1] - rows.offsets[at]]
                if not np.isfinite(states).all():
                    raise PipelineError(
                        "what the frozen layers make of a row is not a number",
                        where="training.freeze_layers",
                        hint="check the base model's weights",
                    )
                file.seek(int(rows.offsets[at]) * states[0].nbytes)
                file.write(states.tobytes())
            reporter.progress("frozen layers", done=min(start + at_once, total), total=total, unit="row")


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


class _Reached(Exception):
    """Ends a forward pass at the layer whose input was wanted; it is not an error."""


def _freeze_read(model: PreTrainedModel, layer: torch.nn.Module) -> list[torch.nn.Module]:
    """Freeze every weight that decides what a layer is given, wherever the model defines it.

    Layers of deberta, for one, read a table of relative positions that comes behind them. Which weights these are is
    what gradients tell.

    :return: the modules that hold them, but for those that hold the layer, too.
    """
    given: list[torch.Tensor] = []

    def stop(_: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        given.extend(one for one in (*inputs, *named.values()) if isinstance(one, torch.Tensor) and one.requires_grad)
        raise _Reached

    ids = torch.zeros((1, 4), dtype=torch.long, device=model.device)
    handle = layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with suppress(_Reached), torch.enable_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        handle.remove()
    if not given:
        return []
    names, weights = zip(*((name, one) for name, one in model.named_parameters() if one.requires_grad), strict=True)
    gradients = torch.autograd.grad(sum(one.sum() for one in given), weights, allow_unused=True)
    read = [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None]
    for name in read:
        model.get_parameter(name).requires_grad_(False)
    owners = (model.get_submodule(name.rpartition(".")[0]) for name in read)
    return [owner for owner in owners if all(inner is not layer for inner in owner.modules())]
