"""The checkpoint that is exported: model and tokenizer, ready to be traced, and its own answers in torch."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from retrainer.errors import ExportError, ModelError, first_line
from retrainer.serve.predictor import INPUTS
from retrainer.serve.texts import Text
from retrainer.tasks import trainable_task
from retrainer.work.snapshot_texts import parts

REFERENCE_ROWS = 16


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A fine-tuned model with its tokenizer.

    :param tokenizer: a fast one.
    :param inputs: names of what the tokenizer gives and the model reads.
    """

    folder: Path
    model: PreTrainedModel
    tokenizer: Any
    inputs: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Names in the order of the logits, as the model's configuration says."""
        names: dict[int, str] = self.model.config.id2label
        return tuple(str(names.get(index)) for index in range(self.model.config.num_labels))


def load_model(folder: Path, task: str) -> tuple[PreTrainedModel, Any]:
    """The model of a checkpoint on the CPU, in float32, in evaluation mode, and its tokenizer.

    :raises ModelError: it cannot be read, or has no fast tokenizer.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    model_class = trainable_task(task, where=str(folder)).part("model_class")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = model_class.from_pretrained(folder, dtype=torch.float32)
    except MemoryError:
        raise
    except Exception as error:  # files of a model can be damaged in any way
        raise ModelError(f"the checkpoint cannot be loaded: {first_line(error)}", where=str(folder)) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} has no fast form, and the published model needs a tokenizer.json",
            where=str(folder),
            hint="choose a base model that comes with a tokenizer.json",
        )
    if tokenizer.pad_token_id is None:
        raise ModelError("the tokenizer has no padding token", where=str(folder), hint="set tokenizer.pad_token")
    return model.eval(), tokenizer


def load_checkpoint(folder: Path, labels: tuple[str, ...], task: str) -> Checkpoint:
    """Load a classifier's checkpoint, ready to be traced.

    :param labels: what the logits should mean, in order.
    :raises ModelError: it cannot be read, or has no fast tokenizer, or reads what a bundle cannot give.
    :raises ExportError: its labels are others, or in another order.
    """
    model, tokenizer = load_model(folder, task)
    accepted = inspect.signature(model.forward).parameters
    given = {name for name in tokenizer.model_input_names if name in accepted}
    checkpoint = Checkpoint(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        inputs=tuple(name for name in INPUTS if name in given),
    )
    if given - set(INPUTS):
        raise ModelError(
            f"the model reads {', '.join(sorted(given - set(INPUTS)))}, which a bundle cannot give",
            where=str(folder),
        )
    check_labels(checkpoint.labels, labels, where=str(folder))
    return checkpoint


def check_labels(found: tuple[str, ...], expected: tuple[str, ...], *, where: str) -> None:
    """Refuse labels that are not the expected ones in the expected order.

    :raises ExportError: names the first that differs.
    """
    if len(found) != len(expected):
        raise ExportError(f"has {len(found)} labels, the data has {len(expected)}", where=where)
    for index, (name, wanted) in enumerate(zip(found, expected, strict=True)):
        if name != wanted:
            raise ExportError(
                f"label {index} is '{name}', and '{wanted}' in the data",
                where=where,
                hint="the labels were permuted on the way; every prediction would carry a wrong name",
            )


def reference_logits(checkpoint: Checkpoint, texts: Sequence[Text], max_length: int) -> npt.NDArray[np.float32]:
    """What the checkpoint itself answers, float32 ``[texts, labels]``.

    Tokenised by transformers and without any padding: only rows of the same length share a batch.
    """
    rows = [checkpoint.tokenizer(*parts(text), truncation=True, max_length=max_length) for text in texts]
    by_length: dict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        by_length[len(row["input_ids"])].append(position)
    result = np.empty((len(texts), len(checkpoint.labels)), dtype=np.float32)
    with torch.inference_mode():
        for positions in by_length.values():
            for start in range(0, len(positions), REFERENCE_ROWS):
                chosen = positions[start : start + REFERENCE_ROWS]
                feed = {name: torch.tensor([rows[position][name] for position in chosen]) for name in checkpoint.inputs}
                result[chosen] = checkpoint.model(**feed).logits.numpy()
    return result
