"""The reference of the pipeline file: ``docs/pipeline.md`` is what the command prints, and names every key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrainer.spec import json_schema, reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pipeline.md"


def keys(schema: Any) -> Iterator[str]:
    """Every key anywhere in a schema."""
    if isinstance(schema, list):
        for item in schema:
            yield from keys(item)
    elif isinstance(schema, dict):
        yield from schema.get("properties", {})
        items = [schema["items"]] if "items" in schema else []
        for inner in (schema.get("properties", {}).values(), schema.get("anyOf", []), schema.get("oneOf", []), items):
            yield from keys(list(inner))


def test_the_page_is_what_the_command_prints() -> None:
    assert PAGE.read_text() == reference.markdown(), "run: retrainer schema --markdown > docs/pipeline.md"


def test_every_key_has_a_row() -> None:
    rows = set(re.findall(r"^\| \[?`(\w+)`", reference.markdown(), re.MULTILINE))
    assert rows == set(keys(json_schema()))


def test_links_within_the_page_lead_somewhere() -> None:
    page = reference.markdown()
    headings = {title.replace(".", "") for title in re.findall(r"^## `([\w.]+)`$", page, re.MULTILINE)}
    linked = set(re.findall(r"\]\(#(\w+)\)", page))
    assert linked == headings


def test_defaults_of_training_are_those_that_training_has() -> None:
    rows = {line.split(" | ")[0]: line for line in reference.markdown().splitlines() if line.startswith("| ")}
    assert "| `16` | The default of transformers is 8." in rows["| `per_device_train_batch_size`"]
    assert "By default the first of metrics" in rows["| `metric_for_best_model`"]
