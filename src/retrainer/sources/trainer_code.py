"""Where the module of a pipeline's own trainer is, and what identifies it, without importing it: it may load torch."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from retrainer.errors import PipelineError
from retrainer.records import digest_of, sha256_file


def fingerprint(trainer: str, *, where: str) -> str:
    """The digest of the module that a trainer is in; of a package that of all its modules, for it may come from any.

    What these import from elsewhere is not part of it.

    :param trainer: ``my_package.module.MyTrainer``.
    :param where: the pipeline's name.
    :raises PipelineError: there is no such module.
    """
    module = trainer.rpartition(".")[0]
    found = _spec(module)
    if found is None or found.origin is None or not Path(found.origin).is_file():
        place = f"{where}: training.trainer"
        if not module:
            raise PipelineError(
                f"'{trainer}' does not say where the class is", where=place, hint="write my_package.MyTrainer"
            )
        raise PipelineError(
            f"there is no Python module '{module}'",
            where=place,
            hint="install its package, or put the folder that it is in on PYTHONPATH, where runs start and train",
        )
    file = Path(found.origin)
    if found.submodule_search_locations is None:
        return sha256_file(file)
    return digest_of(
        {path.relative_to(file.parent).as_posix(): sha256_file(path) for path in file.parent.rglob("*.py")}
    )


def _spec(module: str) -> ModuleSpec | None:
    """Of a module inside a package, too: asked for by its whole name, Python would import the packages around it."""
    first, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(first) if first else None
    except (ImportError, ValueError):  # __main__, and packages that are half there
        return None
    name = first
    for part in rest:
        if found is None or found.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        found = PathFinder.find_spec(name, list(found.submodule_search_locations))
    return found
