"""``publish.approval`` of a pipeline file: whether a person has to say yes, who, and what happens if nobody does.

Not here: asking (``airflow/operators/approve.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from retrainer.records import Record
from retrainer.spec.durations import Duration
from retrainer.spec.fields import Text
from retrainer.spec.notify import Notifier
from retrainer.spec.problems import refuse_one

_WORDS = {"none": False, "required": True}


class Assignee(Record):
    """A user of Airflow."""

    id: Text = Field(description="By which Airflow knows the user: with the simple auth manager the user's name.")
    name: Text = Field(description="What people call the user.")


def _user(value: Any) -> Any:
    return {"id": value, "name": value} if isinstance(value, str) else value


class Approval(Record):
    """Whether a person has to approve what the gate promotes."""

    required: bool = Field(
        True, description="true asks a person in Airflow's UI, or for `retrainer run --approve`; false asks nobody."
    )
    timeout: Duration | None = Field(
        None, description="How long is waited for an answer, such as '2d'; null: for ever."
    )
    on_timeout: Literal["skip", "fail"] = Field(
        "skip",
        description="When nobody answers in time: 'skip' publishes nothing in this run and asks again in the next; "
        "'fail' fails the run. Silence is never a yes.",
    )
    assignees: tuple[Annotated[Assignee, BeforeValidator(_user, json_schema_input_type=Assignee | Text)], ...] = Field(
        (), description="Who may answer, by their ids in Airflow; empty: whoever may act on the DAG."
    )
    notify: tuple[Notifier, ...] = Field((), description="Who is told that there is a question.")
    ask_reason: bool = Field(True, description="Offers a field for the reason, which stays in the history.")

    @model_validator(mode="before")
    @classmethod
    def _one_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value not in _WORDS:
                refuse_one(f"expected 'none', 'required' or a mapping, found '{value}'")
            return {"required": _WORDS[value]}
        return value

    @model_validator(mode="after")
    def _nothing_without_a_question(self) -> Self:
        idle = self.timeout is not None or self.assignees or self.notify
        if not self.required and idle:
            refuse_one("without a question there is nobody to wait for or to tell; drop the other keys", "required")
        return self


NO_APPROVAL = Approval(required=False)
