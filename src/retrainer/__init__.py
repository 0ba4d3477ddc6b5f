"""retrainer keeps text models fresh: an Airflow plugin, a command line and a small client.

Importing this package imports nothing else. Use ``retrainer.serve`` to load a published model,
``retrainer.airflow`` to write a DAG, ``retrainer.trainers`` to train from Python, and the ``retrainer`` command for
everything by hand.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrainer.trainers import BaseTrainer, ClassificationTrainer, GenerationModelTrainer

__all__ = ["BaseTrainer", "ClassificationTrainer", "GenerationModelTrainer", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The trainers, which load torch, once they are asked for."""
    if name in __all__:
        return getattr(importlib.import_module("retrainer.trainers"), name)
    raise AttributeError(f"module 'retrainer' has no attribute '{name}'")
