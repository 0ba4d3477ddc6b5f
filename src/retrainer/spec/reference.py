"""Every key of the pipeline file in Markdown: what may be given, the default, the meaning. It is ``docs/pipeline.md``.

Made from the JSON Schema alone, so that it says what the records say. Not here: how things are done (the other pages).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from retrainer.spec.schema import json_schema

Schema = Mapping[str, Any]

HEAD = """\
# The pipeline file, key by key

<!-- Written by `retrainer schema --markdown`; a test compares. Change the records in src/retrainer/spec, then run
     retrainer schema --markdown > docs/pipeline.md -->

One YAML file is one model. `retrainer init data.csv` writes one for your data, `retrainer check` reads it and looks
whether the data, the base model and the store are there. Unknown keys are errors that name the line and the nearest
valid key. Relative paths are relative to the file. `retrainer schema` prints the same as JSON Schema, for editors.

How the keys work together: [data](data.md), [training](training.md), [the decision](decision.md),
[refusals](refused.md), [the store](store.md), [Airflow](airflow.md).
"""

_TYPES = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "object": "mapping",
    "array": "list",
}


def markdown() -> str:
    """The reference, ready to be written to a file."""
    places: dict[str, str] = {}
    parts = [HEAD]
    for path, schema in list(_sections("", json_schema(), places)):
        required = schema.get("required", ())
        rows = [_row(_join(path, key), key, value, key in required, places) for key, value in _keys(schema)]
        parts.append(f"## `{path}`\n\n{schema['description']}\n" if path else "## The keys at the top\n")
        parts.append("\n".join(["| key | what may be given | default | meaning |", "|---|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _keys(schema: Schema) -> Iterable[tuple[str, Schema]]:
    keys: Mapping[str, Schema] = schema["properties"]
    return keys.items()


def _sections(path: str, schema: Schema, places: dict[str, str]) -> Iterator[tuple[str, Schema]]:
    """A mapping and the mappings inside it, in the order of the file, each kind once.

    :param places: is filled with the path at which each kind is described.
    """
    yield path, schema
    for key, value in _keys(schema):
        inner = _mapping(_join(path, key), value)
        if inner is not None and inner[1]["title"] not in places:
            places[inner[1]["title"]] = inner[0]
            yield from _sections(*inner, places)


def _mapping(path: str, schema: Schema) -> tuple[str, Schema] | None:
    """The mapping that a key may hold, alone or in a list, and its path; ``{hub: ...}`` leads to that of ``hub``."""
    for one in _alternatives(schema):
        alternative = next((item for item in _alternatives(one.get("items", one)) if "properties" in item), one)
        keys = alternative.get("properties")
        if keys and len(keys) == 1:
            ((key, inner),) = keys.items()
            below = _mapping(_join(path, key), inner)
            if below is not None:
                return below
        if keys:
            return path, {**alternative, "description": alternative.get("description") or schema["description"]}
    return None


def _alternatives(schema: Schema) -> list[Schema]:
    if "properties" in schema:
        return [schema]
    either = schema.get("anyOf") or schema.get("oneOf")
    return [inner for part in either for inner in _alternatives(part)] if either else [schema]


def _row(path: str, key: str, schema: Schema, required: bool, places: Mapping[str, str]) -> str:
    inner = _mapping(path, schema)
    name = f"[`{key}`](#{places[inner[1]['title']].replace('.', '')})" if inner else f"`{key}`"
    default = None if inner else schema.get("default")
    shown = "required" if required else "" if default in (None, [], "") else f"`{_yaml(default)}`"
    # Of an argument that is passed on as it is, its name says it all.
    meaning = "" if schema["description"] == f"TrainingArguments.{key}" else schema["description"]
    return f"| {name} | {_any_of(schema)} | {shown} | {meaning} |"


def _any_of(schema: Schema) -> str:
    return " or ".join(dict.fromkeys(_given(alternative) for alternative in _alternatives(schema)))


def _given(schema: Schema) -> str:
    """What may be written, in words."""
    if "enum" in schema:
        return " or ".join(f"`{_yaml(choice)}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{_yaml(schema['const'])}`"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_kind(kind, schema) for kind in kinds)


def _kind(kind: str, schema: Schema) -> str:
    if kind == "null":
        return "`null`"
    if kind == "array":
        if "prefixItems" in schema:
            return f"list of {len(schema['prefixItems'])} texts"
        items = _any_of(schema["items"])
        return f"list of ({items})" if " or " in items else f"list of {items}"
    if kind == "object" and len(schema.get("properties", {})) == 1:
        return f"`{{{next(iter(schema['properties']))}: ...}}`"
    bounds = [
        f"{words} {schema[bound]:.10g}"
        for bound, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if bound in schema
    ]
    return f"{_TYPES[kind]} ({', '.join(bounds)})" if bounds else _TYPES[kind]


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
