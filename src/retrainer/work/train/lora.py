"""``training.peft``: small matrices that learn beside the weights, and become part of them before anything is saved.

Not here: what may be written of them (``spec/lora.py``).
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from retrainer.errors import PipelineError, first_line
from retrainer.spec.lora import Lora
from retrainer.spec.problems import listed

_EVERY_LINEAR = "all-linear"


def with_lora(model: PreTrainedModel, lora: Lora, *, where: str) -> Any:
    """The model with matrices that learn; of its own weights only the head does.

    :param where: the pipeline's name, for errors.
    :raises PipelineError: peft is not installed, or finds no layer of these names.
    """
    place = f"{where}: training.peft"
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        hint = "pip install 'airflow-retrainer[train]' where it trains"
        raise PipelineError("needs peft, which is not installed", where=place, hint=hint) from error
    of_head = _head(model)
    targets = lora.target_modules
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_EVERY_LINEAR if targets == (_EVERY_LINEAR,) else list(targets),
        exclude_modules=of_head or None,
        modules_to_save=of_head or None,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:  # all that peft says of names that fit nothing
        raise PipelineError(
            f"no layer of the model fits {listed(targets)}: {first_line(error)}",
            where=f"{place}.target_modules",
            hint="name linear layers of this model, or all-linear",
        ) from error


def merged(model: Any) -> PreTrainedModel:
    """The model itself, with what the matrices learnt in its weights."""
    whole: PreTrainedModel = model.merge_and_unload()
    return whole.requires_grad_(True)


def _head(model: PreTrainedModel) -> list[str]:
    """The parts that are new for the task, and so have to learn whole; the one that writes tokens is not."""
    if model.base_model is model:
        return []
    known = (model.base_model, model.get_output_embeddings())
    return [
        name
        for name, part in model.named_children()
        if all(part is not other for other in known) and any(True for _ in part.parameters())
    ]
