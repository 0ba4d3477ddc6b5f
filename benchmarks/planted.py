"""Copies of rows as they leak from train into test: with another case, white space, Unicode form, or one other word."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Sequence

Text = str | tuple[str, str]
Edit = Callable[[str, random.Random, Sequence[str]], str]

FEWEST_WORDS = 5
_TYPOGRAPHIC = str.maketrans({"'": "\u2019", '"': "\u201d", "-": "\u2013"})


def _case(text: str, chance: random.Random, words: Sequence[str]) -> str:
    return chance.choice([text.upper(), text.lower(), text.swapcase()])


def _white_space(text: str, chance: random.Random, words: Sequence[str]) -> str:
    return "\n " + "".join(chance.choice(["  ", "\t", "\u00a0"]) if c == " " else c for c in text) + " "


def _compatibility_form(text: str, chance: random.Random, words: Sequence[str]) -> str:
    """Full-width letters, accents decomposed."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in unicodedata.normalize("NFD", text))


def _typographic(text: str, chance: random.Random, words: Sequence[str]) -> str:
    """Typographic quotes and dashes for plain ones, an invisible space, and no accents."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return plain.translate(_TYPOGRAPHIC).replace(" ", "\u200b ", 1) + "\u2026"


def _word_changed(text: str, chance: random.Random, words: Sequence[str]) -> str:
    own = text.split(" ")
    at = chance.choice([at for at, word in enumerate(own) if any(map(str.isalpha, word))])
    return " ".join([*own[:at], _other(own[at], chance, words), *own[at + 1 :]])


def _word_added(text: str, chance: random.Random, words: Sequence[str]) -> str:
    own = text.split(" ")
    at = chance.randint(0, len(own))
    return " ".join([*own[:at], chance.choice(words), *own[at:]])


def _word_removed(text: str, chance: random.Random, words: Sequence[str]) -> str:
    own = text.split(" ")
    at = chance.choice([at for at, word in enumerate(own) if any(map(str.isalpha, word))])
    return " ".join([*own[:at], *own[at + 1 :]])


def _other(word: str, chance: random.Random, words: Sequence[str]) -> str:
    return next(other for other in iter(lambda: chance.choice(words), "") if other.lower() != word.lower())


# Those that the search for exact copies has to find, all of them.
EXACT: dict[str, Edit] = {"case": _case, "white space": _white_space, "compatibility form": _compatibility_form}
NEAR: dict[str, Edit] = {
    "typographic": _typographic,
    "word changed": _word_changed,
    "word added": _word_added,
    "word removed": _word_removed,
}


def long_enough(text: Text) -> bool:
    """Whether one word can be changed in it: five words, in a pair in one of the texts."""
    return max(_words(part) for part in (text if isinstance(text, tuple) else (text,))) >= FEWEST_WORDS


def _words(text: str) -> int:
    return sum(any(map(str.isalnum, word)) for word in text.split())


def vocabulary(texts: Sequence[Text]) -> list[str]:
    """Words to put in another's place: those of the data itself."""
    parts = [part for text in texts[:2000] for part in (text if isinstance(text, tuple) else (text,))]
    return sorted({word for part in parts for word in part.split() if word.isalpha()})


def copy(text: Text, kind: str, chance: random.Random, words: Sequence[str]) -> Text:
    """One copy. Of a pair a word changes in one text that is long enough; all else changes in both."""
    edit = {**EXACT, **NEAR}[kind]
    if isinstance(text, str):
        return edit(text, chance, words)
    if not kind.startswith("word"):
        return edit(text[0], chance, words), edit(text[1], chance, words)
    at = chance.choice([at for at, part in enumerate(text) if _words(part) >= FEWEST_WORDS])
    edited = edit(text[at], chance, words)
    return (edited, text[1]) if at == 0 else (text[0], edited)
