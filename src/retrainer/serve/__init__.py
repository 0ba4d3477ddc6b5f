"""Load a published model and ask it. Needs neither torch nor transformers.

::

    from retrainer.serve import Classifier

    classify = Classifier.from_store("s3://models", "ag-news")
    classify("Oil prices fall as supply grows")  # [{"label": "Business", "score": 0.98}]

A model that writes text is a ``Generator``.
"""

from typing import TYPE_CHECKING, Any

from retrainer.serve.classifier import Classifier
from retrainer.serve.generation import Generated, GenerationSettings
from retrainer.serve.generator import GeneratedResponse, Generator
from retrainer.serve.predictions import Prediction, Response
from retrainer.serve.status import Status

if TYPE_CHECKING:
    from retrainer.serve.async_classifier import AsyncClassifier

__all__ = [
    "AsyncClassifier",
    "Classifier",
    "Generated",
    "GeneratedResponse",
    "GenerationSettings",
    "Generator",
    "Prediction",
    "Response",
    "Status",
]


def __getattr__(name: str) -> Any:
    """``AsyncClassifier`` when it is first asked for: asyncio takes as long to import as half of the rest."""
    if name == "AsyncClassifier":
        from retrainer.serve.async_classifier import AsyncClassifier

        return AsyncClassifier
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
