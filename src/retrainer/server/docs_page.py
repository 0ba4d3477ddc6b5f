"""The page of the API: the kinds of problems, and its OpenAPI document. It loads nothing from anywhere."""

from __future__ import annotations

import html
import json
from dataclasses import astuple
from typing import Any

from retrainer.server.problems import KINDS

_STYLE = "body{font-family:system-ui,sans-serif;margin:2rem}td,th{text-align:left;padding:.2rem 1rem .2rem 0}"


def page(schema: dict[str, Any]) -> str:
    """A page for people.

    :param schema: the OpenAPI document.
    """
    rows = [
        f"<tr id={kind.name}>" + "".join(f"<td>{html.escape(str(cell))}" for cell in astuple(kind))
        for kind in KINDS.values()
    ]
    operations = [
        f"<li><code>{method.upper()} {html.escape(path)}</code> {html.escape(operation['summary'])}"
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    document = html.escape(json.dumps(schema, indent=2, ensure_ascii=False))
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>retrainer</title><style>{_STYLE}</style>
<h1>retrainer {html.escape(schema["info"]["version"])}</h1><p>{html.escape(schema["info"]["description"])}</p>
<ul>{"".join(operations)}</ul>
<h2>Problems</h2><table><tr><th>type<th>status<th>meaning<th>what to do</tr>{"".join(rows)}</table>
<h2>Requests and answers</h2><p>For programs: <a href=openapi.json>openapi.json</a></p><pre>{document}</pre>"""
