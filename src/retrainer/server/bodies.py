"""What routes take and give: one description each, which checks requests and is the OpenAPI document's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from retrainer.serve.generation import MOST_BEAMS, GenerationSettings
from retrainer.serve.predictions import GIVEN, TopK
from retrainer.serve.texts import Text, reads_pairs
from retrainer.server.problems import Problem
from retrainer.server.settings import Limits

JSON = "application/json"
# More faults of one body are counted, not told: each takes time to write down.
MOST_FAULTS = 1000
_PAIRS = "pairs", 'give ["first", "second"]'
_SINGLE = "single texts", "several texts go into 'texts'"


def _schema(*examples: dict[str, Any]) -> dict[str, Any]:
    # Null is taken like what is left out: many clients write it. So one has to be there, and be more than null.
    return {
        "oneOf": [
            {"required": ["text"], "properties": {"text": {"type": ["string", "array"]}}},
            {"required": ["texts"], "properties": {"texts": {"type": "array"}}},
        ],
        "examples": list(examples),
    }


def _without_default(schema: dict[str, Any]) -> None:
    """Null means something else than leaving it out."""
    del schema["default"]


class TextsBody(BaseModel):
    """Either ``text`` or ``texts``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text | None = Field(None, description="One text, or one pair.")
    texts: list[Text] | None = Field(None, description="Several texts, or several pairs.")

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
    def parse(cls, body: bytes | bytearray) -> Self:
        """A request.

        :raises Problem: 400 for what is not one, 413 for too many or too long texts.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise _problem(error, f"known are {', '.join(sorted(cls.model_fields))}") from None

    def rows(self, task: str) -> list[Text]:
        """The texts, for a model of that task.

        :raises Problem: 422 for the wrong kind of texts for the task.
        """
        rows = self.texts if self.texts is not None else [self.text]
        pairs = reads_pairs(task)
        texts: list[Text] = []
        for position, row in enumerate(rows):
            if row is None or isinstance(row, str) is pairs:
                kind, hint = _PAIRS if pairs else _SINGLE
                where = "text" if self.texts is None else f"texts[{position}]"
                raise Problem("unfit", f"this model reads {kind}", where=where, hint=hint)
            texts.append(row)
        return texts


class PredictBody(TextsBody):
    """Either ``text`` or ``texts``. A model that reads pairs takes a list of two strings in place of each string."""

    model_config = ConfigDict(
        json_schema_extra=_schema(
            {"text": "Oil prices fall as supply grows"},
            {"texts": ["Oil prices fall", "Cup final goes to penalties"], "top_k": None},
            {"texts": [["It rains.", "The ground is wet."], ["It rains.", "It is dry."]]},
        )
    )

    top_k: int | None = Field(
        None,
        ge=1,
        description="Labels for each text, best first; null for all. Left out, what the model gives: the best label; "
        "or where a text has any number of labels, those that apply, which may be none.",
        json_schema_extra=_without_default,
    )

    @classmethod
    def read(cls, body: bytes | bytearray, task: str) -> tuple[list[Text], TopK]:
        """The texts of a request for a model of that task, and how many labels of each are asked for.

        :raises Problem: as of ``parse`` and ``rows``.
        """
        request = cls.parse(body)
        return request.rows(task), request.top_k if "top_k" in request.model_fields_set else GIVEN


class GenerateBody(TextsBody):
    """Either ``text`` or ``texts``. The most likely token comes each time, unless beams or drawing are asked for."""

    model_config = ConfigDict(
        json_schema_extra=_schema(
            {"text": "translate English to German: It rains."},
            {"texts": ["summarize: ...", "summarize: ..."], "beams": 4, "max_new_tokens": 32},
            {"text": "Dear customer,", "temperature": 0.8, "seed": 1, "stream": True},
        )
    )

    max_new_tokens: int | None = Field(None, ge=1, description="Of an answer; null for what the model was made for.")
    beams: int = Field(1, ge=1, le=MOST_BEAMS, description="Answers followed at once, of which the best is given.")
    temperature: float | None = Field(None, gt=0, description="Draws tokens: the higher, the less likely ones.")
    top_k: int | None = Field(None, ge=1, description="Draws from so many of the most likely tokens.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draws from the most likely tokens up to that share.")
    seed: int | None = Field(None, ge=0, description="The same seed draws the same answer to a text.")
    stream: bool = Field(False, description="Server-sent events, a piece of the text each; of one text.")

    @property
    def settings(self) -> GenerationSettings:
        """How an answer is chosen.

        :raises UserError: beams and drawing are both asked for.
        """
        return GenerationSettings(
            max_new_tokens=self.max_new_tokens,
            beams=self.beams,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
        )

    def only_text(self, rows: list[Text]) -> str:
        """The text of a stream.

        :raises Problem: there are several.
        """
        if self.texts is not None or not isinstance(rows[0], str):
            raise Problem("unfit", "a stream answers one text", where="texts", hint="give it as 'text'")
        return rows[0]


def _problem(error: ValidationError, known: str) -> Problem:
    """The problem of a body that is not a request: its gravest fault."""
    if error.error_count() > MOST_FAULTS:
        return Problem("malformed", f"{error.error_count()} faults", hint=known)
    faults = error.errors(include_url=False, include_input=False)
    large = [fault for fault in faults if fault["type"] == "string_too_long" or _is_long_list(fault)]
    fault = (large or faults)[0]
    # Of a text, without which of the ways to write one was tried.
    field, *position = fault["loc"][: 2 if fault["loc"][:1] == ("texts",) else 1] or (None,)
    where = f"{field}[{position[0]}]" if position else field
    if fault["type"] == "extra_forbidden":
        return Problem("malformed", f"unknown: {str(field)[:50]!r}", hint=known)
    if large:
        return Problem("too-large", fault["msg"], where=str(where), hint="send several requests")
    return Problem("malformed", fault["msg"], where=None if where is None else str(where), hint=known)


def _is_long_list(fault: ErrorDetails) -> bool:
    return fault["type"] == "too_long" and fault["loc"] == ("texts",)


class LabelScore(BaseModel):
    """One label with its probability."""

    label: str
    score: float
    applies: bool | None = Field(
        None, description="Whether it is one of the text's labels, where a text has any number of them; else left out."
    )


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


class GeneratedText(BaseModel):
    """The answer to one text."""

    text: str
    tokens: int = Field(description="Tokens of the answer.")
    finished: bool = Field(description="The model ended it; otherwise it was cut at max_new_tokens.")
    truncated: bool = Field(description="The model read less than the whole text.")


class GenerateAnswer(BaseModel):
    """The answer to each text, in the order of the texts; a single text is a list of one. All of one version.

    With ``stream``, events of type ``text/event-stream``: each has a piece of the answer as ``{"text": ...}``, the last
    is named ``done`` and has this with ``answer`` in place of ``answers``, or is named ``problem``.
    """

    model: str
    version: str = Field(description="The published version that answered, for all texts of the request.")
    precision: str = Field(description="fp32 or int8.")
    answers: list[GeneratedText]


class ModelAnswer(BaseModel):
    """One model, as it is served now."""

    name: str = Field(description="For the address: /v1/models/{name}:predict, or :generate where it writes text.")
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
