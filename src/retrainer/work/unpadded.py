"""Batches without padding: their rows stand one after another in one line of tokens, and attention stays in a row.

For classifiers that answer from the first token of a row, or from the mean of its tokens. On a GPU torch's
``varlen_attn`` attends; on a CPU a slow reference with the same arguments, which tests compare with padded models.
Not here: whether a training wants it (``train/automatic.py``). Needs torch and transformers alone, for
``benchmarks/training.py`` runs where nothing else is installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel, Trainer, TrainingArguments

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

# Where each row begins, int32 [rows + 1], under the name that transformers passes on to attention; and the longest row.
STARTS, LONGEST = "cu_seq_lens_q", "max_length_q"
_ATTENTION = "retrainer_unpadded"
_WHOLE_ROW = (-1, -1)
# What the kernel takes: https://docs.pytorch.org/docs/stable/nn.attention.varlen.html, of FlashAttention.
_LARGEST_HEAD, _HEADS_ARE_MULTIPLES_OF = 256, 8
_AMPERE = (8, 0)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type of model.

    :param stack: below the base model, the module whose output is all tokens' states.
    :param counts_from_padding: positions begin behind the id of padding, and an id of padding within a row has none.
    """

    stack: str = "encoder"
    counts_from_padding: bool = False


_KINDS: Mapping[str, _Kind] = {
    "bert": _Kind(),
    "electra": _Kind(),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert"), _Kind(counts_from_padding=True)),
    "distilbert": _Kind("transformer"),
    "modernbert": _Kind(""),
}


