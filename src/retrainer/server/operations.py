"""What can be asked of a server: each operation is a route, and says what the documents of the API say of it.

Not here: what the answers are (``application.py``), and what requests and answers look like (``bodies.py``).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from retrainer import __version__
from retrainer.server.bodies import JSON
from retrainer.server.problems import KINDS, MEDIA_TYPE, Problem, ProblemAnswer
from retrainer.server.tokens import Tokens

_DESCRIPTION = (
    "Published models, which give labels or text. A model is swapped, between requests, when its channel moves."
)
_STYLE = "body{font-family:system-ui,sans-serif;margin:2rem}td,th{text-align:left;padding:.2rem 1rem .2rem 0}"


class _NameConvertor(StringConvertor):
    """The name of a model in an address. It has no colon, which begins what is asked of the model."""

    regex = "[^/:]+"


register_url_convertor("model", _NameConvertor())


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An ASGI application that answers one address.

    :ivar path: may have ``{name}`` in it, of a model.
    :ivar respond: the answer to a request; it raises ``Problem`` where there is none.
    :ivar answer: what comes as JSON, or a media type.
    :ivar statuses: that come with it.
    :ivar problems: statuses of the others.
    :ivar body: what is to be posted; what has none is read with GET or HEAD.
    :ivar tokens: who may ask; ``None`` for all.
    """

    path: str
    summary: str
    respond: Callable[[Request], Awaitable[Response]]
    answer: type[BaseModel] | str
    statuses: tuple[int, ...] = (200,)
    problems: tuple[int, ...] = ()
    body: type[BaseModel] | None = None
    tokens: Tokens | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        :raises Problem: it is not answered.
        """
        allowed = ("GET", "HEAD") if self.body is None else ("POST",)
        if scope["method"] not in allowed:
            known = ", ".join(allowed)
            raise Problem(
                "method-not-allowed", f"not {scope['method']} here", hint=f"known: {known}", headers={"allow": known}
            )
        request = Request(scope, receive)
        if self.tokens is not None:
            self.tokens.check(request.headers)
        response = await self.respond(request)
        await response(scope, receive, send)

    @property
    def route(self) -> Route:
        """For Starlette."""
        return Route(self.path.replace("{name}", "{name:model}"), self)

    @property
    def models(self) -> list[tuple[type[BaseModel], Any]]:
        """The descriptions of what comes and goes, each with the direction."""
        taken = [] if self.body is None else [(self.body, "validation")]
        return [*taken, *([] if isinstance(self.answer, str) else [(self.answer, "serialization")])]

    def described(self, schemas: dict[Any, Any]) -> dict[str, Any]:
        """The operation object of OpenAPI.

        :param schemas: references to the descriptions of all ``models`` and of a problem.
        """
        media_type, schema = (self.answer, {"type": "string"}) if isinstance(self.answer, str) else (JSON, None)
        content = {media_type: {"schema": schema or schemas[self.answer, "serialization"]}}
        # Generators of clients call their methods like that.
        method = "_".join(re.findall(r"\w+", f"{'get' if self.body is None else 'post'} {self.path}"))
        said: dict[str, Any] = {"operationId": method, "summary": self.summary, "responses": {}}
        for status in self.statuses:
            said["responses"][str(status)] = {"description": self.summary, "content": content}
        for status in (*self.problems, *([] if self.tokens is None else [401])):
            said["responses"][str(status)] = {
                "description": "; ".join(kind.title for kind in KINDS.values() if kind.status == status),
                "content": {MEDIA_TYPE: {"schema": schemas[ProblemAnswer, "serialization"]}},
            }
        if "{name}" in self.path:
            name = "As the model was named when the server was started."
            parameter = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
            said["parameters"] = [{**parameter, "description": name}]
        if self.body is not None:
            said["requestBody"] = {"required": True, "content": {JSON: {"schema": schemas[self.body, "validation"]}}}
        if self.tokens is not None:
            said["security"] = [{"token": []}]
        return said


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI document."""
    models = [model for operation in operations for model in operation.models]
    schemas, shared = models_json_schema(
        [*models, (ProblemAnswer, "serialization")], ref_template="#/components/schemas/{model}"
    )
    paths = {
        operation.path: {"get" if operation.body is None else "post": operation.described(schemas)}
        for operation in operations
    }
    components: dict[str, Any] = {"schemas": shared["$defs"]}
    if any(operation.tokens is not None for operation in operations):
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    about = {"title": "retrainer", "version": __version__, "description": _DESCRIPTION}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": components}


def page(schema: dict[str, Any]) -> str:
    """A page for people: the kinds of problems, and the OpenAPI document. It loads nothing from anywhere."""
    rows = [
        f"<tr id={kind.name}>" + "".join(f"<td>{html.escape(str(cell))}" for cell in astuple(kind))
        for kind in KINDS.values()
    ]
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>retrainer</title><style>{_STYLE}</style>
<h1>retrainer {__version__}</h1><p>{_DESCRIPTION}</p>
<h2>Problems</h2><table><tr><th>type<th>status<th>meaning<th>what to do</tr>{"".join(rows)}</table>
<h2>Requests and answers</h2><p>For programs: <a href=openapi.json>openapi.json</a></p>
<pre>{html.escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"""
