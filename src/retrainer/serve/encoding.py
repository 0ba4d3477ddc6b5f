"""Texts to tokens, by the tokenizer of a bundle: how it is loaded, and how it is asked so that no text can break it.

Not here: padding (``batching.py``), which beginning of a long text is enough (``long_texts.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from retrainer.errors import DataError, IntegrityError
from retrainer.regular_files import read_regular
from retrainer.serve.engine import ENDS
from retrainer.serve.long_texts import MOST_CHARACTERS, MOST_GROWTH, Beginnings, growth
from retrainer.serve.texts import Text

TOKENIZER = "tokenizer.json"


def load_tokenizer(folder: Path, max_length: int | None) -> Tokenizer:
    """The tokenizer of a bundle, without padding.

    :param max_length: tokens after which a text is cut, of a pair the longer one first; ``None`` never cuts.
    :raises IntegrityError: it is missing or damaged.
    """
    path = folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_buffer(read_regular(path))
    except (*ENDS, MemoryError):
        raise
    except BaseException as error:  # it raises no other class, and panics
        raise IntegrityError(f"not a readable tokenizer: {error}", where=str(path)) from error
    grown = growth(tokenizer)
    if grown > MOST_GROWTH:
        raise IntegrityError(
            f"its normaliser can make {grown:,.0f} characters of one, which takes more memory than there is",
            where=str(path),
            hint=f"publish a model whose tokenizer makes at most {MOST_GROWTH:g}",
        )
    tokenizer.no_padding()
    if max_length is None:
        tokenizer.no_truncation()
        return tokenizer
    added = tokenizer.num_special_tokens_to_add(False)
    if added > max_length:
        raise IntegrityError(f"it adds {added} tokens to each text, and {max_length} are read", where=str(path))
    side = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.enable_truncation(max_length, strategy="longest_first", direction=side)
    return tokenizer


class TextEncoder:
    """Tokenises texts, in portions that fit into memory.

    :param tokenizer: cuts at ``max_length`` tokens.
    """

    def __init__(self, tokenizer: Tokenizer, max_length: int | None) -> None:
        self._tokenizer = tokenizer
        self._most_characters = int(MOST_CHARACTERS / growth(tokenizer))
        self._beginnings = Beginnings(tokenizer, max_length, self._most_characters)

    def encode(self, texts: Sequence[Text], first: int = 0) -> list[Any]:
        """The tokens of each text, as ``tokenizers`` returns them.

        :param first: position of the first text, for errors.
        :raises DataError: a text is not valid Unicode, or not one that the tokenizer can read.
        """
        rows: list[Any] = []
        try:
            for some in self._portions([self._beginnings.of(text) for text in texts], first):
                rows += self._tokenizer.encode_batch_fast(some)
        except (DataError, *ENDS, MemoryError):
            raise
        except BaseException:  # noqa: BLE001  it panics, too
            raise self._unfit(texts, first) from None
        return rows

    def is_cut(self, text: Text, encoded: Any) -> bool:
        """Whether the model reads less than the whole text.

        :param encoded: what ``encode`` gave for it.
        """
        return bool(encoded.overflowing) or self._beginnings.of(text) != text

    def _portions(self, texts: Sequence[Text], first: int) -> Iterator[Sequence[Text]]:
        """The texts in groups that are small enough to be tokenised at once.

        :raises DataError: one text alone is not.
        """
        start = size = 0
        for position, text in enumerate(texts):
            length = len(text) if isinstance(text, str) else len(text[0]) + len(text[1])
            if length > self._most_characters:
                raise DataError(
                    f"the text has {length:,} characters, and this model's tokenizer reads at most"
                    f" {self._most_characters:,} that it cannot cut at a space",
                    where=f"texts[{first + position}]",
                    hint="cut the text",
                )
            if size + length > self._most_characters:
                yield texts[start:position]
                start, size = position, 0
            size += length
        yield texts[start:]

    def _unfit(self, texts: Sequence[Any], first: int) -> DataError:
        """The error for the first text that cannot be tokenised. The tokenizer does not say which it is."""
        for position, text in enumerate(texts):
            where = f"texts[{first + position}]"
            fault = _text_fault(text)
            if fault is not None:
                return DataError(fault, where=where)
            try:
                self._tokenizer.encode_batch_fast([text])
            except (*ENDS, MemoryError):
                raise
            except BaseException as error:  # noqa: BLE001  likewise
                return DataError(f"the model's tokenizer cannot read it: {error}", where=where)
        return DataError("the texts cannot be tokenised")


def _text_fault(text: Any) -> str | None:
    """What is wrong with a text that has no UTF-8 form, such as half of a surrogate pair; ``None`` for nothing."""
    for part in text if isinstance(text, tuple | list) else (text,):
        if not isinstance(part, str):
            return f"expected a str, got {type(part).__name__}"
        try:
            part.encode()
        except UnicodeEncodeError as error:
            return f"not valid Unicode: {error.reason}"
    return None
