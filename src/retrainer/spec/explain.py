"""Pydantic's findings about a pipeline as sentences for the person who wrote it."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from retrainer.spec.problems import MOST_PROBLEMS, Place, Problem, found, key_path, listed, suggestion
from retrainer.spec.training_arguments import settable_arguments

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of sensible size",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


_FORMS = frozenset({"<hub>", "<paths>", "<one>", "<pair>", "<several>"})


def explain(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """The findings in the order in which pydantic made them, the first ``MOST_PROBLEMS`` if there are more.

    :param model: what was validated; its fields are the keys that would have been right.
    """
    problems: list[Problem] = []
    for detail in error.errors(include_url=False)[:MOST_PROBLEMS]:
        # These say which form of a union was taken; nobody wrote them, unless as a key that is not known.
        loc, unknown = detail["loc"], detail["type"] == "extra_forbidden"
        place = tuple(part for at, part in enumerate(loc, 1) if part not in _FORMS or (unknown and at == len(loc)))
        if detail["type"] == "retrainer_problems":
            problems += [Problem((*place, *inner), message) for inner, message in detail["ctx"]["problems"]]
        else:
            problems.append(Problem(place, _sentence(detail, place, model)))
    return [Problem(place, _with_path(place, message)) for place, message in problems]


def _with_path(place: Place, message: str) -> str:
    """The key path goes first, unless the sentence names the key by itself."""
    return message if not place or message.startswith(("unknown key", "key ")) else f"{key_path(place)}: {message}"


def _sentence(detail: ErrorDetails, place: Place, model: type[BaseModel]) -> str:
    kind = detail["type"]
    context = detail.get("ctx", {})
    value = detail["input"]
    if kind == "missing":
        return f"key '{key_path(place)}' is missing"
    if kind == "extra_forbidden":
        return _unknown_key(place, model)
    if kind in _EXPECTED:
        quote = "; put it in quotes" if kind == "string_type" and isinstance(value, (int, float)) else ""
        return f"expected {_EXPECTED[kind]}, found {found(value)}{quote}"
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"must be {words} {context[key]:g}, found {found(value)}"
    if kind == "literal_error":
        choices = [choice.strip("'") for choice in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"{found(value)} is not one of {listed(choices)}{suggestion(value, choices)}"
    if kind in {"too_short", "string_too_short"}:
        return "must not be empty"
    if kind == "string_pattern_mismatch":
        return (
            f"{found(value)} is not a name: lower case letters, digits, '.', '_' and '-', at most 100, and a letter or "
            "digit first"
        )
    return detail["msg"][:1].lower() + detail["msg"][1:]


def _unknown_key(place: Place, model: type[BaseModel]) -> str:
    *parents, key = place
    known = keys_of(model, tuple(parents))
    where = f" in {key_path(tuple(parents))}" if parents else ""
    return f"unknown key '{key}'{where}{suggestion(key, known, otherwise=f' (keys: {listed(known)})')}"


def keys_of(model: type[BaseModel], place: Place) -> tuple[str, ...]:
    """The keys that a mapping of the file may have."""
    for part in place:
        inner = _model_at(model, part)
        if inner is None:
            return ()
        model = inner
    if model.__name__ == "Training":
        return settable_arguments()
    names = tuple(model.model_fields)
    return (*names, "hub") if model.__name__ == "Dataset" else names


def _model_at(model: type[BaseModel], part: str | int) -> type[BaseModel] | None:
    field: Any = model.model_fields.get(str(part))
    return _first_model(field.annotation) if field is not None else None


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for member in typing.get_args(annotation):
        inner = _first_model(member)
        if inner is not None:
            return inner
    return None


def line_of(place: Place, lines: Mapping[Place, int]) -> int:
    """The line of the deepest key on the way to a place that is in the file."""
    while place not in lines and place:
        place = place[:-1]
    return lines.get(place, 1)
