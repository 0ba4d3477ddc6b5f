"""Tokens that come one by one to pieces of text, which together are the text of all of them.

What a token is written as may depend on those beside it: a character can be several tokens, and bytes that are tokens
of their own (``<0x0A>``) are read together up to the next token of another kind. So a piece is given out when nothing
that may follow can change it. Not here: the text of a whole answer, which the tokenizer gives.
"""

from __future__ import annotations

import re

from tokenizers import Tokenizer

# Bytes that make no character; what follows may complete it.
_INCOMPLETE = "\ufffd"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that are not part of an answer's text."""
    return frozenset(id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special)


class Pieces:
    """The text of one answer. Special tokens are left out.

    :param special: see ``special_ids``.
    """

    def __init__(self, tokenizer: Tokenizer, special: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        # The last tokens: those of which the text was given out, as far as what follows may depend on them, and others.
        self._tokens: list[int] = []
        self._given_tokens = 0
        self._given = ""

    def add(self, token: int) -> str:
        """What can be given out now that this token has come; often nothing."""
        name = self._tokenizer.id_to_token(token)
        if name is None or token in self._special:
            return ""
        self._tokens.append(token)
        if _BYTE.fullmatch(name):
            return ""
        text = self._text(self._tokens)
        if text.endswith(_INCOMPLETE) or not text.startswith(self._given):
            return ""
        piece = text[len(self._given) :]
        # The text of the newest tokens alone is what the next piece goes on from. Decoders take a space from the start:
        # only where something is left can no more of it be taken.
        newest = self._tokens[self._given_tokens :]
        alone = self._text(newest)
        if alone.strip():
            self._tokens, text = newest, alone
        self._given_tokens, self._given = len(self._tokens), text
        return piece

    def _text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)
