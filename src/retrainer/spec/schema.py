"""The pipeline file's JSON Schema, for editors and for Airflow's trigger form."""

from __future__ import annotations

import json
from typing import Any

from retrainer.spec.dataset import HubDataset
from retrainer.spec.model import Pipeline
from retrainer.spec.renamed_arguments import OWNED
from retrainer.spec.training_arguments import DEFAULTS, WORKED_OUT, bounds, known_arguments

_TYPES = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "str": "string",
    "list": "array",
    "mapping": "object",
}
_ANY_OF = "anyOf"


def json_schema() -> dict[str, Any]:
    """The schema, without references, so that each property of it is complete by itself.

    Airflow checks every parameter of a DAG against its own schema, in which a reference leads nowhere.
    """
    schema = Pipeline.model_json_schema()
    definitions = schema.pop("$defs", {})
    resolved: dict[str, Any] = _resolved(schema, definitions)
    # 'dataset: {hub: ...}' is short for 'dataset: {train: {hub: ...}}'.
    dataset = resolved["properties"]["dataset"]
    hub = _resolved(HubDataset.model_json_schema(), {})
    dataset["properties"]["hub"] = {
        **hub,
        "description": "In place of train: a dataset that `datasets` reads.",
    }
    dataset["required"] = [name for name in dataset.get("required", []) if name != "train"]
    dataset[_ANY_OF] = [{"required": ["train"]}, {"required": ["hub"]}]
    # One base model or a list of them; the record keeps the list under another key.
    model = resolved["properties"]["model"]["properties"]
    bases = model.pop("candidates")
    one = {key: model["base"].pop(key) for key in ("type", "minLength")}
    model["base"][_ANY_OF] = [one, {"type": "array", "items": bases["items"], "minItems": 1, "uniqueItems": True}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **resolved,
        "title": "retrainer pipeline",
    }


def flat_training(packed: dict[str, Any]) -> dict[str, Any]:
    """The schema of ``training`` as it is in the file.

    :param packed: the schema of the record, in which the arguments are packed.
    """
    properties: dict[str, Any] = {}
    for name, argument in known_arguments().items():
        if name not in OWNED and argument["kinds"]:
            properties[name] = _argument(name, argument)
    ours = {name: value for name, value in packed.get("properties", {}).items() if name != "arguments"}
    return {
        "type": "object",
        "title": "Training",
        "description": "Any argument of transformers.TrainingArguments under its own name, and ours.",
        "properties": {**ours, **dict(sorted(properties.items()))},
        "additionalProperties": False,
    }


def _argument(name: str, argument: Any) -> dict[str, Any]:
    kinds = [kind for kind in argument["kinds"] if not (kind == "str" and "mapping" in argument["kinds"])]
    types = [_TYPES[kind] for kind in kinds] + (["null"] if argument["null"] else [])
    schema: dict[str, Any] = {
        "title": name,
        "description": WORKED_OUT.get(name, f"TrainingArguments.{name}"),
        "type": types[0] if len(types) == 1 else types,
        # -1 is transformers' own word for "as many as num_train_epochs gives".
        **(bounds(name) if name != "max_steps" else {}),
    }
    if name not in WORKED_OUT:
        schema["default"] = DEFAULTS.get(name, argument["default"])
        if schema["default"] != argument["default"]:
            schema["description"] = f"The default of transformers is {json.dumps(argument['default'])}."
    if argument["choices"]:
        extra: list[Any] = [True, False] if "bool" in kinds else []
        schema["enum"] = [*argument["choices"], *extra, *([None] if argument["null"] else [])]
    if "list" in kinds:
        schema["items"] = {"type": "string"}
    return schema


def _resolved(node: Any, definitions: dict[str, Any]) -> Any:
    """A copy with every reference replaced by what it names; what is beside a reference wins."""
    if isinstance(node, list):
        return [_resolved(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    rest = {key: _resolved(value, definitions) for key, value in node.items() if key != "$ref"}
    if "$ref" not in node:
        return rest
    target = _resolved(definitions[str(node["$ref"]).rsplit("/", 1)[-1]], definitions)
    return {**target, **rest}
