"""The section ``training.peft`` as a record. Not here: what peft makes of it (``work/train/lora.py``)."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from retrainer.records import Record
from retrainer.spec.fields import Fraction, Text, as_list

EVERY_LINEAR = "all-linear"

Modules = Annotated[
    tuple[Text, ...],
    Field(min_length=1),
    BeforeValidator(as_list, json_schema_input_type=Text | Annotated[tuple[Text, ...], Field(min_length=1)]),
]


class Lora(Record):
    """Low-rank adaptation: two small matrices beside each chosen weight learn, and the weights themselves do not."""

    r: int = Field(8, ge=1, le=1024, description="Rank of the matrices: more learns more, and costs more.")
    alpha: int = Field(16, ge=1, le=65536, description="What they add is multiplied by alpha / r.")
    dropout: Fraction = Field(0.05, description="Share of what goes into them that is left out while training.")
    target_modules: Modules = Field(
        (EVERY_LINEAR,),
        description="Names of the layers that get them, such as [query, value]; all-linear is every one but the head.",
    )
