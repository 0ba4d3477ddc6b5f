"""The one form of a label, however it is spelled, and which labels a person cannot tell apart.

Light, so that ``retrainer init`` and the ingest step mean the same. Not here: rows, files (``work/ingest/labels.py``).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Any

from retrainer.errors import DataError

# Longer ones are no numbers that anybody counts with, and Python converts no more than 4,300 digits.
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,30}))(?:\.0{0,30})?")
_NUMBER = re.compile(r"[+-]?[0-9]{1,31}(?:\.[0-9]{0,31})?(?:[eE][+-]?[0-9]{1,3})?|[+-]?\.[0-9]{1,31}")
_BEGINS_WITH_NUMBER = re.compile(r"[+-]?\.?\d")
# Around a whole label they are left from a file that was read, or written, with other quotes.
_AROUND = {'"': '"', "'": "'", "“": "”"}
VECTOR_HINT = "of a vector of 0 and 1 write the labels that are 1, or a column for each label"
_LIST_HINT = 'such as ["toxic", "obscene"], or [] for none of them'
BOOLEANS = frozenset({"true", "false"})
# Written for "no label" by tools that do not leave the cell empty. Not "none" or "NA": these are used as labels.
_NO_LABEL = frozenset({"", "nan", "NaN", "NAN", "NaT", "null", "NULL", "Null", "<NA>", "<na>", "#N/A"})
_AS_BOOLEAN = {"0": "false", "1": "true"}
# Between letters of some scripts, and between emoji, these two change what is seen.
_JOINERS = "\u200c\u200d"
# After a black flag these letters say whose it is; anywhere else they are not seen.
_FLAG, _TAGS = "\U0001f3f4", "".join(map(chr, range(0xE0020, 0xE0080)))
# Seen as nothing, or as a blank, though Unicode calls them letters and marks.
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10))))
# Letters of other scripts that look like Latin ones, capital or small; and signs that come in many shapes.
_ALIKE = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁԛԝѵ" + "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονιρυϲ" + "ՕՍօսոհ" + "‐‑‒–—―−" + "‘’ʼ′´" + "“”„″",
    "ABESIJKMHOPCTYXaesijopcyxhdqwv" + "ABEZHIKMNOPTYXovipuc" + "OUounh" + "-" * 7 + "'" * 5 + '"' * 4,
)


def canonical(text: str) -> str:
    """What a spelling means: ``1.0`` is ``1``, ``TRUE`` is ``true``; in NFC, without characters that are not seen."""
    name = _tidy(text)
    inner = name[1:-1].strip()
    if inner and _AROUND.get(name[0]) == name[-1] and not any(mark in inner for mark in "\"'“”"):
        name = inner
    if whole := _WHOLE.fullmatch(name):
        return "0" if whole[1] == "-0" else whole[1]
    return name.lower() if name.lower() in BOOLEANS else name


def _tidy(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        seen = [character for at, character in enumerate(text) if not _invisible(text, at)]
        text = unicodedata.normalize("NFC", "".join(seen))
    return " ".join(text.split())


def _invisible(text: str, at: int) -> bool:
    character = text[at]
    if character in _JOINERS and 0 < at < len(text) - 1:
        return text[at - 1].isascii() or text[at + 1].isascii()
    if character in _TAGS and text[max(0, at - 7) : at].rstrip(_TAGS).endswith(_FLAG):
        return False
    hidden = unicodedata.category(character) in {"Cf", "Cc"} and not character.isspace()
    return hidden or character in _FILLERS


def means_no_label(text: str) -> bool:
    """Whether what is in the column of the labels says that a row has none."""
    if text.isascii() and len(text) > 40:
        return text.isspace()  # a text that init looks at; its canonical form takes a while
    return canonical(text) in _NO_LABEL


def members(text: str, *, where: str) -> list[str]:
    """The labels of a row that has any number of them, each as it is spelled, from a JSON list of them.

    :raises DataError: it is no such list.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise DataError(f"expected a JSON list of labels, found {_shortened(text)}", where=where, hint=_LIST_HINT)
    return members_of(found, where=where)


