"""What of a text is compared: :func:`normalise` for copies, :func:`simplify` for near duplicates.

Pure functions of one text or two.
"""

from __future__ import annotations

import unicodedata

GRAM = 5
# Below this, fewer than 20 five-grams: texts that share four fifths of so few are as often different as alike.
FEWEST_CHARACTERS = 24

# Written without spaces between words; each character stands for a word, as tokenizers also have it.
_WITHOUT_SPACES = (
    (0x3040, 0x30FF),  # hiragana, katakana
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2FA1F),
)
_ACCENTS = range(0x0300, 0x0370)


class _Replacements(dict[int, str]):
    """For ``str.translate``: what becomes of a character, worked out once for each."""

    def __missing__(self, code: int) -> str:
        self[code] = result = _replacement(chr(code))
        return result


def _replacement(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "PZ" or category in {"Cc", "Sk"}:
        return " "
    # Invisible: soft hyphens, zero-width spaces, marks of direction, the variant of an emoji.
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""
    if category == "Nd":
        return str(unicodedata.digit(character))
    parts = unicodedata.normalize("NFD", character)
    if any(ord(part) in _ACCENTS for part in parts):
        return unicodedata.normalize("NFC", "".join(part for part in parts if ord(part) not in _ACCENTS))
    if any(first <= ord(character) <= last for first, last in _WITHOUT_SPACES):
        return f" {character} "
    return character


_TABLE = _Replacements()


def normalise(text: str) -> str:
    """NFKC, case folded, runs of white space as one space, none at the ends."""
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


def simplify(text: str) -> str:
    """The words of a text, one space between them: no case, no accents, no punctuation, nothing invisible.

    A text of nothing but punctuation is left as :func:`normalise` has it: ``?!`` and ``...`` differ.
    """
    same = normalise(text)
    return " ".join(same.translate(_TABLE).split()) or "".join(same.split())


def grams(simplified: str) -> frozenset[str]:
    """The set whose Jaccard similarity is measured: each five characters in a row, over word ends too.

    :return: of a text shorter than ``FEWEST_CHARACTERS`` only the text itself, which is like nothing but itself.
    """
    if len(simplified) < FEWEST_CHARACTERS:
        return frozenset([simplified])
    return frozenset(simplified[at : at + GRAM] for at in range(len(simplified) - GRAM + 1))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """What both sets have, as a share of what either has."""
    both = len(first & second)
    return both / (len(first) + len(second) - both)
