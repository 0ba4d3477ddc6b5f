"""The interpreter that trains: asked in a process of its own, because it may be another one than this."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

from retrainer import __version__
from retrainer.doctor.findings import Finding
from retrainer.errors import IntegrityError, ResourceError
from retrainer.records import Record

if TYPE_CHECKING:
    from retrainer.doctor.deployment import Deployment

# It imports torch and transformers, from a cold disk perhaps.
SECONDS = 120
OLDEST = (3, 11)
_INSTALL = "pip install 'airflow-retrainer[train]'"


class Device(Record):
    """A GPU that torch sees.

    :param bytes: of its memory.
    """

    name: str
    bytes: int


class Cuda(Record):
    """What torch says of CUDA.

    :param built_for: the version that torch was built for; ``None`` for a build without it.
    """

    built_for: str | None
    devices: tuple[Device, ...]


class Unmet(Record):
    """A requirement, and the version that is there instead."""

    needed: str
    found: str | None


class Interpreter(Record):
    """What ``interpreter_program.py`` prints.

    :param retrainer: the version of this package there.
    :param packages: package to version, of those that could be imported.
    :param failed: what was said where one is there and cannot be imported, or CUDA not be asked.
    :param unmet: what the extra ``train`` asks for in vain; ``None`` where that cannot be found out.
    """

    python: str
    executable: str
    retrainer: str | None
    packages: dict[str, str]
    failed: dict[str, str]
    cuda: Cuda | None
    unmet: tuple[Unmet, ...] | None


def ask_interpreter(python: str) -> Interpreter:
    """What an interpreter says of itself.

    :raises ResourceError: it cannot be started, or does not answer.
    """
    hint = "set trainer_python (RETRAINER_TRAINER_PYTHON) to a Python that has airflow-retrainer[train]"
    program = files("retrainer.doctor").joinpath("interpreter_program.py").read_text(encoding="utf-8")
    try:
        answer = subprocess.run(
            [python, "-c", program], capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace"
        )
        return Interpreter.from_json(answer.stdout.splitlines()[-1].encode(), where=python)
    except OSError as error:
        raise ResourceError(f"cannot be started: {error.strerror}", where=python, hint=hint) from None
    except subprocess.TimeoutExpired:
        raise ResourceError(f"did not answer within {SECONDS} s", where=python, hint="is its disk slow?") from None
    except (IndexError, IntegrityError):
        said = (answer.stderr.strip() or answer.stdout.strip() or "nothing").splitlines()[-1]
        raise ResourceError(f"ended with {answer.returncode} and said: {said}", where=python, hint=hint) from None


def look(deployment: Deployment) -> Iterator[Finding]:
    """Its versions against what is needed, and against this side."""
    found = deployment.interpreter
    what = found.executable
    if tuple(int(part) for part in found.python.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield Finding("broken", what, f"is Python {found.python}", f"use Python {oldest} or newer")
        return
    yield Finding("ok", what, f"Python {found.python}")
    yield _of_this_package(found)
    for name, said in sorted(found.failed.items()):
        yield Finding("broken", name, f"is installed and cannot be used: {said}", f"there: {_INSTALL}")
    yield from _requirements(found)


def _of_this_package(found: Interpreter) -> Finding:
    what = "airflow-retrainer"
    if found.retrainer is None:
        return Finding("broken", what, "is not installed there", f"there: {_INSTALL}")
    if found.retrainer != __version__:
        text = f"is {found.retrainer} there and {__version__} here; their requests and answers may differ"
        return Finding("broken", what, text, f"install {__version__} on both sides")
    return Finding("ok", what, f"{found.retrainer}, as here")


def _requirements(found: Interpreter) -> Iterator[Finding]:
    versions = ", ".join(f"{name} {version}" for name, version in found.packages.items())
    if found.unmet is None:
        text = f"{versions or 'nothing'}; what is needed is not known, because pip installed nothing of ours there"
        yield Finding("warning", "packages", text, _INSTALL)
        return
    for one in found.unmet:
        name = one.needed
        text = f"{one.found} is installed" if one.found else "is not installed"
        yield Finding("broken", name, text, f"there: {_INSTALL}")
    if not found.unmet:
        yield Finding("ok", "packages", versions)
