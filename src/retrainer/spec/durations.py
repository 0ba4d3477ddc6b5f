"""Spans of time as people write them: ``45 min``, ``2h``, ``1d 12h``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

from retrainer.spec.problems import found, refuse_one

PATTERN = r"^\s*(\d+\s*(d|h|min|s)\s*)+$"
_PART = re.compile(r"(\d+)\s*(d|h|min|s)")
_UNITS = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}
# Airflow adds it to a date.
_MOST = timedelta(days=3650)


def _duration(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or not re.fullmatch(PATTERN, value):
        refuse_one(f"expected a span of time such as '45 min', '2h' or '1d 12h', found {found(value)}")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    if not 0 < seconds <= _MOST.total_seconds():
        refuse_one(f"expected more than nothing and at most ten years, found {found(value)}")
    return timedelta(seconds=seconds)


def written(span: timedelta) -> str:
    """The span in the largest units that say it exactly: ``1d 12h``."""
    left = int(span.total_seconds())
    parts = []
    for unit, seconds in _UNITS.items():
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count}{unit if unit != 'min' else ' min'}")
    return " ".join(parts)


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=PATTERN)]),
    PlainSerializer(written, return_type=str),
]
"""Whole seconds; in JSON the text."""
