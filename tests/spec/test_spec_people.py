"""What a pipeline file says of people: approvals, notifiers, owner, deadlines, and spans of time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.spec.durations import Duration, written

SPAN: TypeAdapter[timedelta] = TypeAdapter(Duration)
CONTENT: dict[str, Any] = {
    "name": "news",
    "dataset": {"train": "/data/news.csv"},
    "model": {"base": "some/model"},
    "publish": {"store": "s3://models"},
}


def parse(approval: Any = "none", **more: Any) -> Pipeline:
    return parse_pipeline({**CONTENT, "publish": {**CONTENT["publish"], "approval": approval}, **more})


@given(st.integers(1, 3650 * 86_400))
def test_a_span_is_read_as_it_is_written(seconds: int) -> None:
    span = timedelta(seconds=seconds)
    assert SPAN.validate_python(written(span)) == span
    assert SPAN.validate_json(SPAN.dump_json(span)) == span


@pytest.mark.parametrize(("text", "seconds"), [("45 min", 2700), ("1d 12h", 129_600), ("90s", 90), ("2 h", 7200)])
def test_spans_as_people_write_them(text: str, seconds: int) -> None:
    assert SPAN.validate_python(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("wrong", ["", "soon", "5", 5, "0s", "-1h", "1.5h", "5000d", "1 hour", None])
def test_what_is_not_a_span(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        SPAN.validate_python(wrong)


@pytest.mark.parametrize(
    ("written_as", "required"), [("none", False), ("required", True), ({"timeout": "2d"}, True), ({}, True)]
)
def test_approval_in_a_word_or_in_full(written_as: Any, required: bool) -> None:
    pipeline = parse(written_as)
    assert pipeline.publish.approval.required is required
    # As it travels between tasks.
    assert parse_pipeline(pipeline.model_dump(mode="json")) == pipeline


def test_an_assignee_is_an_id_or_an_id_with_a_name() -> None:
    ada, bob = parse({"assignees": ["ada", {"id": "7", "name": "Bob"}]}).publish.approval.assignees
    assert ((ada.id, ada.name), (bob.id, bob.name)) == (("ada", "ada"), ("7", "Bob"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"approval": "maybe"}, r"publish\.approval: expected 'none', 'required' or a mapping, found 'maybe'"),
        ({"approval": {"on_timeout": "approve"}}, r"publish\.approval\.on_timeout"),
        ({"approval": {"required": False, "timeout": "1h"}}, r"publish\.approval\.required: without a question"),
        ({"approval": {"notify": [{"notifier": "slack"}]}}, r"publish\.approval\.notify\[0\]\.notifier: expected the"),
        ({"notify": {"on_refuse": []}}, r"unknown key 'on_refuse' in notify; did you mean 'on_refused'"),
        ({"dag": {"deadline": {}}}, r"dag\.deadline: give 'after', 'over_average', or both"),
        ({"dag": {"deadline": {"after": "1h", "runs": 2}}}, r"dag\.deadline\.least_runs: there are never more"),
        ({"dag": {"tags": ["a", "a"]}}, r"dag\.tags: list each tag only once"),
        ({"dag": {"retries": -1}}, r"dag\.retries"),
        ({"dataset": {"train": "a.csv", "train_rows": 9}}, r"dataset\.train_rows: is below checks\.min_rows \(100\)"),
    ],
)
def test_mistakes_name_their_key(more: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        parse(**more)
