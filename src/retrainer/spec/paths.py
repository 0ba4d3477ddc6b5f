"""Paths in a pipeline file mean: relative to that file. The types here make them absolute while a file is read, so that
a record means the same in every process, whatever folder it was started in.

The folder of the file is pydantic's validation context. A record that is read again has none: it holds absolute paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ValidationInfo

from retrainer.spec.fields import Text

TEMPLATE = "{{"
"""What is in a path that Airflow completes with the date of a run."""

_RELATIVE = ("./", "../", "~", "/")
_DOTS = frozenset({".", ".."})


def from_folder(meant: Callable[[str, Path], str]) -> AfterValidator:
    """What a text means in a file of that folder, in place of the text."""

    def validate(value: str, info: ValidationInfo) -> str:
        return meant(value, info.context) if isinstance(info.context, Path) else value

    return AfterValidator(validate)


def absolute(path: str, base: Path) -> str:
    """A path or a URL, absolute. ``file://`` of a relative path is taken for that path."""
    if path.startswith("file://"):
        return f"file://{absolute(path.removeprefix('file://'), base)}"
    if "://" in path:
        return path
    # Links stay as they are: a folder that is replaced as a whole is often reached over one.
    # Unlike pathlib's, this leaves the '~' of somebody unknown as it is.
    return os.path.normpath(base / os.path.expanduser(path))  # noqa: PTH111


def absolute_file(path: str, base: Path) -> str:
    """The same as a plain path, where it is not the URL of something else."""
    return absolute(path.removeprefix("file://"), base)


def _id_or_folder(name: str, base: Path) -> str:
    if name.startswith("file://"):
        return absolute_file(name, base)
    if ":" in name:
        return name
    # Unlike pathlib's, this says no to a name that cannot be one, such as one of 300 characters.
    is_folder = name.startswith(_RELATIVE) or name in _DOTS or os.path.isdir(base / name)  # noqa: PTH112
    return absolute(name, base) if is_folder else name


FilePath = Annotated[Text, from_folder(absolute_file)]
StorePath = Annotated[Text, from_folder(absolute)]
# A name on the hub, unless it is written like a path or is a folder beside the file.
IdOrFolder = Annotated[Text, from_folder(_id_or_folder)]
