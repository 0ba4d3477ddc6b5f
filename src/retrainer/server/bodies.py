"""What routes take and give: one description each, which checks requests and is the OpenAPI document's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from retrainer.serve.texts import Text, reads_pairs
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits

JSON = "application/json"
# More faults of one body are counted, not told: each takes time to write down.
MOST_FAULTS = 1000
_PAIRS = "pairs", 'give ["first", "second"]'
_SINGLE = "single texts", "several texts go into 'texts'"


class PredictBody(BaseModel):
    """Either ``text`` or ``texts``. A model that reads pairs takes a list of two strings in place of each string."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        # Null is taken like what is left out: many clients write it. So one has to be there, and be more than null.
        json_schema_extra={
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": ["string", "array"]}}},
                {"required": ["texts"], "properties": {"texts": {"type": "array"}}},
            ],
            "examples": [
                {"text": "Oil prices fall as supply grows"},
                {"texts": ["Oil prices fall", "Cup final goes to penalties"], "top_k": None},
                {"texts": [["It rains.", "The ground is wet."], ["It rains.", "It is dry."]]},
            ],
        },
    )

    text: Text | None = Field(None, description="One text, or one pair.")
    texts: list[Text] | None = Field(None, description="Several texts, or several pairs.")
    top_k: int | None = Field(1, ge=1, description="Labels for each text, best first; null for all.")

    @classmethod
    def within(cls, limits: Limits) -> type[Self]:
        """The same, with limits to the number of texts and their length."""
        text: Any = Annotated[str, Field(max_length=limits.characters)]
        row: Any = text | tuple[text, text]
        rows: Any = Annotated[list[row], Field(max_length=limits.rows)]
        described = cls.model_fields
        return create_model(
            cls.__name__,
            __base__=cls,
            __doc__=cls.__doc__,
            text=(row | None, Field(None, description=described["text"].description)),
            texts=(rows | None, Field(None, description=described["texts"].description)),
        )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.text is None) == (self.texts is None):
            said = "neither" if self.text is None else "both"
            raise PydanticCustomError("either", "expected either 'text' or 'texts', got {said}", {"said": said})
        return self

    @classmethod
    def read(cls, body: bytes | bytearray, task: str) -> tuple[list[Text], int | None]:
        """The texts of a request for a model of that task, and how many labels of each are asked for.

        :raises Problem: 400 for what is not a request, 413 for too many or too long texts, 422 for the wrong kind of
            texts for the task.
        """
        try:
            request = cls.model_validate_json(body)
        except ValidationError as error:
            raise _problem(error) from None
        rows = request.texts if request.texts is not None else [request.text]
        pairs = reads_pairs(task)
        texts: list[Text] = []
        for position, row in enumerate(rows):
            if row is None or isinstance(row, str) is pairs:
                kind, hint = _PAIRS if pairs else _SINGLE
                where = "text" if request.texts is None else f"texts[{position}]"
                raise Problem("unfit", f"this model reads {kind}", where=where, hint=hint)
            texts.append(row)
        return texts, request.top_k


def _problem(error: ValidationError) -> Problem:
    """The problem of a body that is not a request: its gravest fault."""
    if error.error_count() > MOST_FAULTS:
        return Problem("malformed", f"{error.error_count()} faults", hint=_KNOWN)
    faults = error.errors(include_url=False, include_input=False)
    large = [fault for fault in faults if fault["type"] == "string_too_long" or _is_long_list(fault)]
    fault = (large or faults)[0]
    # Of a text, without which of the ways to write one was tried.
    field, *position = fault["loc"][: 2 if fault["loc"][:1] == ("texts",) else 1] or (None,)
    where = f"{field}[{position[0]}]" if position else field
    if fault["type"] == "extra_forbidden":
        return Problem("malformed", f"unknown: {str(field)[:50]!r}", hint=_KNOWN)
    if large:
        return Problem("too-large", fault["msg"], where=str(where), hint="send several requests")
    return Problem("malformed", fault["msg"], where=None if where is None else str(where), hint=_KNOWN)


def _is_long_list(fault: ErrorDetails) -> bool:
    return fault["type"] == "too_long" and fault["loc"] == ("texts",)


_KNOWN = f"known are {', '.join(sorted(PredictBody.model_fields))}"


class LabelScore(BaseModel):
    """One label with its probability."""

    label: str
    score: float


class PredictAnswer(BaseModel):
    """The labels of each text, in the order of the texts; a single text is a list of one. All of one version."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "ag-news",
                "version": "3b1f0c9a52d7e846",
                "precision": "int8",
                "predictions": [[{"label": "Business", "score": 0.98}]],
            }
        }
    )

    model: str
    version: str = Field(description="The published version that answered, for all texts of the request.")
    precision: str = Field(description="fp32 or int8.")
    predictions: list[list[LabelScore]]


class ModelAnswer(BaseModel):
    """One model, as it is served now."""

    name: str = Field(description="For the address: /v1/models/{name}:predict")
    model: str
    channel: str
    state: str = Field(description="loading, retrying or ready.")
    ready: bool
    version: str | None = None
    precision: str | None = None
    task: str | None = None
    labels: list[str] | None = None
    max_length: int | None = Field(None, description="Tokens after which a text is cut.")
    loaded_at: datetime | None = None
    checked_at: datetime | None = Field(None, description="When the channel was last read from the store.")
    looking_since: datetime | None = Field(None, description="When the look at the store began that is under way.")
    swaps: int | None = None
    refusals: int | None = None
    offline: bool | None = Field(None, description="The store could not be reached when it was last asked.")
    refused_version: str | None = Field(None, description="What the channel points at, when that is refused.")
    problem: str | None = Field(None, description="Why nothing, or nothing newer, is served.")


class ModelsAnswer(BaseModel):
    """All models of this server."""

    models: list[ModelAnswer]


class HealthAnswer(BaseModel):
    """The process answers."""

    status: str = "ok"


class ReadyAnswer(BaseModel):
    """Whether traffic may come here, and the state of each model."""

    ready: bool
    stopping: bool
    models: dict[str, str]
