"""What a caller may hand in: one text or pair, or many, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from retrainer.errors import DataError
from retrainer.tasks import TASKS

Text: TypeAlias = str | tuple[str, str]

# These can be gone through, too: by letters, by bytes, by keys, in no order.
_NOT_LISTS = (str, bytes, bytearray, memoryview, Mapping, set, frozenset)


def reads_pairs(task: str) -> bool:
    """Whether a model of that task, one that can be loaded, reads two texts at once."""
    return TASKS[task].texts == 2


def is_single(texts: Any) -> bool:
    """Whether that is one text, or one pair, and not many of them. A tuple is always a pair."""
    return isinstance(texts, str | bytes | tuple)


def checked(texts: Iterable[Any], task: str, first: int = 0) -> list[Text]:
    """The texts, each of the kind that the task reads, in the order in which they come.

    Whatever gives plain ``str`` (or pairs of them) when it is gone through is read: lists, generators, arrays, columns
    of a frame. What gives something else, as a frame gives the names of its columns, is refused.

    :param first: position of the first text, for errors.
    :raises DataError: one of them is not; it is named by its position, from 0. Or it is not a list of texts.
    """
    if isinstance(texts, _NOT_LISTS):
        hint = "it has no order: give a list" if isinstance(texts, set | frozenset) else "give a list: [text]"
        raise _unfit(f"expected a list of texts, got {_kind(texts)}", None, hint)
    if hasattr(type(texts), "columns"):  # of the class: a column has an attribute for each of its index's labels
        pairs = "zip(frame['first'], frame['second'])" if reads_pairs(task) else "frame['text']"
        raise _unfit(f"expected a list of texts, got a table, {_kind(texts)}", None, f"give its column: {pairs}")
    try:
        rows = iter(texts)
    except TypeError:  # also of an array without dimensions, which only looks as if it could be gone through
        raise _unfit(f"expected a text or a list of texts, got {_kind(texts)}", None, "give a list: [text]") from None
    fit = _pair if reads_pairs(task) else _single
    return [fit(row, position) for position, row in enumerate(rows, first)]


def _single(row: Any, position: int) -> str:
    if not isinstance(row, str):
        hint = "this model reads single texts" if isinstance(row, tuple | list) else _plain(row)
        raise _unfit(f"expected a str, got {_kind(row)}", position, hint)
    return row


def _pair(row: Any, position: int) -> tuple[str, str]:
    if not isinstance(row, tuple):
        hint = "this model reads pairs: give (first, second)"
        raise _unfit(f"expected a pair of texts, got {_kind(row)}", position, hint)
    if len(row) != 2 or not all(isinstance(part, str) for part in row):
        kinds = ", ".join(type(part).__name__ for part in row)
        raise _unfit(f"expected a pair of str, got ({kinds})", position, "give (first, second)")
    return row


def _plain(row: Any) -> str | None:
    """What to do about a value that holds a text in a library's own way, or none."""
    if _is_missing(row):
        return "a text is missing there: leave it out, or give ''"
    if isinstance(row, int | float):
        return None
    return "give each as a plain str, as tolist() or to_pylist() of a column gives them"


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kind(value: Any) -> str:
    if _is_missing(value):
        return str(value)
    article = "an" if type(value).__name__[:1].lower() in set("aeiou") else "a"
    return f"{article} {type(value).__name__}"


def _unfit(message: str, position: int | None, hint: str | None = None) -> DataError:
    return DataError(message, where=None if position is None else f"texts[{position}]", hint=hint)
