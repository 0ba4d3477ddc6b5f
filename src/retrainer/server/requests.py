"""The body of a prediction: read within its limits, understood, and checked before it waits for anything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from retrainer.serve.texts import Text, reads_pairs
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Headers = Iterable[tuple[bytes, bytes]]

KEYS = frozenset({"text", "texts", "top_k"})
# What is still taken from a client after it was refused, so that it reads the answer instead of a reset connection.
LINGER_SECONDS = 2.0
LINGER_BYTES = 64 * 1024 * 1024
# Up to that size a body is understood at once, whatever is in it: that takes a few milliseconds.
SMALL_BODY = 16 * 1024
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BACKSLASH = ord("\\")
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},:"))


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """What a client asks.

    :ivar top_k: labels of each text; ``None`` for all.
    """

    texts: list[Text]
    top_k: int | None


def check_media_type(headers: Headers) -> int | None:
    """Insist on JSON, not compressed.

    JSON has to be declared: a browser sends undeclared bodies across sites without asking first.

    :return: the declared length of the body.
    :raises Problem: 415, or 400 for a length that is none.
    """
    media_type, length = b"", None
    for name, value in headers:
        if name == b"content-type":
            media_type = value
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
            raise Problem("unsupported-media-type", "compressed bodies are not read", hint="send it as it is")
    if media_type != b"application/json":
        _check_json(media_type)
    if length is None:
        return None
    if not length.isdigit():
        raise Problem("malformed", "Content-Length is not a number")
    return int(length)


def _check_json(media_type: bytes) -> None:
    kind, *parameters = [part.strip() for part in media_type.decode("latin-1").lower().split(";")]
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Problem(
            "unsupported-media-type",
            f"the body is declared as {kind[:100]!r}" if kind else "the body's type is not declared",
            hint="send it with 'Content-Type: application/json'",
        )
    charsets = [part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset=")]
    if charsets and charsets[0] not in {"utf-8", "utf8", "us-ascii"}:
        raise Problem("unsupported-media-type", f"the charset {charsets[0][:50]!r} is not read", hint="send UTF-8")


async def read_body(receive: Receive, declared: int | None, limit: int) -> bytes | None:
    """The whole body; ``None`` when the client went away before its end.

    :param declared: the length that the headers name, if they do.
    :raises Problem: 413, as soon as that is known.
    """
    if declared is not None and declared > limit:
        raise Problem("too-large", f"the body has {declared} bytes, and {limit} are allowed")
    message = await receive()
    if message["type"] != "http.request":
        return None
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False) and len(body) <= limit:
        return body
    pieces, size = [body], len(body)
    while size <= limit:
        if not message.get("more_body", False):
            return b"".join(pieces)
        message = await receive()
        if message["type"] != "http.request":
            return None
        piece: bytes = message.get("body", b"")
        pieces.append(piece)
        size += len(piece)
    raise Problem("too-large", f"the body has more than the {limit} bytes that are allowed")


async def linger(receive: Receive) -> None:
    """Read and forget what a refused client still sends, within limits.

    Closing a connection on which unread data waits resets it, and the client may then lose the answer that it was
    sent.
    """
    size = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while size < LINGER_BYTES:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                size += len(message.get("body", b""))
    except TimeoutError:
        return


def parse(body: bytes, task: str, limits: Limits) -> PredictRequest:
    """Understand a body.

    :param task: of the model that is asked.
    :raises Problem: 400 what is no request, 413 too many or too long texts, 422 the wrong kind of texts for the task.
    """
    if len(body) > SMALL_BODY and _is_crowded(body, limits.rows):
        detail = f"more values than the {limits.rows} texts that are allowed"
        raise Problem("too-large", detail, hint="send several requests")
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Problem("malformed", f"not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise Problem("malformed", f"expected an object, got {_kind(document)}", hint='{"text": "..."}')
    if not KEYS.issuperset(document):
        unknown = ", ".join(sorted(repr(key[:50]) for key in set(document) - KEYS)[:5])
        raise Problem("malformed", f"unknown: {unknown}", hint=f"known are {', '.join(sorted(KEYS))}")
    top_k = document.get("top_k", 1)
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise Problem("malformed", "expected a whole number from 1 on, or null for all labels", where="top_k")
    # Null is what many clients write for what they leave out.
    text, rows = document.get("text"), document.get("texts")
    if (text is None) == (rows is None):
        said = "neither" if text is None else "both"
        raise Problem("malformed", f"expected either 'text' or 'texts', got {said}")
    pairs = reads_pairs(task)
    if text is not None:
        return PredictRequest([_row(text, "text", pairs, limits.characters)], top_k)
    if not isinstance(rows, list):
        raise Problem(
            "malformed", f"expected a list, got {_kind(rows)}", where="texts", hint="one text goes into 'text'"
        )
    if len(rows) > limits.rows:
        raise Problem(
            "too-large",
            f"{len(rows)} texts, and {limits.rows} are allowed",
            where="texts",
            hint="send several requests",
        )
    texts = [_row(row, f"texts[{position}]", pairs, limits.characters) for position, row in enumerate(rows)]
    return PredictRequest(texts, top_k)


def _is_crowded(body: bytes, rows: int) -> bool:
    """Whether there is more in a body than so many texts, or pairs, can need.

    A few megabytes of empty lists would become millions of objects, which takes the loop's thread most of a second.
    So what is outside strings is counted before: for each row a string or two with what separates and encloses them.
    """
    left = 6 * rows + 16
    position = 0
    while left >= 0:
        start = body.find(b'"', position)
        left -= 1 + len(body[position : None if start < 0 else start].translate(None, _NO_STRUCTURE))
        if start < 0:
            return left < 0
        end = body.find(b'"', start + 1)
        if end > 0 and body[end - 1] == _BACKSLASH:  # it may be a part of the string
            found = _STRING.match(body, start)
            end = -1 if found is None else found.end() - 1
        if end < 0:
            return False  # a string without end, which the parser tells
        position = end + 1
    return True


def _row(row: Any, where: str, pairs: bool, limit: int) -> Text:
    if isinstance(row, str):
        if pairs:
            raise Problem("unfit", "this model reads pairs", where=where, hint='give ["first", "second"]')
        if len(row) > limit:
            raise _too_long(len(row), limit, where)
        return row
    if not isinstance(row, list):
        wanted = "a pair of strings" if pairs else "a string"
        raise Problem("malformed", f"expected {wanted}, got {_kind(row)}", where=where)
    if not pairs:
        hint = "several texts go into 'texts'" if where == "text" else 'give "text"'
        raise Problem("unfit", "this model reads single texts", where=where, hint=hint)
    if len(row) != 2 or not all(isinstance(part, str) for part in row):
        kinds = ", ".join(_kind(part) for part in row[:3])
        raise Problem("malformed", f"expected two strings, got [{kinds}{', ...' if len(row) > 3 else ''}]", where=where)
    first, second = row
    if len(first) + len(second) > limit:
        raise _too_long(len(first) + len(second), limit, where)
    return (first, second)


def _too_long(characters: int, limit: int, where: str) -> Problem:
    return Problem("too-large", f"{characters} characters, and {limit} are allowed", where=where)


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), "something else")
