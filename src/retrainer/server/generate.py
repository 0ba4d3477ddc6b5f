"""Generation: texts for texts, as one answer or piece by piece as server-sent events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from retrainer.errors import RetrainerError
from retrainer.serve.engine import ENDS
from retrainer.serve.generation import Generated
from retrainer.serve.loading import Answers
from retrainer.server.asking import Asking, Underway, while_connected
from retrainer.server.bodies import JSON, GenerateBody
from retrainer.server.lanes import Lanes, Stream
from retrainer.server.models import Models, ServedModel
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits

log = logging.getLogger(__name__)

EVENTS = "text/event-stream"
# A proxy that gathers an answer before it passes it on makes a stream of none.
_PASS_ON = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Generate(Asking):
    """Answers with text."""

    answers_with: ClassVar[Answers] = "text"

    def __init__(self, models: Models, limits: Limits, underway: Underway) -> None:
        super().__init__(models, limits, underway)
        self.body = self._body = GenerateBody.within(limits)

    async def _respond(self, model: ServedModel, request: Request, body: bytearray) -> Response:
        client, lanes = model.ready_with(Lanes)
        asked = self._body.parse(body)
        texts, settings = asked.rows(client.task), asked.settings
        if asked.stream:
            # What cannot be answered at all is a problem with its status; a stream has begun with 200.
            beginning = asyncio.ensure_future(lanes.stream(asked.only_text(texts), settings))
            stream = await while_connected(request, beginning)
            return _Events(stream, self._events(model, stream))
        answer = await while_connected(request, asyncio.ensure_future(lanes.generate(texts, settings)))
        document = {
            "model": model.name,
            "version": answer.version,
            "precision": answer.precision,
            "answers": [_described(found, lanes.eos_token_ids) for found in answer.answers],
        }
        return Response(to_json(document), media_type=JSON)

    async def _events(self, model: ServedModel, stream: Stream) -> AsyncIterator[bytes]:
        """Each piece as an event; at the end one named ``done``, or ``problem`` where the model fails."""
        try:
            async for piece in stream:
                if isinstance(piece, str):
                    yield _event({"text": piece})
                    continue
                of = {"model": model.name, "version": stream.version, "precision": stream.precision}
                yield _event({**of, "answer": _described(piece, stream.eos_token_ids)}, name="done")
        except RetrainerError as error:
            yield _event(self.problem_of(error).document.model_dump(), name="problem")
        except (*ENDS, asyncio.CancelledError):
            raise
        except BaseException:  # of libraries, which panic, too; the answer has begun, so nothing else can tell of it
            log.exception("a stream of %s failed unexpectedly", model.name)
            unforeseen = Problem("internal", "an unexpected error", hint="the server's log says where")
            yield _event(unforeseen.document.model_dump(), name="problem")


class _Events(StreamingResponse):
    """The events of a stream, which is stopped when they end, also where none of them was read."""

    def __init__(self, stream: Stream, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type=EVENTS, headers=_PASS_ON)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.stopped.set()


def _event(data: dict[str, Any], name: str | None = None) -> bytes:
    return (b"" if name is None else b"event: " + name.encode() + b"\n") + b"data: " + to_json(data) + b"\n\n"


def _described(answer: Generated, eos_token_ids: tuple[int, ...]) -> dict[str, Any]:
    return {
        "text": answer.text,
        "tokens": len(answer.tokens),
        "finished": answer.tokens[-1] in eos_token_ids,
        "truncated": answer.truncated,
    }
