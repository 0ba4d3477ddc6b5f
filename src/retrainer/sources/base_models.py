"""Where a pipeline's base model is, what identifies its content, and how much it reads, without loading it.

``package:NAME/FOLDER`` is a folder inside an installed Python package, found without importing it. A path is a
folder. ``s3://`` is a prefix. Everything else is an id on the Hugging Face hub, identified by its commit.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from retrainer.errors import ModelError, PipelineError
from retrainer.records import digest_of, sha256_file
from retrainer.sources.files import etag_of
from retrainer.sources.hub import commit_of
from retrainer.spec.model import Model, Pipeline
from retrainer.storage import is_s3, open_storage
from retrainer.tasks import TASKS

PACKAGE = "package:"
_FOLDERS = ("/", "~", "file://")
# What the number of layers is called in files, by family.
_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
# Families that number positions from pad_token_id + 1, so that two of them carry no token.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "roberta-prelayernorm"})


def local_folder(base: str) -> Path | None:
    """The folder that a base names, ``None`` when it is on S3 or the hub.

    :raises ModelError: the package or the folder does not exist, or holds no model.
    """
    if base.startswith(PACKAGE):
        folder = _package_folder(base)
    elif base.startswith(_FOLDERS):
        folder = Path(base.removeprefix("file://")).expanduser()
    else:
        return None
    try:
        return _checked(folder, base)
    except OSError as error:
        raise _unreadable(error) from None


def _checked(folder: Path, base: str) -> Path:
    if not folder.is_dir():
        raise ModelError("no such folder", where=f"model.base: {base}", hint="give a folder that holds config.json")
    if not (folder / "config.json").is_file():
        raise ModelError(
            "the folder holds no config.json",
            where=f"model.base: {base}",
            hint="save a model there with save_pretrained",
        )
    return folder


def _package_folder(base: str) -> Path:
    package, _, inner = base.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier():
        raise ModelError(f"'{package}' is not a package name", where=f"model.base: {base}")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # __main__, and packages that are half there
        found = None
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            f"the Python package '{package}' is not installed",
            where=f"model.base: {base}",
            hint=f"pip install {package.replace('_', '-')}",
        )
    return Path(next(iter(found.submodule_search_locations))) / inner


def fingerprint(model: Model) -> str:
    """What identifies the content of the base model: a digest of its files, or its commit on the hub.

    :raises ModelError: it cannot be found, or its commit is not known and the hub cannot be asked.
    """
    if is_s3(model.base):
        entries = {entry.key: etag_of(entry, model.base) for entry in open_storage(model.base).list()}
        if "config.json" not in entries:
            raise ModelError(
                "no config.json under that prefix",
                where=f"model.base: {model.base}",
                hint="upload a saved model there",
            )
        return digest_of(entries)
    folder = local_folder(model.base)
    if folder is None:
        commit = commit_of(
            model.base,
            model.revision,
            kind="model",
            where=f"model.base: {model.base}",
            instead="give a folder that holds config.json, s3://, or package:NAME/FOLDER",
            error=ModelError,
        )
        return f"{model.base}@{commit}"
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    try:
        return digest_of({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})
    except OSError as error:
        raise _unreadable(error) from None


def require_sizes(pipeline: Pipeline) -> None:
    """Go on only where each base model in a folder here takes as many tokens, and has as many layers, as is wanted.

    Not asked here: models on S3 and the hub, and files that are not JSON; loading the model finds these.

    :raises PipelineError: ``model.max_length`` is more, or ``training.freeze_layers`` leaves no layer that learns.
    """
    for base in pipeline.model.candidates or (pipeline.model.base,):
        with suppress(ModelError, OSError, ValueError):
            folder = local_folder(base)
            config = json.loads((folder / "config.json").read_bytes()) if folder else None
            if isinstance(config, dict):
                require_positions(pipeline, base, config.get)
                _require_layers(pipeline, base, config)


def _require_layers(pipeline: Pipeline, base: str, config: Mapping[str, Any]) -> None:
    frozen = pipeline.training.freeze_layers
    layers = next((config[name] for name in _LAYERS if name in config), None)
    if frozen is None or not isinstance(layers, int):
        return
    if layers < 2 or (frozen != "half" and frozen >= layers):
        raise PipelineError(
            f"{base} has {layers} layer{'s' * (layers != 1)}, and at least one must be frozen and one must learn",
            where=f"{pipeline.name}: training.freeze_layers",
            hint=f"give a number from 1 to {layers - 1}" if layers > 1 else "drop it",
        )


def require_positions(pipeline: Pipeline, base: str, value_of: Callable[[str], Any]) -> None:
    """Go on only where a base model takes as many tokens as the pipeline wants.

    :param value_of: the value of a name in the model's configuration, ``None`` where it has none.
    :raises PipelineError: ``model.max_length`` is more, or ``model.max_new_tokens`` with it.
    """
    positions = value_of("max_position_embeddings")
    alone = TASKS[pipeline.task].has_encoder is False
    if positions is None and alone:
        positions = value_of("n_positions")  # what GPT-2 calls it in its file
    if not isinstance(positions, int) or positions <= 0 or value_of("position_biased_input") is False:
        return
    if value_of("model_type") in _OFFSET_POSITIONS:
        padding = value_of("pad_token_id")
        positions -= 1 + (padding if isinstance(padding, int) else 0)
    if pipeline.model.max_length > positions:
        raise PipelineError(
            f"{pipeline.model.max_length} tokens, but {base} takes at most {positions}",
            where=f"{pipeline.name}: model.max_length",
            hint=f"set it to {positions} or less",
        )
    needed = pipeline.model.max_length * alone + pipeline.model.max_new_tokens
    if TASKS[pipeline.task].writes == "text" and needed > positions:
        raise PipelineError(
            f"{needed} tokens{' with those of max_length' if alone else ''}, but {base} takes at most {positions}",
            where=f"{pipeline.name}: model.max_new_tokens",
            hint="lower model.max_new_tokens" + (" or model.max_length" if alone else ""),
        )


def _unreadable(error: OSError) -> ModelError:
    return ModelError(
        f"cannot be read: {error.strerror}", where=f"model.base: {error.filename}", hint="check its permissions"
    )


def short_name(base: str) -> str:
    """What people call a base model: the package, the folder, or the hub id without its owner."""
    return _tail(base, 1)


def public_name(base: str) -> str:
    """What is written of a base model into what others may read: the hub id, or the short name; never a path here."""
    local = is_s3(base) or base.startswith((PACKAGE, *_FOLDERS))
    return short_name(base) if local else base


def short_names(bases: Sequence[str]) -> dict[str, str]:
    """The same for several base models, each name different: with the folder above where two are called alike."""
    for parts in range(1, 1 + max((len(base.split("/")) for base in bases), default=0)):
        names = [_tail(base, parts) for base in bases]
        if len(set(names)) == len(names):
            return dict(zip(bases, names, strict=True))
    # They differ in what a file name cannot hold.
    return {base: f"{_tail(base, 1)}-{number}" for number, base in enumerate(bases, start=1)}


def _tail(base: str, parts: int) -> str:
    """The last ``parts`` parts of a name; of a package its name comes first."""
    if base.startswith(PACKAGE):
        name = "/".join(base.removeprefix(PACKAGE).split("/")[:parts])
    else:
        name = "/".join(base.rstrip("/").split("/")[-parts:])
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
