"""Training that ran away: numbers became infinite or NaN, and nothing later makes them numbers again."""

from __future__ import annotations

import torch

from retrainer.errors import PipelineError


def diverged(where: str, what: str) -> PipelineError:
    """The error to raise.

    :param where: the pipeline's name.
    :param what: how it showed.
    """
    return PipelineError(
        f"the training diverged: {what}",
        where=f"{where}: training",
        hint="lower learning_rate, raise warmup_steps, or check the base model's weights; nothing was published",
    )


def all_finite(model: torch.nn.Module) -> bool:
    """Whether every weight is a number."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
