"""``training.callbacks``: a user's own classes, by their names. Not here: what ours tell (``trainer.py``)."""

from __future__ import annotations

import pkgutil

from transformers import TrainerCallback

from retrainer.errors import PipelineError, first_line
from retrainer.spec.model import Pipeline


def callbacks_named(pipeline: Pipeline) -> list[TrainerCallback]:
    """One of each class in ``training.callbacks``.

    :raises PipelineError: there is no such class, or it cannot be made without arguments.
    """
    made = []
    for name in pipeline.training.callbacks:
        place = f"{pipeline.name}: training.callbacks"
        hint = "name a subclass of transformers.TrainerCallback that the interpreter of the training can import"
        try:
            kind = pkgutil.resolve_name(name)
            callback = kind() if isinstance(kind, type) else None
        except Exception as error:  # a module of the user's, which may raise anything
            raise PipelineError(f"{name} cannot be made: {first_line(error)}", where=place, hint=hint) from error
        if not isinstance(callback, TrainerCallback):
            raise PipelineError(f"{name} is not a class of callbacks", where=place, hint=hint)
        made.append(callback)
    return made
