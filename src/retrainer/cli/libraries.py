"""Which optional libraries a command needs, found without importing them: one clear error instead of a stack trace."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Literal

from retrainer.errors import ResourceError

Extra = Literal["train", "serve", "server"]

EXTRAS: dict[Extra, tuple[str, ...]] = {
    "train": ("torch", "transformers", "accelerate", "datasets", "evaluate", "onnx", "onnxruntime", "sklearn"),
    "serve": ("numpy", "onnxruntime", "tokenizers", "cryptography"),
    "server": ("starlette", "uvicorn", "httptools", "uvloop", "prometheus_client"),
}


def missing(extra: Extra) -> list[str]:
    """The libraries of an extra that this interpreter does not have."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def require(extra: Extra, *, only: Sequence[str] | None = None, otherwise: str = "") -> None:
    """Go on only where an extra is installed.

    :param only: the libraries that the command needs, where those are not all of the extra.
    :param otherwise: what else would help, for the hint.
    :raises ResourceError: something of it is missing.
    """
    absent = missing(extra) if only is None else [name for name in only if importlib.util.find_spec(name) is None]
    if absent:
        raise ResourceError(
            f"{', '.join(absent)} not installed",
            where=sys.executable,
            hint=f"pip install 'airflow-retrainer[{extra}]'{otherwise}",
        )
