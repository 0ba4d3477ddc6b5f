"""The commit that a repository of the Hugging Face hub is at, so that the same pipeline reads and trains the same."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from retrainer.errors import UserError, first_line

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SWITCHED_ON = {"1", "true", "yes", "on"}


def commit_of(
    repository: str,
    revision: str | None,
    *,
    kind: Literal["model", "dataset"],
    where: str,
    instead: str,
    error: type[UserError],
) -> str:
    """The commit of a revision. A full commit is taken as it is.

    A branch or a tag, ``main`` by default, is looked up on the hub; where that gives nothing, and offline, in the
    hub's local cache.

    :param where: for errors, as is ``instead``: what to name in place of a repository on the hub.
    :param error: raised when the commit cannot be found out.
    """
    if revision and _COMMIT.fullmatch(revision):
        return revision
    cached = _cached_commit(f"{kind}s--{repository.replace('/', '--')}", revision or "main")
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _SWITCHED_ON:
        problem = "neither a folder, nor in the local hub cache, and the hub is switched off (HF_HUB_OFFLINE)"
        hint = f"pin the revision to a full commit whose files are cached, or {instead}"
    else:
        try:
            from huggingface_hub import HfApi

            return str(HfApi().repo_info(repository, repo_type=kind, revision=revision, timeout=20).sha)
        except ImportError:
            problem = f"the commit of a hub {kind} cannot be found without huggingface_hub"
            hint = "pin the revision to a full commit, or install airflow-retrainer[train]"
        except Exception as failure:  # noqa: BLE001  the errors of its HTTP library share no base with any others
            problem = f"neither a folder nor a {kind} that can be had from the hub: {first_line(failure)}"
            hint = f"check the name, or {instead}"
    if cached:
        return cached
    raise error(problem, where=where, hint=hint)


def _cached_commit(folder: str, revision: str) -> str | None:
    home = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub")
    try:
        commit = (Path(home).expanduser() / folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError, RuntimeError):  # also of a name that no file can have
        return None
    return commit if _COMMIT.fullmatch(commit) else None
