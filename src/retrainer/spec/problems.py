"""What is wrong at which key, in plain words: the shape of every complaint about a pipeline file.

Not here: finding the line of a key, and turning complaints into an error (``load.py``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from pydantic_core import PydanticCustomError

Place = tuple[str | int, ...]

# Nobody reads more, and looking for the names that were meant takes time for each.
MOST_PROBLEMS = 50


class Problem(NamedTuple):
    """One mistake: the keys that lead to it, from where it is raised, and a sentence."""

    place: Place
    message: str


def refuse(problems: Sequence[Problem]) -> NoReturn:
    """End a validator with everything it found; ``explain.py`` takes it apart again."""
    raise PydanticCustomError(
        "retrainer_problems",
        "{summary}",
        {
            "summary": "; ".join(problem.message for problem in problems),
            "problems": [tuple(problem) for problem in problems],
        },
    )


def refuse_one(message: str, *place: str | int) -> NoReturn:
    """End a validator with one mistake."""
    refuse([Problem(place, message)])


def key_path(place: Place) -> str:
    """``dataset.text[1]``"""
    path = ""
    for part in place:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def nearest(name: object, names: Iterable[str]) -> str | None:
    """The name that was probably meant, if one is near."""
    known = list(names)
    found = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    if found:
        return found[0]
    folded = {other.casefold().replace("-", "_"): other for other in known}
    return folded.get(str(name).casefold().replace("-", "_"))


def suggestion(name: object, names: Iterable[str], *, otherwise: str = "") -> str:
    """``; did you mean 'x'?``, or the text given when nothing is near."""
    near = nearest(name, names)
    return f"; did you mean '{near}'?" if near else otherwise


def listed(names: Iterable[object]) -> str:
    """``a, b, c``"""
    return ", ".join(str(name) for name in names)


def found(value: Any) -> str:
    """A value as the person who wrote it would describe it: ``'abc' (text)``."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if isinstance(value, int):
        return f"{value} (a whole number)" if abs(value) < 10**100 else "a whole number of more than 100 digits"
    if isinstance(value, float):
        return f"{value!r} (a number)"
    if isinstance(value, str):
        short = value if len(value) <= 60 else value[:57] + "..."
        return f"{short!r} (text)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return type(value).__name__
