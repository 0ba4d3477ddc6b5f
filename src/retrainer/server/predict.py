"""Predictions: a request's body read within its limits, answered by the batcher unless its client goes away."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from retrainer.errors import Busy, RetrainerError, UserError
from retrainer.server.bodies import PredictBody
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
        _check_media_type(request)
        texts, top_k = self.body.read(await _read(request, self._limits.body_bytes), classifier.task)
        answer = await _while_connected(request, batcher.ask(texts, top_k=top_k))
        document = {
            "model": model.name,
            "version": answer.version,
            "precision": answer.precision,
            "predictions": answer.predictions,
        }
        return Response(to_json(document), media_type="application/json")


def _check_media_type(request: Request) -> None:
    """Insist on JSON that is declared as such: a browser sends undeclared bodies across sites without asking first.

    :raises Problem: 415.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise Problem(
            "unsupported-media-type",
            f"the body is declared as {media_type[:100]!r}" if media_type else "the body's type is not declared",
            hint="send it with 'Content-Type: application/json'",
        )
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise Problem("unsupported-media-type", "compressed bodies are not read", hint="send it as it is")


async def _read(request: Request, limit: int) -> bytes:
    """The whole body.

    :raises Problem: 413, as soon as that is known.
    :raises ClientDisconnect: the client went away before its end.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise Problem("too-large", f"the body has {declared} bytes, and {limit} are allowed")
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise Problem("too-large", f"the body has more than the {limit} bytes that are allowed")
    return b"".join(pieces)


async def _while_connected(request: Request, answering: asyncio.Future[T]) -> T:
    """What is computed for a client whose body was read, unless it goes away meanwhile.

    :raises ClientDisconnect: it did.
    """
    waited: list[asyncio.Future[Any]] = [answering]
    try:
        await asyncio.wait(waited, timeout=LOOK_AFTER_SECONDS)
        if not answering.done():
            waited.append(asyncio.create_task(_disconnect(request)))
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        for unfinished in waited:
            unfinished.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
