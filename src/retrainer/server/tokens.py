"""Bearer tokens: who may ask. They come from a variable or a file, never from an argument, and are never logged."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from pathlib import Path

from retrainer.errors import UserError

log = logging.getLogger(__name__)

# RFC 6750, 2.1: b64token.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
SHORTEST = 16


class Tokens:
    """The tokens that are valid now. Several are, so that one can be replaced without a gap.

    :param variable: name of an environment variable: tokens with white space or commas between them.
    :param file: a file of one token a line. It is read again when it changed; empty lines and those that begin with
        ``#`` do not count.
    :raises UserError: there is no token where one should be, or it is none.
    """

    def __init__(self, *, variable: str | None = None, file: Path | None = None) -> None:
        self._fixed = _digests(_from_variable(variable), f"${variable}") if variable is not None else ()
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._read: tuple[bytes, ...] = ()
        # The state of the file that could not be read, as long as that lasts.
        self._bad: list[tuple[int, int, int] | None] = []
        if file is not None:
            self._stamp, self._read = _from_file(file)

    @property
    def required(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._fixed or self._read)

    def allows(self, authorization: bytes) -> bool:
        """Whether that header carries a valid token. Takes the same time whichever it is, and however it differs."""
        scheme, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        # Compared with all of them: where it stops would tell which one it was.
        found = sum(hmac.compare_digest(digest, known) for known in (*self._fixed, *self._read))
        return found > 0 and scheme.lower() == b"bearer"

    def refresh(self) -> None:
        """Read the file again if it changed. What is valid stays so while the file cannot be read."""
        if self._file is None:
            return
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            self._bad = []
            return
        try:
            self._stamp, self._read = _from_file(self._file)
        except UserError as error:
            if self._bad != [stamp]:  # else it was said
                log.warning("the tokens stay as they are: %s", error)
            self._bad = [stamp]
            return
        self._bad = []
        log.info("the tokens were read again: %d", len(self._read))


def _from_variable(variable: str) -> list[str]:
    value = os.environ.get(variable, "")
    return value.replace(",", " ").split()


def _from_file(path: Path) -> tuple[tuple[int, int, int] | None, tuple[bytes, ...]]:
    stamp = _stamp(path)
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(f"the tokens cannot be read: {reason}", where=str(path)) from None
    words = [line.strip() for line in lines]
    return stamp, _digests([word for word in words if word and not word.startswith("#")], str(path))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digests(tokens: list[str], where: str) -> tuple[bytes, ...]:
    if not tokens:
        raise UserError("there is no token", where=where, hint="openssl rand -hex 32 makes one")
    for position, token in enumerate(tokens, start=1):
        if _TOKEN.fullmatch(token) is None or len(token) < SHORTEST:
            raise UserError(
                f"token {position} is none: at least {SHORTEST} of letters, digits and -._~+/",
                where=where,
                hint="openssl rand -hex 32 makes one",
            )
    return tuple(hashlib.sha256(token.encode()).digest() for token in tokens)