def of_each_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = _WHOLE_ROW,
) -> torch.Tensor:
    """``varlen_attn`` in plain torch, row by row, for any type of number and on any device.

    :param query: ``[tokens, heads, width]``, as ``key``, ``value`` and what is returned.
    :param window_size: how many tokens before and behind its own one sees; -1 is all.
    """
    rows = []
    starts = cu_seq_q.tolist()
    for start, end in pairwise(starts):
        of_row = (one[start:end].transpose(0, 1).unsqueeze(0) for one in (query, key, value))
        mask = None
        if window_size != _WHOLE_ROW:
            at = torch.arange(end - start, device=query.device)
            ahead = at[None, :] - at[:, None]
            mask = (ahead >= -window_size[0]) & (ahead <= window_size[1])
        attended = torch.nn.functional.scaled_dot_product_attention(*of_row, attn_mask=mask, scale=scale)
        rows.append(attended.squeeze(0).transpose(0, 1))
    return torch.cat(rows)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **named: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it, ``[1, heads, tokens, width]``. The kernel has no dropout.

    :param sliding_window: one more than how many tokens to either side are seen.
    """
    starts, longest = named[STARTS], named[LONGEST]
    attention: Callable[..., torch.Tensor] = of_each_row if query.device.type == "cpu" else varlen_attn
    window = _WHOLE_ROW if sliding_window is None else (sliding_window - 1, sliding_window - 1)
    lines = (one.squeeze(0).transpose(0, 1) for one in (query, key, value))
    attended = attention(*lines, starts, starts, longest, longest, scale=scaling, window_size=window)
    return attended.unsqueeze(0), None


# No mask is registered under that name, so transformers makes none: of a long line it would not fit into memory.
AttentionInterface.register(_ATTENTION, _attend)


class Unpadded:
    """What a classifier needs to train on such batches. It stays as it is for padded ones.

    :param model: of a type for which :func:`why_not` has no objection.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._kind = _KINDS[model.config.model_type]
        self._takes_mean = getattr(model.config, "classifier_pooling", "cls") == "mean"
        stack = model.base_model.get_submodule(self._kind.stack)
        # Without a line of tokens it does nothing, so it stays.
        stack.register_forward_hook(self._one_state_a_row, with_kwargs=True)

    def _one_state_a_row(self, _: torch.nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
        """Leave of the tokens' states ``[1, tokens, width]`` what the head reads, ``[rows, 1, width]``."""
        starts = named.get(STARTS)
        if starts is None:
            return
        states = output.last_hidden_state.squeeze(0)
        if self._takes_mean:
            of_rows = torch.segment_reduce(states, "mean", offsets=starts.long(), axis=0)
        else:
            of_rows = states.index_select(0, starts[:-1])
        output.last_hidden_state = of_rows.unsqueeze(1)

    @contextmanager
    def attending(self) -> Iterator[None]:
        """In this block, forward and backward, the model reads batches without padding, and only these."""
        config = self._model.config
        # The public way walks through all modules, which is much for each step, and none says what it was before.
        before = config._attn_implementation  # noqa: SLF001
        config._attn_implementation = _ATTENTION  # noqa: SLF001
        try:
            yield
        finally:
            config._attn_implementation = before  # noqa: SLF001

    @property
    def collate(self) -> OneLine:
        """Makes such batches."""
        return OneLine(self._model.base_model.embeddings.padding_idx if self._kind.counts_from_padding else None)


@dataclass(frozen=True, slots=True)
class OneLine:
    """A collator without padding. It holds no model, for it may go to a process that loads data.

    :param padding: the id of padding, behind which positions begin; ``None`` where they begin at 0.
    """

    padding: int | None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Each column ``[1, tokens, ...]``, positions that begin anew in each row, and a label for each row."""
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        columns = rows[0].keys() - {"labels", "attention_mask"}
        batch: dict[str, Any] = {name: _line([row[name] for row in rows]) for name in columns}
        positions = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(lengths)
        if self.padding is not None:
            positions = _behind_padding(batch["input_ids"][0], starts, lengths, self.padding)
        return {
            **batch,
            "position_ids": positions.unsqueeze(0),
            "labels": torch.tensor([row["labels"] for row in rows]),
            STARTS: starts.int(),
            LONGEST: int(lengths.max()),
        }


def _behind_padding(ids: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, padding: int) -> torch.Tensor:
    """Positions as RoBERTa counts them: of what is not padding, from the id of padding on."""
    counts = ids != padding
    before = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    within = before[1:] - before[starts[:-1]].repeat_interleave(lengths)
    return within * counts + padding


def _line(values: list[Any]) -> torch.Tensor:
    """One column of all rows, ``[1, tokens, ...]``."""
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values).unsqueeze(0)
    return torch.tensor([value for row in values for value in row]).unsqueeze(0)


def attention_dropout(model: PreTrainedModel) -> float:
    """The share of attention that a padded training of the model would drop, and one without padding does not."""
    names = ("attention_probs_dropout_prob", "attention_dropout")
    return next((float(value) for name in names if (value := getattr(model.config, name, None)) is not None), 0.0)


def why_not(model: PreTrainedModel, arguments: TrainingArguments) -> str | None:
    """Why a training cannot do without padding; ``None`` where it can."""
    config = model.config
    kind = config.model_type
    if kind not in _KINDS:
        return f"attention of a {kind} is none that torch's kernel for rows without padding computes"
    collating = arguments.accelerator_config
    reasons = {
        "the model is set up as a decoder": getattr(config, "is_decoder", False),
        "several GPUs share one process": arguments.n_gpu > 1,
        "fsdp shares out the model": bool(arguments.fsdp),
        "deepspeed shares out the model": bool(arguments.deepspeed),
        "neftune_noise_alpha measures its noise by the length of padded rows": bool(arguments.neftune_noise_alpha),
        "accelerator_config divides batches up": bool(collating.dispatch_batches or collating.split_batches),
    }
    found = next((reason for reason, holds in reasons.items() if holds), None)
    return found or _why_not_there(config, arguments)


def _why_not_there(config: Any, arguments: TrainingArguments) -> str | None:
    """What the device or torch lacks."""
    device = arguments.device
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"torch has no kernel for rows without padding on {device.type}"
    if not kernel_is_there():
        return f"torch {torch.__version__} has no kernel for rows without padding; 2.11 has one"
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return f"a {torch.cuda.get_device_name(device)} is older than the kernel for rows without padding"
    if not (arguments.bf16 or arguments.fp16):
        return "the kernel for rows without padding computes in bf16 and fp16 alone"
    width = config.hidden_size // config.num_attention_heads
    if width % _HEADS_ARE_MULTIPLES_OF or width > _LARGEST_HEAD:
        return f"heads of {width} numbers do not fit the kernel for rows without padding"
    return None


def kernel_is_there() -> bool:
    """Whether this torch has the kernel, with windows."""
    return varlen_attn is not None and {"scale", "window_size"} <= inspect.signature(varlen_attn).parameters.keys()


class UnpaddedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that can train without padding. It evaluates with padding, for what is measured is about rows.

    :cvar unpadded: what the model needs for it; ``None`` pads.
    """

    unpadded: Unpadded | None = None

    def get_train_dataloader(self) -> Any:
        """Batches of the training rows, as they are to be read."""
        if self.unpadded is None:
            return super().get_train_dataloader()
        padded: Any = self.data_collator
        self.data_collator: Any = self.unpadded.collate
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = padded

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """Train on one batch."""
        # Around the backward pass, too: with gradient_checkpointing it computes the layers again.
        with self.unpadded.attending() if self.unpadded is not None else nullcontext():
            return super().training_step(model, inputs, *arguments, **named)