def members_of(values: Sequence[Any], *, where: str) -> list[str]:
    """The same of a list that was read already.

    :raises DataError: one of them is not a label; a number is there twice, as in vectors of 0 and 1.
    """
    names = []
    for value in values:
        name = str(value).strip()
        if isinstance(value, bool) or not isinstance(value, str | int | float) or means_no_label(name):
            found = f"not every member of {_shortened(str(list(values)))} is a label"
            raise DataError(found, where=where, hint=VECTOR_HINT if isinstance(value, bool) else _LIST_HINT)
        names.append(name)
    numbers = [name for name in map(canonical, names) if is_whole(name) or name in BOOLEANS]
    if len(numbers) != len({*numbers}):
        found = f"{_shortened(str(list(values)))} has a number twice, so it does not list labels"
        raise DataError(found, where=where, hint=VECTOR_HINT)
    return names


def _shortened(text: str) -> str:
    return spelled(text if len(text) <= 60 else f"{text[:60]}...")


def is_whole(name: str) -> bool:
    """Whether a canonical name is a whole number."""
    return _WHOLE.fullmatch(name) is not None


def begins_with_number(name: str) -> bool:
    """Whether a name is a number, or begins with one, in any writing: ``1``, ``01``, ``1e0``, ``1 star``."""
    text = unicodedata.normalize("NFKC", canonical(name).translate(_ALIKE))
    return _BEGINS_WITH_NUMBER.match(text) is not None


def position(name: str, labels: Sequence[str]) -> int | None:
    """Where a label is among labels, which may be spelled otherwise."""
    for spelling in (str, canonical):
        if (wanted := spelling(name)) in (known := [*map(spelling, labels)]):
            return known.index(wanted)
    return None


def settle(names: Collection[str]) -> dict[str, str]:
    """Canonical name to label: where 0 and 1 are beside false and true, and nothing else is, they are these."""
    found = set(names)
    mixed = found <= BOOLEANS | _AS_BOOLEAN.keys() and not found.isdisjoint(BOOLEANS)
    return {name: _AS_BOOLEAN.get(name, name) if mixed else name for name in found}


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Sorted; by number where all are whole numbers."""
    found = set(labels)
    return tuple(sorted(found, key=int) if all(map(is_whole, found)) else sorted(found))


def look_alikes(labels: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of labels that differ in nothing, or in nothing but case, that a person would take for a difference."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(_skeleton(label), []).append(label)
    for group in groups.values():
        yield from pairwise(group)


def refuse_look_alikes(rows: Mapping[str, int], where: Callable[[str], str]) -> None:
    """Go on only where no two labels look alike.

    :param rows: of each label.
    :param where: the first place of a label.
    :raises DataError: names both, with their rows and characters.
    """
    for pair in look_alikes(rows):
        few, many = sorted(pair, key=lambda name: (rows[name], name))
        how = "differ only in case" if few.lower() == many.lower() else "look alike, and are different"
        raise DataError(
            f"labels {spelled(many)}, {rows[many]:,} rows, and {spelled(few)}, {rows[few]:,}, {how}",
            where=where(few),
            hint="make them one in the data; or, if they are two labels, list all labels in dataset.labels",
        )


def _skeleton(label: str) -> str:
    """What is left of a label when all is gone that eyes, or tools that write numbers, do not keep."""
    text = unicodedata.normalize("NFKC", label.translate(_ALIKE)).casefold()
    if _NUMBER.fullmatch(text):
        return f"number {Decimal(text).normalize()}"
    if not any(map(str.isalnum, text)):
        return text  # of labels such as + and ++ each sign counts
    text = re.sub(r"[\s_-]+", "-", "".join(mark for mark in text if mark not in _JOINERS))
    return text.rstrip(".,;:") or text


def spelled(label: str) -> str:
    """A label in quotes; with its characters, if some are not plain, those by their code points."""
    if all(" " <= mark <= "~" for mark in label):
        return f"'{label}'"
    marks = [mark if "!" <= mark <= "~" else f"U+{ord(mark):04X}" for mark in label]
    return f"'{label}' ({' '.join(marks)})"
