"""YAML text to plain values, with the line of every key.

Scalars follow YAML 1.2's core schema, in which ``5e-5`` is a number and ``no`` is a word: labels are often
called yes and no, and nobody expects a date where a text was written. Each key may be given only once. A few bytes
of YAML can mean more than fits into memory, so depth and number of values are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import yaml

from retrainer.errors import PipelineError
from retrainer.spec.problems import Place, key_path

try:
    from yaml import CSafeLoader as _BaseLoader
except ImportError:  # PyYAML without libyaml reads the same, slower
    from yaml import SafeLoader as _BaseLoader  # type: ignore[assignment]

# Far beyond any pipeline, and read in a second.
MOST_VALUES = 10_000
MOST_LEVELS = 50
MOST_DIGITS = 100

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"


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
    _Loader.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(_pattern), _first)


# A tag that was written out can name a kind that the text is not: these raise ValueError or KeyError then.
_SCALARS: Mapping[str, Callable[[str], Any]] = {
    f"{_TAG}str": str,
    f"{_TAG}null": lambda text: None,
    f"{_TAG}bool": lambda text: {"true": True, "false": False}[text.lower()],
    f"{_TAG}int": int,
    f"{_TAG}float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
}


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
    :raises PipelineError: it is not YAML, holds several documents, a key twice, or more than a pipeline can need.
    """
    try:
        _refuse_depth(text, where)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise _explained(error, text, where) from None
    if node is None:
        raise PipelineError("the file is empty", where=f"{where}:1", hint="a pipeline starts with 'name: ...'")
    reader = _Reader(where)
    reader.lines[()] = _line(node)
    return Document(reader.value(node, (), frozenset()), reader.lines)


def _refuse_depth(text: str, where: str) -> None:
    """Before anything is built of it: what builds it calls itself for each level."""
    loader = _Loader(text)
    try:
        levels = 0
        while (event := loader.get_event()) is not None:
            levels += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if levels > MOST_LEVELS:
                raise _too_much(f"more than {MOST_LEVELS} mappings and lists inside one another", where)
    finally:
        loader.dispose()


def _too_much(what: str, where: str) -> PipelineError:
    return PipelineError(what, where=where, hint="this does not look like a pipeline file")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


class _Reader:
    """The values of a document's nodes.

    :ivar lines: of every key and list item that was read.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._values = 0
        self.lines: dict[Place, int] = {}

    def value(self, node: yaml.Node, place: Place, above: frozenset[int]) -> Any:
        """The value of a node; with aliases, one node is many values.

        :param above: the nodes that it is in.
        """
        self._values += 1
        if self._values > MOST_VALUES:
            detail = f"more than {MOST_VALUES:,} values, those of aliases (*name) counted each time"
            raise _too_much(detail, f"{self._where}:{_line(node)}")
        if id(node) in above:
            raise self._error(f"{key_path(place)} contains itself", node)
        above |= {id(node)}
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, place, above)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            items = []
            for at, item in enumerate(node.value):
                self.lines[*place, at] = _line(item)
                items.append(self.value(item, (*place, at), above))
            return items
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, place: Place, above: frozenset[int]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        # What '<<' merges comes first, so the mapping's own keys win; of several mappings the earlier one wins.
        merged = [source for key, value in node.value if key.tag == _MERGE for source in _sources(value)]
        for source in reversed(merged):
            if not isinstance(source, yaml.MappingNode):
                raise self._error("'<<' merges mappings only, such as <<: *name", source)
            result |= self.value(source, place, above)
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self._key(key_node)
            here = (*place, key)
            if key in own:
                first = self.lines[here]
                raise self._error(f"key '{key_path(here)}' is given twice, first in line {first}", key_node)
            self.lines[here] = _line(key_node)
            own[key] = self.value(value_node, here, above)
        return result | own

    def _scalar(self, node: yaml.Node) -> Any:
        convert = _SCALARS.get(node.tag)
        kind = node.tag.removeprefix(_TAG)
        if convert is None or not isinstance(node, yaml.ScalarNode):
            raise self._error(f"'{kind}' is not a kind of value that a pipeline has; drop the tag", node)
        if kind == "int" and len(node.value) > MOST_DIGITS:
            raise self._error(f"a number of {len(node.value):,} digits; if it is a name, put it in quotes", node)
        try:
            return convert(node.value)
        except (ValueError, KeyError):
            raise self._error(f"'{node.value}' is tagged as {kind}, which it is not; drop the tag", node) from None

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error("a key must be a text", node)
        return str(node.value)

    def _error(self, message: str, node: yaml.Node) -> PipelineError:
        return PipelineError(message, where=f"{self._where}:{_line(node)}")


def _sources(node: yaml.Node) -> list[yaml.Node]:
    """The mappings that one '<<' names."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else [node]


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
