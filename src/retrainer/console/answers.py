"""What a route sends: a page, the record that it is made of, or what went wrong, each with the headers that all have.

Not here: what is on a page (the module of each), how it is drawn (``pages``).
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from retrainer.console.pages import rendered
from retrainer.errors import (
    IntegrityError,
    NotAllowed,
    NotFoundError,
    PipelineError,
    ResourceError,
    RetrainerError,
    StorageError,
    UserError,
)
from retrainer.records import Record

log = logging.getLogger(__name__)

Theme = Literal["light", "dark"]

# Nothing is loaded from elsewhere, nothing is sent elsewhere, no script but the console's own runs.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept, Cookie, Authorization",
}
"""Of every answer."""


class ErrorPage(Record):
    """What went wrong, where, and what to do."""

    status: int
    message: str
    where: str | None
    hint: str | None


_STATUS: tuple[tuple[type[RetrainerError], int], ...] = (
    (NotAllowed, 403),
    (NotFoundError, 404),
    (StorageError, 503),
    (ResourceError, 503),
    (PipelineError, 500),
    (IntegrityError, 500),
    (UserError, 400),
)


def answer(request: Request, template: str, page: Record, *, status: int = 200, **more: Any) -> Response:
    """A page as HTML, or as JSON where that is asked for."""
    if wants_json(request.headers.get("accept", "")):
        return JSONResponse(page.model_dump(mode="json"), status, headers=HEADERS)
    theme = request.query_params.get("theme")
    theme = theme if theme in {"light", "dark"} else None
    text = rendered(template, page=page, theme=theme, address=request.url.query, **more)
    return HTMLResponse(text, status, headers={**HEADERS, "Content-Security-Policy": _POLICY})


def wants_json(accept: str) -> bool:
    """Whether JSON is named before HTML, or HTML is not named at all."""
    kinds = [part.partition(";")[0].strip() for part in accept.split(",")]
    return "application/json" in kinds and "text/html" not in kinds[: kinds.index("application/json")]


def failed(request: Request, error: Exception) -> Response:
    """A page that says what is wrong."""
    assert isinstance(error, RetrainerError)
    status = status_of(error)
    if status >= 500:
        log.warning("%s: %s", request.url.path, error)
    page = ErrorPage(status=status, message=error.message, where=error.where, hint=error.hint)
    return answer(request, "error.html.jinja", page, status=status)


def status_of(error: RetrainerError) -> int:
    """As HTTP calls what went wrong."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
