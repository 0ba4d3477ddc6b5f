"""A version on the local disk, and which of its files a client needs for what."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrainer.errors import UserError
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.serve.file_locks import Hold
from retrainer.store.manifest import Manifest
from retrainer.store.move import Move

AUTO = "auto"
ANOTHER_CACHE = "give a folder as cache_dir, or in the environment variable RETRAINER_CACHE"
Verify = Literal["all", "served"]
# Beside the graphs. Not plots, model card or checkpoint.
SERVED_FILES = frozenset(
    {
        "bundle.json",
        "config.json",
        "generation_config.json",
        "golden.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
    }
)


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """A version of which every file but the graphs was checked.

    :param move: of the channel, that led to it; ``None`` when the version was asked for by name.
    :param hold: keeps it in the cache; ``None`` where the cache cannot be written.
    """

    folder: Path
    manifest: Manifest
    move: Move | None
    hold: Hold | None


def default_cache() -> Path:
    """``$RETRAINER_CACHE/models``, else ``~/.cache/retrainer/models``: may be deleted at any time.

    :raises UserError: this user has no home folder, and nothing else is said.
    """
    configured = os.environ.get("RETRAINER_CACHE")
    try:
        home = Path(configured).expanduser() if configured else Path.home() / ".cache" / "retrainer"
    except RuntimeError:  # as a container has it that runs under a number
        raise UserError(
            "there is no folder for the cache: this user has no home", where=configured, hint=ANOTHER_CACHE
        ) from None
    return home / "models"


def preferred(precision: str, available: Collection[str]) -> tuple[str, ...]:
    """The graphs to try, in order.

    :param precision: one of a bundle's, or ``auto``: those that are faster, where the bundle has them, then fp32.
    """
    if precision != AUTO:
        return (precision,)
    return (*(name for name in reversed(tuple(PRECISIONS)) if name in available and name != REFERENCE), REFERENCE)


def small_files(manifest: Manifest) -> list[str]:
    """What every client needs, whichever graph it runs."""
    return [name for name in sorted(manifest.files) if name in SERVED_FILES]


def graph_files(manifest: Manifest, precision: str) -> list[str]:
    """The graphs of a precision, and the second files of those whose weights are in one; none without such a graph."""
    entry = manifest.precisions.get(precision)
    if entry is None:
        return []
    # Weights beside a graph are named after it: model.onnx.data, or model.onnx_data as other exporters have it.
    return [
        name
        for name in sorted(manifest.files)
        if any(name == graph or name.startswith((f"{graph}.", f"{graph}_")) for graph in entry.files)
    ]
