"""YAML text to plain values, with the line of every key.

Scalars follow YAML 1.2's core schema, in which ``5e-5`` is a number and ``no`` is a word: labels are often
called yes and no, and nobody expects a date where a text was written. Each key may be given only once.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from retrainer.errors import PipelineError
from retrainer.spec.problems import Place, key_path

try:
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # PyYAML without libyaml reads the same, slower
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]


class _Loader(_BaseLoader):
    """Resolves scalars as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own class attribute


# PyYAML matches at the start only, hence the ``\Z``. The last item: the characters such a scalar may start with.
for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)\Z", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)\Z", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z", list("-+.")),
    ("merge", r"<<\Z", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _float(loader: Any, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


class Document(NamedTuple):
    """A YAML document.

    :param value: mappings, lists, texts, numbers, true, false, null.
    :param lines: the line, from 1, of every key and list item.
    """

    value: Any
    lines: dict[Place, int]


def read_yaml(text: str, *, where: str) -> Document:
    """Parse one YAML document.

    :param where: the file, for errors.
    :raises PipelineError: it is not YAML, holds several documents, or a key twice.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise PipelineError("the file is empty", where=f"{where}:1", hint="a pipeline starts with 'name: ...'")
            lines: dict[Place, int] = {(): node.start_mark.line + 1}
            return Document(_value(loader, node, (), lines, where, frozenset()), lines)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _explained(error, text, where) from None


def _value(
    loader: Any, node: yaml.Node, place: Place, lines: dict[Place, int], where: str, above: frozenset[int]
) -> Any:
    line = node.start_mark.line + 1
    if id(node) in above:
        raise PipelineError(f"{key_path(place)} contains itself", where=f"{where}:{line}")
    above |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        _refuse_duplicates(node, place, where)
        loader.flatten_mapping(node)  # what '<<' merges comes first, so the mapping's own keys win
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, where)
            inner = (*place, key)
            lines[inner] = key_node.start_mark.line + 1
            result[key] = _value(loader, value_node, inner, lines, where, above)
        return result
    if isinstance(node, yaml.SequenceNode):
        items = []
        for at, item in enumerate(node.value):
            lines[*place, at] = item.start_mark.line + 1
            items.append(_value(loader, item, (*place, at), lines, where, above))
        return items
    return loader.construct_object(node)


def _key(node: yaml.Node, where: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise PipelineError("a key must be a text", where=f"{where}:{node.start_mark.line + 1}")
    return str(node.value)


def _refuse_duplicates(node: yaml.MappingNode, place: Place, where: str) -> None:
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = _key(key_node, where)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise PipelineError(
                f"key '{key_path((*place, key))}' is given twice, first in line {seen[key]}",
                where=f"{where}:{line}",
            )
        seen[key] = line


def _explained(error: yaml.YAMLError, text: str, where: str) -> PipelineError:
    """The error of PyYAML in plain words."""
    if isinstance(error, yaml.reader.ReaderError):
        position = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, position) + 1
        return PipelineError("a character that YAML does not allow (a control character)", where=f"{where}:{line}")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    number = mark.line + 1 if mark is not None else 1
    rows = text.splitlines()
    row = rows[number - 1] if number <= len(rows) else ""
    problem = str(getattr(error, "problem", None) or error)
    place = f"{where}:{number}"
    if "\t" in row[: len(row) - len(row.lstrip())] or "'\\t'" in problem:
        return PipelineError("a tab is used for indentation", where=place, hint="YAML wants spaces")
    start = row[mark.column :] if mark is not None else ""
    if "cannot start any token" in problem and start[:1] in {"@", "`", "%"}:
        return PipelineError(f"'{start.strip()}' must be in quotes, because of its '{start[0]}'", where=place)
    if "expected a single document" in str(getattr(error, "context", "")) + problem:
        return PipelineError("more than one document ('---'); write one pipeline a file", where=place)
    return PipelineError(f"not valid YAML: {problem}", where=place, hint="check indentation, colons and quotes")
