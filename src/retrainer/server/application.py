"""The routes of the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic_core import to_json
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrainer import __version__
from retrainer.errors import Busy, RetrainerError, UserError
from retrainer.server.bodies import (
    PREDICT_EXAMPLES,
    HealthAnswer,
    ModelAnswer,
    ModelsAnswer,
    PredictAnswer,
    PredictBody,
    ReadyAnswer,
)
from retrainer.server.docs_page import page
from retrainer.server.metrics import CONTENT_TYPE, NO_MODEL, NO_ROUTE, Metrics
from retrainer.server.models import Models, ServedModel, State
from retrainer.server.problems import Problem, problem_responses
from retrainer.server.settings import Limits
from retrainer.server.tokens import Bearer, Tokens

T = TypeVar("T")

RETRY_NOT_READY = 5
# A client is looked after when it has waited so many seconds: most have their answer by then, and looking costs more
# than all else that is done for a request.
LOOK_AFTER_SECONDS = 0.1
_DESCRIPTION = """Published text classifiers. Each answer names the version that gave it; a model is swapped when its
channel moves, between requests."""


class _NameConvertor(StringConvertor):
    """The name of a model in an address. It has no colon, which begins what is asked of the model."""

    regex = "[^/:]+"


register_url_convertor("model", _NameConvertor())
ModelName = Annotated[str, Path(description="As the model was named when the server was started.")]


def make_application(
    models: Models,
    metrics: Metrics,
    tokens: Tokens,
    limits: Limits,
    lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None,
) -> ASGIApp:
    """The ASGI application.

    :param tokens: who may ask for anything but health, readiness and metrics.
    :param lifespan: what lasts as long as it does.
    """
    app = FastAPI(
        title="retrainer",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere, which many networks forbid
        redoc_url=None,
        lifespan=lifespan,
        openapi_url=None,  # it asks for a token like all else
        # One slash too many is another address; a redirect would lead to whatever host the client named, without TLS.
        redirect_slashes=False,
        exception_handlers={
            Problem: _answer_problem,
            HTTPException: _answer_problem,
            ClientDisconnect: _answer_nobody,
            Exception: _answer_unforeseen,
        },
    )
    app.include_router(_probes(models, metrics))
    app.include_router(_api(app, models, limits, tokens))
    return Watched(app, models, metrics)


def _probes(models: Models, metrics: Metrics) -> APIRouter:
    """What is open to all: probes and scrapers carry no token."""
    router = APIRouter(tags=["probes"])

    @router.get("/healthz", summary="The process answers.")
    async def healthz() -> HealthAnswer:
        return HealthAnswer()

    @router.get(
        "/readyz",
        summary="Traffic may come here.",
        description="503 until every model is loaded and its golden rows passed, and again once the server stops.",
        responses={503: {"model": ReadyAnswer, "description": "Not ready; says which model is not."}},
    )
    async def readyz(response: Response) -> ReadyAnswer:
        response.status_code = 200 if models.ready else 503
        states = {model.name: str(model.state) for model in models}
        return ReadyAnswer(ready=models.ready, stopping=models.stopping, models=states)

    @router.get("/metrics", summary="Figures for Prometheus.", response_class=Response)
    async def figures() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return router


def _api(app: FastAPI, models: Models, limits: Limits, tokens: Tokens) -> APIRouter:
    """What needs a token, where one is asked for."""
    router = APIRouter(
        tags=["models"],
        dependencies=[Depends(Bearer(tokens))] if tokens.required else [],
        responses=problem_responses(401) if tokens.required else {},
    )
    predict = Predict(models, limits)

    @router.get("/v1/models", summary="All models.")
    async def list_models() -> ModelsAnswer:
        return ModelsAnswer(models=[describe(model) for model in models])

    # 422 is never answered here; named, it keeps the framework's own form of that answer out of the document.
    @router.get("/v1/models/{name:model}", summary="One model.", responses=problem_responses(404, 422))
    async def show_model(name: ModelName) -> ModelAnswer:
        return describe(_known(models, name))

    @router.post(
        "/v1/models/{name:model}:predict",
        summary="Labels for texts.",
        response_model=PredictAnswer,
        responses=problem_responses(400, 404, 413, 415, 422, 500, 503),
        # Read and checked within its limits by ``Predict``, by the same description.
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": predict.body.model_json_schema(), "examples": PREDICT_EXAMPLES}
                },
            }
        },
    )
    async def predict_labels(name: ModelName, request: Request) -> Response:
        return await predict(name, request)

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    return router


class Predict:
    """Answers predictions.

    :ivar body: what it reads.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.body = PredictBody.within(limits)
        self._models = models
        self._limits = limits
        self._active = 0

    async def __call__(self, name: str, request: Request) -> Response:
        """The answer to one request.

        :raises Problem: there is none.
        """
        self._active += 1
        try:
            return await self._answer(_known(self._models, name), request)
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
        try:
            answer = await _while_connected(request, batcher.respond(texts, top_k=top_k))
        except Busy as busy:
            kind = "stopping" if self._models.stopping else "busy"
            raise Problem.of(kind, busy, retry_after=busy.retry_after) from None
        except RetrainerError as error:
            raise Problem.of("unfit" if isinstance(error, UserError) else "internal", error) from error
        document = {
            "model": model.name,
            "version": answer.version,
            "precision": answer.precision,
            "predictions": answer.predictions,
        }
        return Response(to_json(document), media_type="application/json")


