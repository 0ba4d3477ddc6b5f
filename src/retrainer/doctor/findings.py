"""What a check says: of what, whether it is well, and how to mend it.

Not here: which checks there are (``checks.py``), and how findings are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from retrainer.errors import RetrainerError, first_line

if TYPE_CHECKING:
    from retrainer.doctor.deployment import Deployment

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one look.

    :param state: a warning is worth knowing here, and may be as it should be elsewhere.
    :param what: what was looked at, in a few words.
    :param text: what came of it; never a secret.
    :param hint: how to mend it.
    """

    state: State
    what: str
    text: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at in a deployment.

    :param title: for people.
    :param look: yields what it finds. An error of this package that it raises is a finding, too.
    """

    title: str
    look: Callable[[Deployment], Iterable[Finding]]


def problem(what: str, error: RetrainerError) -> Finding:
    """The finding that an error is."""
    text = f"{error.where}: {error.message}" if error.where else error.message
    return Finding("broken", what, text, error.hint)


def finding(what: str, look: Callable[[], str]) -> Finding:
    """What a look says that gives a text, or raises what is wrong."""
    try:
        return Finding("ok", what, look())
    except (RetrainerError, OSError, ValueError) as error:
        return broken(what, error)


def broken(what: str, error: RetrainerError | OSError | ValueError) -> Finding:
    """The finding that an error is, also one of a name that no file system takes: a NUL in it, 5,000 characters."""
    if isinstance(error, RetrainerError):
        return problem(what, error)
    return Finding("broken", what, f"cannot be looked at: {first_line(error)}")
