"""What one run is asked to do otherwise: found, applied, said, and drawn from the schema of the file."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.errors import PipelineError
from retrainer.spec import parse_pipeline
from retrainer.spec.changes import BASE, FIELDS, Changes, Field, changes_of, fields_for
from retrainer.spec.schema import json_schema, key_schema
from tests.spec.test_spec_people import CONTENT

ONE = parse_pipeline(CONTENT)
SEVERAL = parse_pipeline({**CONTENT, "model": {"base": ["a/one", "b/two"], "choose_by": "f1"}})

ASKED = st.fixed_dictionaries(
    {},
    optional={
        "base_model": st.sampled_from(["a/one", "b/two", None]),
        "epochs": st.floats(0.01, 1000),
        "learning_rate": st.floats(1e-9, 1),
        "train_rows": st.integers(100, 10**9) | st.none(),
        "channel": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
        "force": st.booleans(),
        "dry_run": st.booleans(),
        "note": st.text(max_size=50) | st.none(),
    },
)


@given(ASKED)
def test_what_is_asked_for_is_so_afterwards_and_nothing_else(asked: dict[str, Any]) -> None:
    changes = changes_of(SEVERAL, asked)
    changed = changes.applied_to(SEVERAL)
    for field in FIELDS:
        wanted = asked.get(field.name)
        expected = wanted if wanted is not None else field.current(SEVERAL)
        assert field.current(changed) == expected
    # Asked for once more, there is nothing left to change; it travels as JSON; each change is said.
    left = {name: value for name, value in asked.items() if name in {field.name for field in FIELDS} - {"base_model"}}
    assert not changes_of(changed, left)
    assert Changes.model_validate_json(changes.to_json()) == changes
    # The base models apart, the rest of the pipeline is as it was.
    assert (
        changed.model_copy(
            update={
                "model": SEVERAL.model,
                "training": SEVERAL.training,
                "dataset": SEVERAL.dataset,
                "publish": SEVERAL.publish,
            }
        )
        == SEVERAL.model_copy()
    )


def test_the_values_of_the_file_are_no_change() -> None:
    asked = {field.name: field.current(ONE) for field in FIELDS if field.name != "base_model"}
    assert not changes_of(ONE, {**asked, "force": False, "dry_run": False, "note": None})
    assert changes_of(ONE, {}).applied_to(ONE) is ONE


def test_a_note_and_a_dry_run_make_no_other_model() -> None:
    assert Changes(dry_run=True, note="x").of_the_model() is None
    kept = changes_of(ONE, {"epochs": 5, "dry_run": True, "note": "x"}).of_the_model()
    assert kept is not None
    assert (kept.lines(), kept.dry_run) == (["training.num_train_epochs 5 instead of 3"], False)
    assert Changes(force=True).of_the_model() == Changes(force=True)


def test_one_of_several_base_models() -> None:
    changes = changes_of(SEVERAL, {"base_model": "b/two"})
    assert changes.lines() == ["model.base b/two instead of the best of a/one, b/two"]
    assert changes.was("model.base") == ["a/one", "b/two"]
    changed = changes.applied_to(SEVERAL)
    assert (changed.model.base, changed.model.candidates) == ("b/two", ())
    with pytest.raises(PipelineError, match=r"'c/three' is not one of the base models that the pipeline lists"):
        changes_of(SEVERAL, {"base_model": "c/three"})
    with pytest.raises(PipelineError, match="not one of the base models"):
        changes_of(ONE, {"base_model": "a/one"})


@pytest.mark.parametrize(("asked", "said"), [({"epochs": -1}, "must be above 0"), ({"channel": "No Name"}, "channel")])
def test_what_does_not_go_is_said_of_the_run(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said) as raised:
        changes_of(ONE, asked).applied_to(ONE)
    assert "as this run was asked to change it" in str(raised.value)


def test_fields_are_those_that_change_something_with_the_bounds_of_the_file() -> None:
    fields = {field.name: schema for field, schema in fields_for(SEVERAL)}
    assert fields["base_model"]["enum"] == [None, "a/one", "b/two"]
    assert fields["epochs"] == {"type": "number", "exclusiveMinimum": 0, "maximum": 1e6}
    assert fields["learning_rate"] == {"type": "number", "exclusiveMinimum": 0}
    assert fields["train_rows"] == {"type": ["integer", "null"], "minimum": 100}
    assert "pattern" in fields["channel"]
    in_steps = parse_pipeline({**CONTENT, "training": {"max_steps": 10}})
    assert {field.name for field, _ in fields_for(in_steps)} == {"learning_rate", "train_rows", "channel"}


# The base model's values are those that the pipeline lists.
@pytest.mark.parametrize("field", [field for field in FIELDS if field.key != BASE], ids=lambda field: field.key)
def test_a_key_by_itself_has_the_schema_that_it_has_in_the_file(field: Field) -> None:
    section, key = field.place
    assert key_schema(section, key) == json_schema()["properties"][section]["properties"][key]