def _known(models: Models, name: str) -> ServedModel:
    model = models.get(name)
    if model is None:
        raise Problem("not-found", f"no model {name[:100]!r} here", hint="GET /v1/models lists them")
    return model


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


async def _while_connected(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """What is computed for a client whose body was read, unless it goes away meanwhile.

    :raises ClientDisconnect: it did.
    """
    loop = asyncio.get_running_loop()
    asking = asyncio.current_task()
    looking: asyncio.Task[None] | None = None
    gone = False

    async def look() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        if asking is not None:
            asking.cancel()

    def begin_to_look() -> None:
        nonlocal looking
        looking = loop.create_task(look())

    waiting = loop.call_later(LOOK_AFTER_SECONDS, begin_to_look)
    try:
        return await answer
    except asyncio.CancelledError:
        if gone and asking is not None and asking.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        waiting.cancel()
        if looking is not None:
            looking.cancel()


def describe(model: ServedModel) -> ModelAnswer:
    """What is known of a model: all of one version, also when another takes over meanwhile."""
    named = {"name": model.name, "state": str(model.state), "ready": model.state is State.READY}
    if model.classifier is None:
        problem = None if model.error is None else str(model.error)
        return ModelAnswer(**named, model=model.address.model, channel=model.address.channel, problem=problem)
    return ModelAnswer.model_validate({**asdict(model.classifier.status), **named})


async def _answer_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return Problem.of_framework(error, request.method).answer()
    assert isinstance(error, Problem)
    return error.answer()


async def _answer_unforeseen(request: Request, error: Exception) -> Response:
    """Where it came from is logged by the HTTP server, to which the framework hands it on."""
    return Problem("internal", "an unexpected error", hint="the server's log says where").answer()


async def _answer_nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # as nginx logs it; nobody reads it


class Watched:
    """The application with what holds for every answer: it is counted, and ends its connection once the server stops.

    HEAD is answered like GET; the HTTP server leaves out the body.
    """

    def __init__(self, app: ASGIApp, models: Models, metrics: Metrics) -> None:
        self._app = app
        self._models = models
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._models.stopping:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._count(scope, status, time.perf_counter() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route: str = getattr(scope.get("route"), "path_format", NO_ROUTE)
        name = scope.get("path_params", {}).get("name", NO_MODEL)
        model = name if self._models.get(name) is not None else NO_MODEL
        self._metrics.answered(model, route, status)
        if scope["method"] == "POST" and route.endswith(":predict"):
            self._metrics.predicted(model, seconds)
