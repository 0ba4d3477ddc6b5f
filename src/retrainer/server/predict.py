"""``POST /v1/models/{name}:predict``: the route that is called often, as a plain ASGI application.

The framework's own path costs more than all that is done here (see ``benchmarks/http.py``), so the body is parsed and
the answer written without it. The framework documents the route (``application.py``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

from retrainer.errors import Busy, RetrainerError, UserError
from retrainer.server.batcher import never
from retrainer.server.metrics import NO_MODEL, Metrics
from retrainer.server.models import Models, ServedModel, State
from retrainer.server.problems import Problem
from retrainer.server.requests import Receive, check_media_type, linger, parse, read_body
from retrainer.server.settings import Limits
from retrainer.server.turns import Answer

log = logging.getLogger(__name__)

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]

# In a scope's extensions, where the connection (``connections.py``) puts it: tells whether the client went away.
TRANSPORT = "retrainer.transport"
JSON = (b"content-type", b"application/json")
RETRY_NOT_READY = 5
# Labels with scores that are written in the loop's thread; more are written in another.
INLINE_LABELS = 4096


class Predict:
    """The application.

    :param limits: of one request.
    """

    def __init__(self, models: Models, metrics: Metrics, limits: Limits) -> None:
        self._models = models
        self._metrics = metrics
        self._limits = limits
        self._active = 0

    async def __call__(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        :param name: of the model, from the address.
        """
        started = time.perf_counter()
        model = self._models.get(name)
        reader = _Reader(receive)
        self._active += 1
        try:
            body = await self._answer(name, model, scope, reader)
        except Problem as problem:
            status = problem.status
            await send_problem(problem, send, reader)
        except Exception:
            # Nobody foresaw it, and the client still gets an answer of the one form. Where it came from is logged.
            log.exception("a prediction failed")
            status = 500
            await send_problem(unforeseen(), send, reader)
        else:
            if body is None:
                return  # the client went away
            status = 200
            length = b"%d" % len(body)
            await send({"type": "http.response.start", "status": 200, "headers": [JSON, (b"content-length", length)]})
            await send({"type": "http.response.body", "body": body})
        finally:
            self._active -= 1
        self._metrics.predicted(NO_MODEL if model is None else name, status, time.perf_counter() - started)

    async def _answer(self, name: str, model: ServedModel | None, scope: Scope, reader: _Reader) -> bytes | None:
        if model is None:
            raise Problem("not-found", f"no model {name[:100]!r} here", hint="GET /v1/models lists them")
        if self._active > self._limits.requests:
            raise Problem("busy", f"{self._limits.requests} requests are worked on already", retry_after=1)
        classifier, batcher = model.classifier, model.batcher
        if classifier is None or batcher is None:
            raise _not_ready(model)
        declared = check_media_type(scope["headers"])
        body = await reader.read(declared, self._limits.body_bytes)
        if body is None:
            return None
        request = parse(body, classifier.task, self._limits)
        transport = scope.get("extensions", {}).get(TRANSPORT)
        gone = never if transport is None else transport.is_closing
        try:
            answer = await batcher.respond(request.texts, top_k=request.top_k, gone=gone)
        except Busy as busy:
            raise Problem(
                "stopping" if self._models.stopping else "busy",
                busy.message,
                hint=busy.hint,
                retry_after=busy.retry_after,
            ) from None
        except RetrainerError as error:
            raise _failed(error) from error
        except asyncio.CancelledError:
            if gone():
                return None
            raise
        labels = len(answer.predictions) * (request.top_k or len(classifier.labels))
        if labels > INLINE_LABELS:
            return await asyncio.to_thread(write, name, answer)
        return write(name, answer)


class _Reader:
    """A request's body, and whether it was read."""

    __slots__ = ("_receive", "_seen")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = False

    async def read(self, declared: int | None, limit: int) -> bytes | None:
        body = await read_body(self._receive, declared, limit)
        self._seen = True
        return body

    async def forget(self) -> None:
        if not self._seen:
            await linger(self._receive)


async def send_problem(problem: Problem, send: Send, reader: _Reader | None) -> None:
    """Answer with a problem.

    :param reader: of a body that may not have been read to its end.
    """
    body = problem.body()
    headers = [(name.encode(), value.encode("latin-1")) for name, value in problem.headers()]
    headers.append((b"content-length", b"%d" % len(body)))
    if problem.kind.name == "too-large":
        headers.append((b"connection", b"close"))  # what is left of the body may be anything
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": reader is not None})
    if reader is not None:
        await reader.forget()
        await send({"type": "http.response.body", "body": b""})


def unforeseen() -> Problem:
    """What a client is told of a fault in the server."""
    return Problem("internal", "an error that nobody foresaw", hint="the server's log says where")


def unread(receive: Receive) -> _Reader:
    """The body of a request that is refused before anybody looked at it."""
    return _Reader(receive)


def _not_ready(model: ServedModel) -> Problem:
    loading = "is loading" if model.state is State.LOADING else "could not be loaded yet"
    return Problem("not-ready", f"the model {loading}", where=model.name, retry_after=RETRY_NOT_READY)


def _failed(error: RetrainerError) -> Problem:
    return Problem.of("unfit" if isinstance(error, UserError) else "internal", error)


@lru_cache(maxsize=65536)
def _label(label: str) -> str:
    return f'{{"label":{json.dumps(label, ensure_ascii=False)},"score":'


@lru_cache(maxsize=1024)
def _opening(model: str, version: str, precision: str) -> str:
    named = json.dumps({"model": model, "version": version, "precision": precision}, separators=(",", ":"))
    return named[:-1] + ',"predictions":['


def write(model: str, answer: Answer) -> bytes:
    """The JSON document of an answer.

    :raises Problem: 500, the model answered what is no number, which JSON cannot say.
    """
    # The scores of a text add up to 1: if one is no number, none is.
    for labels in answer.predictions:
        if labels and not labels[0]["score"] >= 0.0:
            raise Problem("internal", "the model's scores are not numbers", hint="the version that answers is damaged")
    rows = [
        "[" + ",".join([f"{_label(item['label'])}{item['score']!r}}}" for item in labels]) + "]"
        for labels in answer.predictions
    ]
    return f"{_opening(model, answer.version, answer.precision)}{','.join(rows)}]}}".encode()
