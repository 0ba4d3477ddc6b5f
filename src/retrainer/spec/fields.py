"""Types of values that several sections of a pipeline file use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import CoreSchema, core_schema

from retrainer.spec.problems import found, listed, refuse_one

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Alpha = Annotated[float, Field(gt=0.0, lt=0.5, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

# Of a variable; the path of a file in which a secret lies is none.
_SECRET = re.compile(r"(^|_)(SECRET|PASSWORD|TOKEN|PRIVATE_KEY|API_KEY)(_|$)(?!.*(FILE|PATH)$)")


def _import_path(value: str) -> str:
    """``my_package.MyClass``, so far as that can be told without importing it."""
    parts = value.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        refuse_one(f"expected the name of a module and of what is in it, as 'my_package.MyClass', found {found(value)}")
    return value


ImportPath = Annotated[str, AfterValidator(_import_path)]


class OneOf:
    """One of the names that a registry holds; checked, and listed in the schema, as a ``Literal`` of them is."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(self._names)


def shown(variables: Iterable[object], instead: str) -> str | None:
    """Why variables of an engine cannot be given by their values; ``None`` where no name looks like that of a secret.

    :param instead: what to do.
    """
    secret = sorted(str(name) for name in variables if _SECRET.search(str(name).upper()))
    return f"{listed(secret)} would be shown to anybody who may look at the cluster; {instead}" if secret else None


def as_list(value: Any) -> Any:
    """A list of one where a single text was written."""
    if not isinstance(value, (str, list, tuple)):
        refuse_one(f"expected text, or a list of texts, found {found(value)}")
    return [value] if isinstance(value, str) else value
