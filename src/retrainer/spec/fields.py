"""Types of values that several sections of a pipeline file use."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Alpha = Annotated[float, Field(gt=0.0, lt=0.5, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


def as_list(value: Any) -> Any:
    """A single text where a list of them may stand."""
    return [value] if isinstance(value, str) else value
