"""Predictions: a request's body read within its limits, answered by the batcher unless its client goes away."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retrainer.errors import Busy, RetrainerError, UserError
from retrainer.server.bodies import JSON, PredictBody
from retrainer.server.models import Models, ServedModel, State
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits

T = TypeVar("T")

RETRY_NOT_READY = 5
# A client is looked after when it has waited so many seconds: most have their answer by then, and looking costs more
# than all else that is done for a request.
LOOK_AFTER_SECONDS = 0.1


class Predict:
    """Answers predictions.

    :ivar body: what it reads.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.body = PredictBody.within(limits)
        self._models = models
        self._limits = limits
        self._active = 0

    async def __call__(self, request: Request) -> Response:
        """The answer to one request.

        :raises Problem: there is none.
        """
        self._active += 1
        try:
            return await self._answer(self._models.known(request.path_params["name"]), request)
        except Busy as busy:
            kind = "stopping" if self._models.stopping else "busy"
            raise Problem.of(kind, busy, retry_after=busy.retry_after) from None
        except RetrainerError as error:
            raise Problem.of("unfit" if isinstance(error, UserError) else "internal", error) from error
        finally:
            self._active -= 1

    async def _answer(self, model: ServedModel, request: Request) -> Response:
        if self._active > self._limits.requests:
            raise Problem("busy", f"{self._limits.requests} requests are worked on already", retry_after=1)
        classifier, batcher = model.classifier, model.batcher
        if classifier is None or batcher is None:
            loading = "is loading" if model.state is State.LOADING else "could not be loaded yet"
            raise Problem("not-ready", f"the model {loading}", where=model.name, retry_after=RETRY_NOT_READY)
        headers: dict[bytes, bytes] = dict(request.scope["headers"])  # quicker than to look for each
        _check_media_type(headers)
        texts, top_k = self.body.read(await _read(request, headers, self._limits.body_bytes), classifier.task)
        answer = await _while_connected(request, batcher.ask(texts, top_k=top_k))
        document = {
            "model": model.name,
            "version": answer.version,
            "precision": answer.precision,
            "predictions": answer.predictions,
        }
        return Response(to_json(document), media_type=JSON)


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


async def _while_connected(request: Request, answering: asyncio.Future[T]) -> T:
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
