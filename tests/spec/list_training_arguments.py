"""``python -m tests.spec.list_training_arguments``: write down what transformers' TrainingArguments accept.

The pipeline file is checked against that listing, so that checking needs no transformers. Run this after a
new transformers is pinned; ``test_spec_training_arguments.py`` compares the listing with the installed one.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union

import transformers
from transformers import TrainingArguments
from transformers.debug_utils import DebugOption

import retrainer.spec

LISTING = Path(retrainer.spec.__file__).with_name("training_arguments.json")
_PLAIN = {bool: "bool", int: "int", float: "float", str: "str", dict: "mapping", list: "list"}
# What transformers accepts and checks by itself, without saying so in the field's type.
_CHOICES = {"include_num_input_tokens_seen": ["all", "non_padding", "no"]}
_ALSO = {"fsdp": ["bool"]}


def listing() -> dict[str, Any]:
    """``{"transformers": version, "arguments": {name: {kinds, null, default, choices}}}``.

    ``kinds`` are names of YAML types; empty where a value cannot be written in YAML.
    """
    hints = typing.get_type_hints(TrainingArguments)
    return {
        "transformers": transformers.__version__,
        "arguments": {
            field.name: _describe(field, hints[field.name]) for field in dataclasses.fields(TrainingArguments)
        },
    }


def _describe(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    kinds, choices, null = _kinds(hint)
    given = field.metadata.get("choices")
    choices = list(given) if given is not None else choices
    default = None if field.default is dataclasses.MISSING else field.default
    return {
        "kinds": sorted({*kinds, *_ALSO.get(field.name, [])}),
        "null": null or default is None,
        "default": default.value if isinstance(default, enum.Enum) else default,
        "choices": _CHOICES.get(field.name, choices),
    }


def _kinds(hint: Any) -> tuple[list[str], list[str], bool]:
    """The YAML types, the choices and whether null is allowed."""
    kinds: list[str] = []
    choices: list[str] = []
    null = False
    members = typing.get_args(hint) if typing.get_origin(hint) in {Union, types.UnionType} else (hint,)
    for member in members:
        origin = typing.get_origin(member) or member
        if member is type(None):
            null = True
        elif origin is Literal:
            kinds.extend("bool" for value in typing.get_args(member) if isinstance(value, bool))
        elif isinstance(member, type) and issubclass(member, enum.Enum):
            # `debug` takes several options in one string, so its choices are not exhaustive.
            choices.extend(value.value for value in member if member is not DebugOption)
        elif origin in _PLAIN:
            kinds.append(_PLAIN[origin])
    return kinds, choices, null


def render() -> str:
    """The listing as it is checked in: one line an argument, so that a new version reads well as a diff."""
    content = listing()
    lines = [f"    {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(content["arguments"].items())]
    head = f'{{\n  "transformers": {json.dumps(content["transformers"])},\n  "arguments": {{\n'
    return head + ",\n".join(lines) + "\n  }\n}\n"


def main() -> None:
    """Write the listing."""
    LISTING.write_text(render(), encoding="utf-8")
    sys.stderr.write(f"{LISTING}: {len(listing()['arguments'])} arguments of transformers {transformers.__version__}\n")


if __name__ == "__main__":
    main()
