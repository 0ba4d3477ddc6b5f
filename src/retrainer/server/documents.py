"""What routes take and give, for the OpenAPI document, and the page that shows it without any script."""

from __future__ import annotations

import html
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from retrainer.server.problems import KINDS, MEDIA_TYPE

Pair = tuple[str, str]


class PredictBody(BaseModel):
    """Either ``text`` or ``texts``. A model that reads pairs takes a list of two strings in place of each string."""

    # Null is taken like what is left out: many clients write it. So one has to be there, and be more than null.
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": ["string", "array"]}}},
                {"required": ["texts"], "properties": {"texts": {"type": "array"}}},
            ]
        },
    )

    text: str | Pair | None = Field(None, description="One text, or one pair.")
    texts: list[str] | list[Pair] | None = Field(None, description="Several texts, or several pairs.")
    top_k: int | None = Field(1, ge=1, description="Labels for each text, best first; null for all.")


class LabelScore(BaseModel):
    """One label with its probability."""

    label: str
    score: float


class PredictAnswer(BaseModel):
    """The labels of each text, in the order of the texts; a single text is a list of one. All of one version."""

    model: str
    version: str = Field(description="The published version that answered, for all texts of the request.")
    precision: str = Field(description="fp32 or int8.")
    predictions: list[list[LabelScore]]


class ModelAnswer(BaseModel):
    """One model, as it is served now."""

    name: str = Field(description="For the address: /v1/models/{name}:predict")
    model: str
    channel: str
    state: str = Field(description="loading, retrying or ready.")
    ready: bool
    version: str | None = None
    precision: str | None = None
    task: str | None = None
    labels: list[str] | None = None
    max_length: int | None = Field(None, description="Tokens after which a text is cut.")
    loaded_at: str | None = None
    checked_at: str | None = Field(None, description="When the channel was last read from the store.")
    swaps: int | None = None
    refusals: int | None = None
    offline: bool | None = Field(None, description="The store could not be reached when it was last asked.")
    refused_version: str | None = Field(None, description="What the channel points at, when that is refused.")
    problem: str | None = Field(None, description="Why nothing, or nothing newer, is served.")


class ModelsAnswer(BaseModel):
    """All models of this server."""

    models: list[ModelAnswer]


class HealthAnswer(BaseModel):
    """The process answers."""

    status: str


class ReadyAnswer(BaseModel):
    """Whether traffic may come here, and the state of each model."""

    ready: bool
    stopping: bool
    models: dict[str, str]


class ProblemAnswer(BaseModel):
    """Problem details as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


PREDICT_EXAMPLES = {
    "one text": {"value": {"text": "Oil prices fall as supply grows"}},
    "several texts, all labels": {
        "value": {"texts": ["Oil prices fall", "Cup final goes to penalties"], "top_k": None}
    },
    "a pair": {"value": {"text": ["He ate the apple.", "The apple was eaten."]}},
    "several pairs": {"value": {"texts": [["It rains.", "The ground is wet."], ["It rains.", "It is dry."]]}},
}
ANSWER_EXAMPLE = {
    "model": "ag-news",
    "version": "3b1f0c9a52d7e846",
    "precision": "int8",
    "predictions": [[{"label": "Business", "score": 0.98}]],
}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for FastAPI's ``responses``."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        kinds = [kind for kind in KINDS.values() if kind.status == status]
        example = {"type": f"/docs#{kinds[0].name}", "title": kinds[0].title, "status": status, "detail": "..."}
        found[status] = {
            "description": "; ".join(kind.title for kind in kinds),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}, "example": example}},
        }
    return found


_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;
background:#fff}code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#f3f3f1;padding:.8rem;overflow:auto}
h2{margin-top:2.4rem;border-top:1px solid #ddd;padding-top:1.2rem}table{border-collapse:collapse}
td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}.method{color:#0a5f5a}
@media(prefers-color-scheme:dark){body{color:#e8e8e6;background:#161616}pre{background:#242424}
h2{border-color:#3a3a3a}.method{color:#5ec4bd}a{color:#8ab4f8}}"""


def page(schema: dict[str, Any]) -> str:
    """The OpenAPI document as a page that loads nothing from anywhere.

    :param schema: the document.
    """
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{html.escape(schema['info']['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(schema['info']['title'])} {html.escape(schema['info']['version'])}</h1>",
        f"<p>{html.escape(schema['info'].get('description', ''))}</p>",
        "<p>For programs: <a href=openapi.json>openapi.json</a></p>",
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += _operation(path, method, operation)
    parts.append("<h2 id=problems>Problems</h2><table><tr><th>type<th>status<th>meaning<th>what to do</tr>")
    for kind in KINDS.values():
        cells = (kind.name, str(kind.status), kind.title, kind.remedy)
        parts.append(f"<tr id={kind.name}>" + "".join(f"<td>{html.escape(cell)}" for cell in cells) + "</tr>")
    parts.append("</table><h2 id=schemas>Schemas</h2>")
    for name, definition in schema.get("components", {}).get("schemas", {}).items():
        parts.append(f"<h3 id=schema-{html.escape(name)}>{html.escape(name)}</h3>{_json(definition)}")
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    parts = [
        f"<h2><span class=method>{method.upper()}</span> <code>{html.escape(path)}</code></h2>",
        f"<p><b>{html.escape(operation.get('summary', ''))}</b> {html.escape(operation.get('description', ''))}</p>",
    ]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        for name, example in media.get("examples", {}).items():
            parts.append(f"<p>{html.escape(name)}:</p>{_json(example['value'])}")
    rows = []
    for status, response in operation.get("responses", {}).items():
        rows.append(f"<tr><td>{html.escape(str(status))}<td>{html.escape(response.get('description', ''))}</tr>")
        for media in response.get("content", {}).values():
            if status == "200" and "example" in media:
                rows.append(f"<tr><td><td>{_json(media['example'])}</tr>")
    return [*parts, "<table>", *rows, "</table>"]


def _json(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
