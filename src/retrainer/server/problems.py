"""Errors as the answers that clients get: problem details of RFC 9457, one table of kinds.

What a message says comes from ``retrainer.errors``. Never part of it: stack traces, and what other clients sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel
from starlette.responses import Response

from retrainer.errors import RetrainerError

MEDIA_TYPE = "application/problem+json"
# A reference relative to the server (RFC 9457, 3.1.1): the page of the API explains each kind below that anchor.
TYPE = "/docs#{kind}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem.

    :ivar title: one short sentence, the same for each occurrence.
    :ivar remedy: what a client does about it, for the API's page.
    """

    name: str
    status: int
    title: str
    remedy: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("malformed", 400, "The body is not the JSON that is expected", "Correct the request."),
        Kind("unauthorized", 401, "A bearer token is needed", "Send the header Authorization: Bearer TOKEN."),
        Kind("not-found", 404, "There is nothing under that address", "Ask GET /v1/models for the names."),
        Kind("method-not-allowed", 405, "The address does not know that method", "See the header Allow."),
        Kind("too-large", 413, "The request is larger than this server takes", "Send fewer or shorter texts."),
        Kind("unsupported-media-type", 415, "The body is not declared as JSON", "Send Content-Type: application/json."),
        Kind("unfit", 422, "The texts are not what this model reads", "See GET /v1/models/NAME for its task."),
        Kind("internal", 500, "The server failed", "Tell whoever runs it; the server's log says more."),
        Kind("not-ready", 503, "The model is not loaded yet", "Try again after the seconds in Retry-After."),
        Kind("busy", 503, "The server has too much to do", "Try again after the seconds in Retry-After."),
        Kind("stopping", 503, "The server is stopping", "Try again; another instance may answer."),
    )
}


class ProblemAnswer(BaseModel):
    """Problem details as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class Problem(Exception):
    """A request that is answered with a problem. An answer, not an error of the package: none leaves the server.

    :param kind: key of ``KINDS``.
    :param retry_after: seconds, for the header.
    :param headers: others of the answer.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(str(RetrainerError(detail, where=where, hint=hint)))
        self.kind = KINDS[kind]
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)

    @classmethod
    def of(cls, kind: str, error: RetrainerError, *, retry_after: int | None = None) -> Self:
        """An error of this package, as an answer."""
        return cls(kind, error.message, where=error.where, hint=error.hint, retry_after=retry_after)

    @property
    def document(self) -> ProblemAnswer:
        """What is told of it."""
        return ProblemAnswer(
            type=TYPE.format(kind=self.kind.name), title=self.kind.title, status=self.kind.status, detail=str(self)
        )

    def answer(self) -> Response:
        """The document, as an answer."""
        return Response(self.document.model_dump_json(), self.kind.status, self.headers, MEDIA_TYPE)
