"""The ASGI application: the operations of the server, and what holds for every answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from functools import partial
from typing import Any

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from retrainer.server.asking import Underway
from retrainer.server.bodies import (
    JSON,
    GenerateAnswer,
    HealthAnswer,
    ModelAnswer,
    ModelsAnswer,
    PredictAnswer,
    ReadyAnswer,
)
from retrainer.server.generate import Generate
from retrainer.server.metrics import CONTENT_TYPE, NO_MODEL, NO_ROUTE, Metrics
from retrainer.server.models import Models, ServedModel, State
from retrainer.server.operations import Operation, document, page
from retrainer.server.predict import Predict
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits
from retrainer.server.tokens import Tokens


class Application:
    """Counts each answer, and ends its connection once the server stops.

    :param tokens: who may ask for anything but health, readiness and metrics.
    :param lifespan: what lasts as long as it does.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        tokens: Tokens,
        limits: Limits,
        lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self._models = models
        self._metrics = metrics
        underway = Underway()
        predict, generate = Predict(models, limits, underway), Generate(models, limits, underway)
        open_to_all = [
            Operation("/healthz", "The process answers.", self._health, HealthAnswer),
            # 503 until every model is loaded and its golden rows passed, and again once the server stops.
            Operation("/readyz", "Whether traffic may come here.", self._readiness, ReadyAnswer, statuses=(200, 503)),
            Operation("/metrics", "Figures for Prometheus.", self._figures, "text/plain"),
        ]
        ours = partial(Operation, tokens=tokens if tokens.required else None)
        operations = [
            # First, for it is asked for most.
            ours(
                "/v1/models/{name}:predict",
                "Labels for texts.",
                predict,
                PredictAnswer,
                body=predict.body,
                problems=(400, 404, 413, 415, 422, 500, 503),
            ),
            ours(
                "/v1/models/{name}:generate",
                "Texts for texts.",
                generate,
                GenerateAnswer,
                body=generate.body,
                problems=(400, 404, 413, 415, 422, 500, 503),
            ),
            *open_to_all,
            ours("/v1/models", "All models.", self._all_models, ModelsAnswer),
            ours("/v1/models/{name}", "One model.", self._one_model, ModelAnswer, problems=(404,)),
            ours("/openapi.json", "What can be asked, for programs.", self._document, JSON),
            ours("/docs", "What can be asked, for people.", self._page, "text/html"),
        ]
        self._described = document(operations)
        # One slash too many is another address; a redirect would lead to whatever host the client named, without TLS.
        routes = [operation.route for operation in operations]
        self._router = Router(routes, default=_not_found, redirect_slashes=False, lifespan=lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._models.stopping:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        # The end of a route's expression lets a line break pass.
        answer = _not_found if scope["path"].endswith("\n") else self._router
        try:
            await answer(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._models.stopping:
                raise
            # The server ends, and waits no longer for clients such as one whose body does not arrive.
            if not status:
                await Problem("stopping", "the server ends", retry_after=1).answer()(scope, receive, watched)
        except ClientDisconnect:
            status = 499  # as nginx logs it; nobody reads an answer
        except Problem as problem:
            await problem.answer()(scope, receive, watched)
        except Exception:
            if not status:
                unforeseen = Problem("internal", "an unexpected error", hint="the server's log says where")
                await unforeseen.answer()(scope, receive, watched)
            raise  # the HTTP server logs it
        finally:
            self._count(scope, status, time.perf_counter() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        operation = scope.get("endpoint")
        path = operation.path if isinstance(operation, Operation) else NO_ROUTE
        name = scope.get("path_params", {}).get("name", NO_MODEL)
        model = name if self._models.get(name) is not None else NO_MODEL
        self._metrics.answered(model, path, status)
        if path.endswith((":predict", ":generate")) and scope["method"] == "POST":
            self._metrics.predicted(model, seconds)

    async def _health(self, request: Request) -> Response:
        return _json(HealthAnswer())

    async def _readiness(self, request: Request) -> Response:
        states = {model.name: str(model.state) for model in self._models}
        answer = ReadyAnswer(ready=self._models.ready, stopping=self._models.stopping, models=states)
        return _json(answer, 200 if answer.ready else 503)

    async def _figures(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type=CONTENT_TYPE)

    async def _all_models(self, request: Request) -> Response:
        return _json(ModelsAnswer(models=[describe(model) for model in self._models]))

    async def _one_model(self, request: Request) -> Response:
        return _json(describe(self._models.known(request.path_params["name"])))

    async def _document(self, request: Request) -> Response:
        return JSONResponse(self._described)

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(page(self._described))


def describe(model: ServedModel) -> ModelAnswer:
    """What is known of a model: all of one version, also when another takes over meanwhile."""
    named = {"name": model.name, "state": str(model.state), "ready": model.state is State.READY}
    if model.client is None:
        problem = None if model.error is None else str(model.error)
        return ModelAnswer(**named, model=model.address.model, channel=model.address.channel, problem=problem)
    return ModelAnswer.model_validate({**asdict(model.client.status), **named})


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, media_type=JSON)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    raise Problem("not-found", "no such address (GET /docs or /openapi.json lists them)")
