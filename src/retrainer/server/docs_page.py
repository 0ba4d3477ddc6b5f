"""The page of the API, made from its OpenAPI document. It loads nothing from anywhere, and has no script."""

from __future__ import annotations

import html
import json
from typing import Any

from retrainer.server.problems import KINDS

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1b1b1b;
background:#fff}code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#f3f3f1;padding:.8rem;overflow:auto}
h2{margin-top:2.4rem;border-top:1px solid #ddd;padding-top:1.2rem}table{border-collapse:collapse}
td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}.method{color:#0a5f5a}
@media(prefers-color-scheme:dark){body{color:#e8e8e6;background:#161616}pre{background:#242424}
h2{border-color:#3a3a3a}.method{color:#5ec4bd}a{color:#8ab4f8}}"""


def page(schema: dict[str, Any]) -> str:
    """The OpenAPI document, for people.

    :param schema: the document.
    """
    title = html.escape(schema["info"]["title"])
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title} {html.escape(schema['info']['version'])}</h1>",
        f"<p>{html.escape(schema['info']['description'])}</p>",
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
    for name, definition in schema["components"]["schemas"].items():
        parts.append(f"<h3 id=schema-{html.escape(name)}>{html.escape(name)}</h3>{_json(definition)}")
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> list[str]:
    parts = [
        f"<h2><span class=method>{method.upper()}</span> <code>{html.escape(path)}</code></h2>",
        f"<p><b>{html.escape(operation['summary'])}</b> {html.escape(operation.get('description', ''))}</p>",
    ]
    for media in operation.get("requestBody", {}).get("content", {}).values():
        parts.append(f"<p>The body:</p>{_json(media['schema'])}")
        for name, example in media["examples"].items():
            parts.append(f"<p>{html.escape(name)}:</p>{_json(example['value'])}")
    rows = [
        f"<tr><td>{html.escape(status)}<td>{html.escape(response['description'])}</tr>"
        for status, response in operation["responses"].items()
    ]
    return [*parts, "<table>", *rows, "</table>"]


def _json(value: Any) -> str:
    return f"<pre>{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
