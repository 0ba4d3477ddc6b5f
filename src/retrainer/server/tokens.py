"""Bearer tokens: who may ask. They come from a variable or a file, never from an argument, and are never logged."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from pathlib import Path

from starlette.datastructures import Headers

from retrainer.errors import UserError
from retrainer.server.problems import Problem

log = logging.getLogger(__name__)

# RFC 6750, 2.1: b64token.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
SHORTEST = 16
# Between looks at the file.
LOOK_SECONDS = 1.0
_MAKE_ONE = "openssl rand -hex 32 makes one"


class Tokens:
    """The tokens that are valid now. Several are, so that one can be replaced without a gap.

    :param variable: name of an environment variable: tokens with white space or commas between them.
    :param file: a file of one token a line. It is read again while it is asked for; empty lines and those that begin
        with ``#`` do not count.
    :raises UserError: there is no token where one should be, or what is there is not a token.
    """

    def __init__(self, *, variable: str | None = None, file: Path | None = None) -> None:
        self._fixed: tuple[bytes, ...] = ()
        if variable is not None:
            self._fixed = _digests(os.environ.get(variable, "").replace(",", " ").split(), f"${variable}")
        self._file = file
        self._read = () if file is None else _from_file(file)
        self._looked = time.monotonic()
        self._fault: str | None = None  # why the file could not be read when it was last tried

    @property
    def required(self) -> bool:
        """Whether a token is asked for."""
        return bool(self._fixed or self._read)

    def check(self, headers: Headers) -> None:
        """Let only those ask who have a token. Takes the same time whichever it is, and however it differs.

        :raises Problem: 401.
        """
        if self._file is not None and time.monotonic() - self._looked > LOOK_SECONDS:
            self.refresh(self._file)
        found = headers.getlist("authorization")
        scheme, _, token = found[0].partition(" ") if found else ("", "", "")
        digest = hashlib.sha256(token.strip().encode()).digest()
        # Compared with all of them: where it stops would tell which one it was.
        valid = sum(hmac.compare_digest(digest, known) for known in (*self._fixed, *self._read))
        # Several headers would leave open which one counts.
        if not valid or scheme.lower() != "bearer" or len(found) != 1:
            raise Problem(
                "unauthorized",
                "a valid bearer token is needed",
                hint="Authorization: Bearer TOKEN",
                headers={"www-authenticate": "Bearer"},
            )

    def refresh(self, file: Path) -> None:
        """Read the file again. What is valid stays so while the file cannot be read."""
        self._looked = time.monotonic()
        try:
            read, fault = _from_file(file), None
        except UserError as error:
            read, fault = self._read, str(error)
        if fault is not None and fault != self._fault:  # once, not each time
            log.warning("the tokens stay as they are: %s", fault)
        if read != self._read:
            log.info("the tokens were read again: %d", len(read))
        self._read, self._fault = read, fault


def _from_file(path: Path) -> tuple[bytes, ...]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(f"the tokens cannot be read: {reason}", where=str(path)) from None
    words = [line.strip() for line in lines]
    return _digests([word for word in words if word and not word.startswith("#")], str(path))


def _digests(tokens: list[str], where: str) -> tuple[bytes, ...]:
    if not tokens:
        raise UserError("there is no token", where=where, hint=_MAKE_ONE)
    for position, token in enumerate(tokens, start=1):
        if _TOKEN.fullmatch(token) is None or len(token) < SHORTEST:
            reason = f"token {position} is not at least {SHORTEST} of letters, digits and -._~+/"
            raise UserError(reason, where=where, hint=_MAKE_ONE)
    return tuple(hashlib.sha256(token.encode()).digest() for token in tokens)
