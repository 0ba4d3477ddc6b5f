"""The routes of the server: who may ask, predictions by the short path, all else through FastAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from retrainer import __version__
from retrainer.server.documents import (
    ANSWER_EXAMPLE,
    PREDICT_EXAMPLES,
    HealthAnswer,
    ModelAnswer,
    ModelsAnswer,
    PredictAnswer,
    PredictBody,
    ProblemAnswer,
    ReadyAnswer,
    page,
    problem_responses,
)
from retrainer.server.metrics import CONTENT_TYPE, NO_MODEL, NO_ROUTE, PREDICT_ROUTE, Metrics
from retrainer.server.models import Models, ServedModel, State
from retrainer.server.predict import Predict, Scope, Send, send_problem, unforeseen, unread
from retrainer.server.problems import Problem, kind_of
from retrainer.server.requests import Receive
from retrainer.server.settings import Limits
from retrainer.server.tokens import Tokens

# For probes and scrapers, which carry no token.
OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
MODELS = "/v1/models/"
PREDICT = ":predict"

_DESCRIPTION = """Published text classifiers. Each answer names the version that gave it; a model is swapped when its
channel moves, between requests."""

ModelName = Annotated[str, Path(description="As the model was named when the server was started.")]


class Application:
    """The ASGI application.

    :param tokens: who may ask for anything but health, readiness and metrics.
    """

    def __init__(self, models: Models, metrics: Metrics, tokens: Tokens, limits: Limits) -> None:
        self._metrics = metrics
        self._tokens = tokens
        self._predict = Predict(models, metrics, limits)
        self.framework = _framework(models, metrics, self._predict, token=tokens.required)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.framework(scope, receive, send)
            return
        path: str = scope["path"]
        if self._tokens.required and path not in OPEN and not self._tokens.allows(_authorization(scope)):
            self._metrics.answered(NO_MODEL, _route(path), 401)
            problem = Problem("unauthorized", "a valid bearer token is needed", hint="Authorization: Bearer TOKEN")
            await send_problem(problem, send, unread(receive))
            return
        method: str = scope["method"]
        if path.endswith(PREDICT) and path.startswith(MODELS):
            if method == "POST":
                await self._predict(path[len(MODELS) : -len(PREDICT)], scope, receive, send)
                return
            # The framework would take it for a model of that name.
            self._metrics.answered(NO_MODEL, PREDICT_ROUTE, 405)
            await send_problem(_unknown_method(method, "POST"), send, unread(receive))
            return
        if method == "HEAD":
            # Its headers are those of GET, and the connection leaves out the body.
            scope = {**scope, "method": "GET"}
        await self.framework(scope, receive, self._counting(path, send))

    def _counting(self, path: str, send: Send) -> Send:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(NO_MODEL, _route(path), message["status"])
            await send(message)

        return counted


def _authorization(scope: Scope) -> bytes:
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    # Several would leave open which one counts.
    return bytes(found[0]) if len(found) == 1 else b""


def _route(path: str) -> str:
    """The route that a path belongs to, out of a few: a client must not be able to make a series for each address."""
    if path in OPEN or path in {"/v1/models", "/docs", "/openapi.json"}:
        return path
    if path.startswith(MODELS):
        return PREDICT_ROUTE if path.endswith(PREDICT) else "/v1/models/{name}"
    return NO_ROUTE


def _framework(models: Models, metrics: Metrics, predict: Predict, *, token: bool) -> FastAPI:
    app = FastAPI(
        title="retrainer",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere, which many networks forbid
        redoc_url=None,
        openapi_url="/openapi.json",
        # One slash too many is another address; a redirect would lead to whatever host the client named, without TLS.
        redirect_slashes=False,
        exception_handlers={HTTPException: _problem_of_framework, Exception: _internal},
    )

    @app.get("/healthz", summary="The process answers.", tags=["probes"])
    async def healthz() -> HealthAnswer:
        return HealthAnswer(status="ok")

    @app.get(
        "/readyz",
        summary="Traffic may come here.",
        description="503 until every model is loaded and its golden rows passed, and again once the server stops.",
        responses={503: {"model": ReadyAnswer, "description": "Not ready; says which model is not."}},
        tags=["probes"],
    )
    async def readyz(response: Response) -> ReadyAnswer:
        response.status_code = 200 if models.ready else 503
        states = {model.name: str(model.state) for model in models}
        return ReadyAnswer(ready=models.ready, stopping=models.stopping, models=states)

    @app.get("/metrics", summary="Figures for Prometheus.", response_class=Response, tags=["probes"])
    async def figures() -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    @app.get("/v1/models", summary="All models.", responses=problem_responses(401), tags=["models"])
    async def list_models() -> ModelsAnswer:
        return ModelsAnswer(models=[describe(model) for model in models])

    @app.get("/v1/models/{name}", summary="One model.", responses=problem_responses(401, 404), tags=["models"])
    async def show_model(name: ModelName) -> ModelAnswer:
        model = models.get(name)
        if model is None:
            raise HTTPException(404, f"no model {name[:100]!r} here (GET /v1/models lists them)")
        return describe(model)

    @app.post(
        PREDICT_ROUTE,
        summary="Labels for texts.",
        response_model=PredictAnswer,
        responses={
            200: {"content": {"application/json": {"example": ANSWER_EXAMPLE}}},
            **problem_responses(400, 401, 404, 408, 413, 415, 422, 500, 503),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/PredictBody"},
                        "examples": PREDICT_EXAMPLES,
                    }
                },
            }
        },
        tags=["models"],
    )
    async def predict_labels(name: ModelName, request: Request) -> Response:
        return _Handed(predict, name)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    _complete_schema(app, token=token)
    return app


class _Handed(Response):
    """Hands a request over to a plain ASGI application."""

    def __init__(self, application: Callable[..., Awaitable[None]], name: str) -> None:
        self._application, self._name = application, name
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(self._name, scope, receive, send)


def _complete_schema(app: FastAPI, *, token: bool) -> None:
    """Add the schemas that no route names by itself, and the token if one is needed."""
    schema = app.openapi()
    for model in (PredictBody, ProblemAnswer):
        definition = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"].update(definition.pop("$defs", {}))
        schema["components"]["schemas"][model.__name__] = definition
    # The framework's own form of an error, which is never answered here.
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            if path != PREDICT_ROUTE:
                operation["responses"].pop("422", None)
            if token and path not in OPEN:
                operation["security"] = [{"token": []}]
            if not token:
                operation["responses"].pop("401", None)
    if token:
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}


def describe(model: ServedModel) -> ModelAnswer:
    """What is known of a model."""
    classifier = model.classifier
    named = {"name": model.name, "model": model.address.model, "channel": model.address.channel}
    state = {"state": str(model.state), "ready": model.state is State.READY}
    if classifier is None:
        return ModelAnswer(**named, **state, problem=None if model.error is None else str(model.error))
    status = classifier.status  # once: all of one version, also when another takes over meanwhile
    return ModelAnswer(
        **named,
        **state,
        version=status.version,
        precision=status.precision,
        task=status.task,
        labels=list(status.labels),
        max_length=status.max_length,
        loaded_at=status.loaded_at.isoformat(),
        checked_at=None if status.checked_at is None else status.checked_at.isoformat(),
        swaps=status.swaps,
        refusals=status.refusals,
        offline=status.offline,
        refused_version=status.refused_version,
        problem=status.problem,
    )


async def _problem_of_framework(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown addresses and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = str(error.detail) if isinstance(error, HTTPException) else ""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if status == 404 and detail == "Not Found":
        detail = "no such address (GET /docs or /openapi.json lists them)"
    if status == 405:
        known = {method.strip() for method in headers.get("Allow", "").split(",")}
        problem = _unknown_method(request.method, ", ".join(sorted(known | ({"HEAD"} if "GET" in known else set()))))
        return Response(problem.body(), problem.status, dict(problem.headers()))
    problem = Problem(kind_of(status), detail)
    return Response(problem.body(), problem.status, {**headers, **dict(problem.headers())})


def _unknown_method(method: str, known: str) -> Problem:
    return Problem("method-not-allowed", f"not {method} here", hint=f"known: {known}", allow=known)


async def _internal(request: Request, error: Exception) -> Response:
    problem = unforeseen()
    return Response(problem.body(), problem.status, dict(problem.headers()))
