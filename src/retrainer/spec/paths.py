"""Paths in a pipeline file mean: relative to that file. Here they become absolute, so that a record means the same
in every process, whatever folder it was started in.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_RELATIVE = ("./", "../", "~", "/")
_DOTS = frozenset({".", ".."})
_KEY_FILE = "file:"


def with_absolute_paths(pipeline: dict[str, Any], base: Path) -> dict[str, Any]:
    """A copy of what a file says, its paths made absolute. What is not of the right shape is left as it is.

    :param base: the folder of the file.
    """
    result = dict(pipeline)
    dataset = result.get("dataset")
    if isinstance(dataset, dict):
        dataset = dict(dataset)
        for split in ("train", "validation", "test"):
            if split in dataset:
                dataset[split] = _source(dataset[split], base)
        if "hub" in dataset:
            dataset["hub"] = _hub(dataset["hub"], base)
        result["dataset"] = dataset
    model = result.get("model")
    if isinstance(model, dict) and "base" in model:
        result["model"] = {**model, "base": _base(model["base"], base)}
    if isinstance(result.get("publish"), dict):
        result["publish"] = _publish(result["publish"], base)
    return result


def _publish(publish: dict[str, Any], base: Path) -> dict[str, Any]:
    """The store, the file of the private key and those of public ones."""
    result = dict(publish)
    if isinstance(result.get("store"), str) and result["store"]:
        result["store"] = absolute(result["store"], base)
    key = result.get("sign_with")
    if isinstance(key, str) and key.startswith(_KEY_FILE) and key != _KEY_FILE:
        result["sign_with"] = _KEY_FILE + absolute(key.removeprefix(_KEY_FILE), base)
    trusted = result.get("trusted_keys")
    if isinstance(trusted, (str, list, tuple)):
        several = [trusted] if isinstance(trusted, str) else trusted
        result["trusted_keys"] = [_public_key(item, base) for item in several]
    return result


def _public_key(key: Any, base: Path) -> Any:
    """A key as it is; a path of one, absolute."""
    is_path = isinstance(key, str) and not key.startswith("ed25519:") and "-----" not in key
    return _file(key, base) if is_path else key


def _base(value: Any, base: Path) -> Any:
    """One base model, or each of several."""
    if isinstance(value, (list, tuple)):
        return [_base(item, base) for item in value]
    return _id_or_folder(value, base) if isinstance(value, str) else value


def absolute(path: str, base: Path) -> str:
    """A path or a URL, absolute. ``file://`` of a relative path is taken for that path."""
    if path.startswith("file://"):
        return f"file://{absolute(path.removeprefix('file://'), base)}"
    if "://" in path:
        return path
    # Links stay as they are: a folder that is replaced as a whole is often reached over one.
    return os.path.normpath(base / Path(path).expanduser())


def _source(source: Any, base: Path) -> Any:
    if isinstance(source, str):
        return _file(source, base)
    if isinstance(source, (list, tuple)):
        return [_file(item, base) for item in source]
    if isinstance(source, dict) and "hub" in source:
        return {**source, "hub": _hub(source["hub"], base)}
    return source


def _file(path: Any, base: Path) -> Any:
    if not isinstance(path, str) or not path:
        return path
    return absolute(path.removeprefix("file://"), base)


def _hub(hub: Any, base: Path) -> Any:
    if isinstance(hub, dict) and isinstance(hub.get("path"), str):
        return {**hub, "path": _id_or_folder(hub["path"], base)}
    return hub


def _id_or_folder(name: str, base: Path) -> str:
    """A name on the hub, unless it is written like a path or is a folder beside the file."""
    if name.startswith("file://"):
        return absolute(name.removeprefix("file://"), base)
    if not name or ":" in name:
        return name
    is_folder = name.startswith(_RELATIVE) or name in _DOTS or (base / name).is_dir()
    return absolute(name, base) if is_folder else name
