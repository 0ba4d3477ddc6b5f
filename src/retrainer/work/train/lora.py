"""``training.peft``: small matrices that learn beside the weights, and become part of them before anything is saved.

Not here: what may be written of them (``spec/lora.py``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transformers import PreTrainedModel

from retrainer.errors import PipelineError, first_line
from retrainer.spec.lora import EVERY_LINEAR, Lora
from retrainer.spec.problems import listed, nearest


def with_lora(model: PreTrainedModel, lora: Lora, *, new: Collection[str] = (), where: str) -> Any:
    """The model with matrices that learn; of its own weights only the head does, and what did not come from the base.

    :param new: names of the weights that did not.
    :param where: the pipeline's name, for errors.
    :raises PipelineError: peft is not installed, or finds no layer of one of these names.
    """
    place = f"{where}: training.peft"
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        hint = "pip install 'airflow-retrainer[train]' where it trains"
        raise PipelineError("needs peft, which is not installed", where=place, hint=hint) from error
    whole = _learning_whole(model, new, place)
    targets = lora.target_modules
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=EVERY_LINEAR if targets == (EVERY_LINEAR,) else list(targets),
        exclude_modules=whole or None,
        modules_to_save=whole or None,
    )
    names = [name for name, part in model.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1]
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:  # all that peft says of names that fit nothing
        raise _unfitting(targets, names, place, f": {first_line(error)}") from error
    # It says nothing of those that fit nothing, where others fit.
    hit = [f".{name}" for name in adapted.targeted_module_names]
    astray = [name for name in targets if name != EVERY_LINEAR and not any(one.endswith(f".{name}") for one in hit)]
    if astray:
        raise _unfitting(astray, names, place)
    return adapted


def merged(model: Any) -> PreTrainedModel:
    """The model itself, with what the matrices learnt in its weights."""
    whole: PreTrainedModel = model.merge_and_unload()
    return whole.requires_grad_(True)


def _learning_whole(model: PreTrainedModel, new: Collection[str], place: str) -> list[str]:
    """The modules that learn without matrices: the head, and what would stay random if it did not."""
    of_head = _head(model)
    owners = {name.rpartition(".")[0] for name in new if name.partition(".")[0] not in of_head}
    if "" in owners:
        absent = min(name for name in new if "." not in name)
        raise PipelineError(
            f"{absent} is not in the base model, so it would stay random", where=place, hint="train without peft"
        )
    return of_head + sorted(owners)


def _unfitting(targets: Collection[str], names: Collection[str], place: str, why: str = "") -> PipelineError:
    """No layer has one of these names.

    :param names: of the layers whose weights are matrices.
    """
    last = sorted({name.rpartition(".")[2] for name in names} - {""})
    near = [one for name in targets if (one := nearest(name, last))]
    return PipelineError(
        f"no layer of the model that could get matrices fits {listed(targets)}{why}",
        where=f"{place}.target_modules",
        hint=f"{'did you mean ' + listed(near) + '? ' if near else ''}It has {listed(last)}; or write {EVERY_LINEAR}",
    )


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
