"""Long texts: cut before they are tokenised where that cannot change the result, and how long is too long.

A model reads the first ``max_length`` tokens. A beginning of a text that gives as many tokens is enough, if its tokens
are the first tokens of the whole text. That holds where the tokenizer splits a text at white space before it looks for
tokens, does nothing across such a place, and the beginning ends at one. So a tokenizer with a step that is not known to
work like that is given the whole text. Not here: the cut to ``max_length`` tokens, which is the tokenizer's.

``tokenizers`` ends the process where memory runs out. So what it is given at once is bounded, by what its normaliser
can make of it: some steps replace one character by many, and the next each of these again.
"""

from __future__ import annotations

import base64
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

from retrainer.serve.texts import Text

# The first beginning that is tried has so many characters for each token; words of most languages have fewer.
CHARACTERS_PER_TOKEN = 8
# A text is cut when it is so many times longer than the beginning, which is tokenised twice: once to count.
WORTH_CUTTING = 4

# Each looks at single characters, at those that combine with the one before, or at both ends of a text.
_LOCAL_NORMALIZERS = frozenset(
    {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "StripAccents", "Strip"}
)
# What SentencePiece models do to several spaces. They begin after the place where a text is cut.
_SPACES = {"Regex": " {2,}"}
# Letters and digits that never combine with what follows.
_WORD_ENDS = frozenset({"Lu", "Ll", "Nd"})

# Characters that are tokenised at once, as the normaliser makes them: each takes up to 400 bytes meanwhile.
MOST_CHARACTERS = 4 << 20
# Of what one character can become. SentencePiece's rules make 18 of one, after Unicode (U+FDFA).
MOST_GROWTH = 100.0
# What a regular expression has in it that matches between two characters, and then may replace nothing by something.
_MAY_MATCH_NOTHING = re.compile(r"[*?|^$]|\\[bBAzZGKyY]|\{[0,]|\(\)")


def growth(tokenizer: Tokenizer) -> float:
    """How many characters a tokenizer may make of one before it looks for tokens, by its steps that are not bounded.

    What Unicode itself says (its normal forms, lower case) is not counted: it does not add up over several steps.
    """
    steps = (*_steps(tokenizer.normalizer, "normalizers"), *_steps(tokenizer.pre_tokenizer, "pretokenizers"))
    return math.prod(map(_growth_by, steps))


def _growth_by(step: dict[str, Any]) -> float:
    match step["type"]:
        case "Replace":
            return _growth_by_replacing(step["pattern"], len(step["content"]))
        case "Prepend":  # to each piece between added tokens
            return 1.0 + len(step["prepend"])
        case "Precompiled":
            # The size of a trie, the trie, and what its leaves point at: strings that end with a zero.
            rules = base64.b64decode(step["precompiled_charsmap"])
            strings = rules[4 + int.from_bytes(rules[:4], "little") :].split(b"\0")
            return max(1.0, *(float(len(string.decode(errors="replace"))) for string in strings))
        case "ByteLevel":
            return 4.0  # bytes of a character in UTF-8
    return 1.0


def _growth_by_replacing(pattern: dict[str, str], size: int) -> float:
    literal = pattern.get("String")
    if literal:
        return max(1.0, size / len(literal))
    expression = pattern.get("Regex", "")
    return 1.0 + size if not expression or _MAY_MATCH_NOTHING.search(expression) else max(1.0, float(size))


class Beginnings:
    """Beginnings of texts that give the same tokens as the whole texts.

    :param tokenizer: cuts at ``max_length`` tokens.
    :param most: characters that may be tokenised at once.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int | None, most: int = MOST_CHARACTERS) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self._max_length = max_length or 0
        self._possible = max_length is not None and _splits_at_spaces(tokenizer)
        # Of a pair the longer text has one more token then, and which one that is can only be counted.
        self._odd = (self._max_length - tokenizer.num_special_tokens_to_add(True)) % 2 == 1
        self._size = CHARACTERS_PER_TOKEN * self._max_length

    def of(self, text: Text) -> Text:
        """A text or pair that gives the same tokens."""
        if isinstance(text, str):
            return self._beginning(text)
        first, second = text
        cut = (self._beginning(first), self._beginning(second))
        if cut == text or (self._odd and self._is_full(cut[0]) and self._is_full(cut[1])):
            return text
        return cut

    def _beginning(self, text: str) -> str:
        size = self._size
        while self._possible and size <= self._most and len(text) >= WORTH_CUTTING * size:
            end = _last_word_end(text, size)
            if end and self._is_full(text[:end]):
                return text[:end]
            size *= 2
        return text

    def _is_full(self, text: str) -> bool:
        """Whether it gives as many tokens as the model reads."""
        (row,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return len(row.ids) >= self._max_length


def _last_word_end(text: str, size: int) -> int:
    """The last place before a space, after a letter or digit, within the first so many characters; 0 for none."""
    end = text.rfind(" ", size // 2, size)
    while end > 0 and unicodedata.category(text[end - 1]) not in _WORD_ENDS:
        end = text.rfind(" ", size // 2, end)
    return max(0, end)


def _splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether the tokens before a space never depend on what comes after it."""
    truncation = tokenizer.truncation or {}
    return (
        truncation.get("direction") == "right"
        and all(_is_local(step) for step in _steps(tokenizer.normalizer, "normalizers"))
        and _splits(next(_steps(tokenizer.pre_tokenizer, "pretokenizers"), {}))
        and not any(" " in token.content for token in tokenizer.get_added_tokens_decoder().values())
    )


def _steps(component: Any, members: str) -> Iterator[dict[str, Any]]:
    """The descriptions of a part of a tokenizer, as ``tokenizer.json`` has them; of a sequence each member's."""
    if component is None:
        return
    described = json.loads(component.__getstate__())
    yield from described[members] if described["type"] == "Sequence" else (described,)


def _is_local(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] != "Replace":
        return normalizer["type"] in _LOCAL_NORMALIZERS
    literal = normalizer["pattern"].get("String")
    return normalizer["pattern"] == _SPACES or (literal is not None and " " not in literal)


def _splits(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether the first step splits at spaces. Those after it see each piece alone."""
    kind = pre_tokenizer.get("type")
    if kind == "ByteLevel":
        return bool(pre_tokenizer["use_regex"])
    if kind == "Metaspace":
        return bool(pre_tokenizer["split"])
    return kind in {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
