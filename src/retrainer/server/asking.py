"""What is asked of a model, whatever it answers: the request's body within its limits, and whether its client stays."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retrainer.errors import Busy, RetrainerError, UserError
from retrainer.serve.loading import Answers
from retrainer.server.bodies import JSON, TextsBody
from retrainer.server.models import Models, ServedModel, State
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits

T = TypeVar("T")

RETRY_NOT_READY = 5
# A client is looked after when it has waited so many seconds: most have their answer by then, and looking costs more
# than all else that is done for a request.
LOOK_AFTER_SECONDS = 0.1
# Where models are asked, by what they answer with.
ROUTES: dict[Answers, str] = {"label": ":predict", "text": ":generate"}
# Of a model that answers with something else: what it does, and where that is asked for.
_ELSEWHERE: dict[Answers, tuple[str, str]] = {
    "label": ("this model gives labels", ROUTES["label"]),
    "text": ("this model writes text", ROUTES["text"]),
}


class Underway:
    """Counts what is worked on or waits, over all models and routes."""

    def __init__(self) -> None:
        self.requests = 0


class Asking(ABC):
    """Answers requests of one kind.

    :cvar answers_with: what the models answer with that can be asked so.
    :ivar body: what it reads.
    """

    answers_with: ClassVar[Answers]
    body: type[TextsBody]

    def __init__(self, models: Models, limits: Limits, underway: Underway) -> None:
        self._models = models
        self._limits = limits
        self._underway = underway

    async def __call__(self, request: Request) -> Response:
        """The answer to one request.

        :raises Problem: there is none.
        """
        self._underway.requests += 1
        try:
            return await self._answer(self._models.known(request.path_params["name"]), request)
        except RetrainerError as error:
            raise self.problem_of(error) from (None if isinstance(error, Busy) else error)
        finally:
            self._underway.requests -= 1

    def problem_of(self, error: RetrainerError) -> Problem:
        """An error of this package, as an answer."""
        if isinstance(error, Busy):
            kind = "stopping" if self._models.stopping else "busy"
            return Problem.of(kind, error, retry_after=error.retry_after)
        return Problem.of("unfit" if isinstance(error, UserError) else "internal", error)

    async def _answer(self, model: ServedModel, request: Request) -> Response:
        if self._underway.requests > self._limits.requests:
            raise Problem("busy", f"{self._limits.requests} requests are worked on already", retry_after=1)
        if model.client is None:
            loading = "is loading" if model.state is State.LOADING else "could not be loaded yet"
            raise Problem("not-ready", f"the model {loading}", where=model.name, retry_after=RETRY_NOT_READY)
        headers: dict[bytes, bytes] = dict(request.scope["headers"])  # quicker than to look for each
        _check_media_type(headers)
        if model.client.answers_with != self.answers_with:
            does, route = _ELSEWHERE[model.client.answers_with]
            raise Problem("unfit", does, where=model.name, hint=f"POST /v1/models/{model.name}{route}")
        return await self._respond(model, request, await _read(request, headers, self._limits.body_bytes))

    @abstractmethod
    async def _respond(self, model: ServedModel, request: Request, body: bytearray) -> Response:
        """The answer to a body that was read, by a model that answers with the right thing."""


def _check_media_type(headers: dict[bytes, bytes]) -> None:
    """Insist on JSON that is declared as such: a browser sends undeclared bodies across sites without asking first.

    :raises Problem: 415.
    """
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if media_type != JSON and not (media_type.startswith("application/") and media_type.endswith("+json")):
        raise Problem(
            "unsupported-media-type",
            f"the body is declared as {media_type[:100]!r}" if media_type else "the body's type is not declared",
            hint=f"send it with 'Content-Type: {JSON}'",
        )
    if headers.get(b"content-encoding", b"").strip().lower() not in {b"", b"identity"}:
        raise Problem("unsupported-media-type", "compressed bodies are not read", hint="send it as it is")


async def _read(request: Request, headers: dict[bytes, bytes], limit: int) -> bytearray:
    """The whole body.

    :raises Problem: 413, as soon as that is known.
    :raises ClientDisconnect: the client went away before its end.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise Problem("too-large", f"the body has {int(declared)} bytes, and {limit} are allowed")
    body, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise Problem("too-large", f"the body has more than the {limit} bytes that are allowed")
    return body


async def while_connected(request: Request, answering: asyncio.Future[T]) -> T:
    """What is computed for a client whose body was read, unless it goes away meanwhile.

    :raises ClientDisconnect: it did.
    """
    loop = asyncio.get_running_loop()
    looking = loop.call_later(LOOK_AFTER_SECONDS, _look_after, request, answering)
    try:
        return await answering
    except asyncio.CancelledError:
        asking = asyncio.current_task()
        if asking is not None and asking.cancelling():
            raise  # the server ends
        raise ClientDisconnect from None
    finally:
        looking.cancel()


def _look_after(request: Request, answering: asyncio.Future[Any]) -> None:
    """Drop a question from the queue as soon as nobody waits for the answer."""

    async def look() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        answering.cancel()

    looking = asyncio.create_task(look())
    answering.add_done_callback(lambda _: looking.cancel())
