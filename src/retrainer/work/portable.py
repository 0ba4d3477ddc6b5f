"""Configuration files of transformers as a version carries them: nothing in them points at what is not in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Where and with what a file was written: the same checkpoint must give the same bytes.
_OF_THIS_HOST = {"name_or_path", "_name_or_path", "transformers_version", "local_files_only", "is_local"}
# Classes in Python files of the base model's repository. They are not published, and whoever loads the version with
# transformers would be asked to trust code that is not there.
_REMOTE_CODE = {"auto_map", "custom_pipelines"}


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration, and those of the models within it, without such keys."""
    return {
        key: portable(value) if isinstance(value, dict) and "model_type" in value else value
        for key, value in config.items()
        if key not in _OF_THIS_HOST | _REMOTE_CODE
    }


def make_portable(path: Path) -> None:
    """Rewrite such a file; one that is not there stays away."""
    if path.is_file():
        write_config(path, portable(json.loads(path.read_bytes())))


def write_config(path: Path, content: dict[str, Any]) -> None:
    """As transformers writes them."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
