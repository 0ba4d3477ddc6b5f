"""One line for each change of state: time, level, event, then names and values (logfmt).

Texts of clients are never logged. Of an unexpected error the places in the code are, not its message, which may
quote what was being worked on.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from types import TracebackType
from typing import Any

from retrainer.errors import RetrainerError

_PLAIN = re.compile(r"[^\s\"=\\]+")


def event(log: logging.Logger, name: str, *, level: int = logging.INFO, **values: Any) -> None:
    """Log that something changed.

    :param name: what, such as ``model_ready``.
    :param values: those that are ``None`` are left out.
    """
    log.log(
        level, "%s", " ".join([name, *(f"{key}={_value(value)}" for key, value in values.items() if value is not None)])
    )


def _value(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class LineFormatter(logging.Formatter):
    """``2026-11-21T14:52:04Z INFO retrainer.server.server: listening ...`` on one line."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")

    def format(self, record: logging.LogRecord) -> str:
        """One record. The text of its error, which handlers share, is neither taken from others nor left to them."""
        record.exc_text = None
        line = super().format(record)
        record.exc_text = None
        return line

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Without line breaks: one record is one line, whatever it quotes."""
        return super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        """The kind of the error and the places it came through; its message only when it is one of ours."""
        kind, error, place = ei
        if kind is None or error is None:
            return ""
        said = f": {error}" if isinstance(error, RetrainerError) else ""
        return "".join([*traceback.format_tb(place), f"{kind.__module__}.{kind.__qualname__}{said}"])


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write what this package and the server's libraries log to the error stream, for a process that only serves."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("retrainer").setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # Complains about each malformed request of anybody.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
