"""The commit that a dataset on the hub stands at, so that the same pipeline reads the same rows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from retrainer.errors import DataError
from retrainer.spec.model import HubDataset

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SWITCHED_ON = {"1", "true", "yes", "on"}


def is_folder(hub: HubDataset) -> bool:
    """Whether it is a dataset in a local folder. Paths in a pipeline are absolute once it has been loaded."""
    return Path(hub.path).is_absolute()


def pinned(hub: HubDataset) -> HubDataset:
    """The same dataset at a commit.

    A full commit is taken as it is. A branch or a tag, ``main`` unless given, is looked up on the hub; offline, in
    the hub's local cache.

    :raises DataError: the commit cannot be found out.
    """
    if hub.revision and _COMMIT.fullmatch(hub.revision):
        return hub
    return hub.model_copy(update={"revision": _commit(hub)})


def _commit(hub: HubDataset) -> str:
    where = f"dataset {hub.path}"
    cached = _cached_commit(hub.path, hub.revision or "main")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _SWITCHED_ON:
        if cached:
            return cached
        raise DataError(
            "not in the local hub cache, and the hub is switched off (HF_HUB_OFFLINE)",
            where=where,
            hint="pin `revision` to a full commit whose files are cached, or name files instead",
        )
    try:
        from huggingface_hub import HfApi
    except ImportError:
        if cached:
            return cached
        raise DataError(
            "the commit of a hub dataset cannot be found without huggingface_hub",
            where=where,
            hint="pin `revision` to a full commit, or install airflow-retrainer[train]",
        ) from None
    try:
        return str(HfApi().dataset_info(hub.path, revision=hub.revision, timeout=20).sha)
    except (OSError, ValueError) as error:
        if cached:
            return cached
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"the hub does not give it: {first}",
            where=where,
            hint="check the name, or pin `revision` to a full commit to do without asking",
        ) from None


def _cached_commit(repository: str, revision: str) -> str | None:
    home = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub")
    folder = Path(home).expanduser() / f"datasets--{repository.replace('/', '--')}"
    reference = folder / "refs" / revision
    try:
        return reference.read_text(encoding="ascii").strip()
    except OSError:
        return None
