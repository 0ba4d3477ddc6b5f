"""What a caller may hand in: one text or pair, or many, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from retrainer.errors import DataError
from retrainer.tasks import TASKS

Text: TypeAlias = str | tuple[str, str]


def reads_pairs(task: str) -> bool:
    """Whether a model of that task, one that can be loaded, reads two texts at once."""
    return TASKS[task].texts == 2


def is_single(texts: Any) -> bool:
    """Whether that is one text, or one pair, and not many of them. A tuple is always a pair."""
    return isinstance(texts, str | bytes | tuple)


def checked(texts: Iterable[Any], task: str) -> list[Text]:
    """The texts, each of the kind that the task reads.

    :raises DataError: one of them is not; it is named by its position, from 0. Or it is no list of texts.
    """
    if isinstance(texts, str | bytes | bytearray | Mapping):
        # These can be gone through, too: by letters, by bytes, by keys.
        raise _unfit(f"expected a list of texts, got {_kind(texts)}", None, "give a list: [text]")
    if not isinstance(texts, Iterable):
        raise _unfit(f"expected a text or a list of texts, got {_kind(texts)}", None)
    pairs = reads_pairs(task)
    rows = list(texts)
    for position, row in enumerate(rows):
        if pairs:
            _check_pair(row, position)
        elif not isinstance(row, str):
            hint = "this model reads single texts" if isinstance(row, tuple | list) else None
            raise _unfit(f"expected a str, got {_kind(row)}", position, hint)
    return rows


def _check_pair(row: Any, position: int) -> None:
    if not isinstance(row, tuple):
        raise _unfit(
            f"expected a pair of texts, got {_kind(row)}",
            position,
            "this model reads pairs: give (first, second)",
        )
    if len(row) != 2 or not all(isinstance(part, str) for part in row):
        kinds = ", ".join(type(part).__name__ for part in row)
        raise _unfit(f"expected a pair of str, got ({kinds})", position, "give (first, second)")


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _unfit(message: str, position: int | None, hint: str | None = None) -> DataError:
    return DataError(message, where=None if position is None else f"texts[{position}]", hint=hint)
