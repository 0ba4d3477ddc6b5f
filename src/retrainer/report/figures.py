"""Numbers and facts as people read them, the same in a terminal, a task log and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Facts = tuple[tuple[str, str], ...]
"""Name and value; a value may have several lines."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the facts below it."""

    title: str
    facts: Facts


def aligned(facts: Facts) -> str:
    """Names and values in two columns, two spaces in; further lines of a value are below its first."""
    width = max(len(name) for name, _ in facts)
    lines: list[str] = []
    for name, value in facts:
        first, *rest = value.splitlines() or [""]
        lines.append(f"  {name:<{width}}  {first}")
        lines += [f"  {'':<{width}}  {line}" for line in rest]
    return "\n".join(lines)


def number(value: Any) -> str:
    """A score or a figure with as many digits as people compare; ``-`` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def scores(values: Mapping[str, float | None]) -> str:
    """``accuracy 0.9123, f1 0.9077, loss 0.31``: what people look for first comes first."""
    ordered = sorted(values.items(), key=lambda item: item[0] == "loss")
    return ", ".join(f"{name} {number(value)}" for name, value in ordered)


def counted_rows(count: int) -> str:
    """``1 row``, ``1,234 rows``."""
    return "1 row" if count == 1 else f"{count:,} rows"


def listed(names: Sequence[str], *, most: int) -> str:
    """Names with commas; of many only the first, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def megabytes(size: float) -> str:
    """Bytes in units of 10^6."""
    return f"{size / 1e6:,.1f} MB"
