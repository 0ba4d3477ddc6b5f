"""``gate.budgets`` of a pipeline file: what serving may cost, one entry each.

A new budget is a field of ``Budgets`` with its ``Budget``: what it limits, and whether against a number or against the
champion. Direction, unit and words follow from the cost that it limits. Not here: measuring it
(``work/evaluate/costs.py``), judging it (``gate/checks.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from pydantic import Field

from retrainer.records import Record
from retrainer.spec.fields import Positive


@dataclass(frozen=True, slots=True)
class Cost:
    """Something that serving a model costs or, where more is better, yields.

    :param words: in a sentence.
    :param head: at the head of a column.
    """

    words: str
    head: str
    unit: str = ""
    more_is_better: bool = False

    def amount(self, value: float | None) -> str:
        """A value with its unit; ``-`` for none."""
        return "-" if value is None or not math.isfinite(value) else f"{_digits(value)} {self.unit}".rstrip()


def _digits(value: float) -> str:
    """Four digits, more where the whole part is longer, none that say nothing: ``4.25``, ``90``, ``12,346``."""
    if value == 0 or not 1e-3 <= abs(value) < 1e9:
        return f"{value:.3g}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


# Under the name of the figure in the evidence, which ``artifacts.evaluation.cost_of`` reads.
COSTS: Mapping[str, Cost] = MappingProxyType(
    {
        "latency_ms.p50": Cost("median latency", "p50", "ms"),
        "latency_ms.p95": Cost("95th percentile latency", "p95", "ms"),
        "rows_per_second": Cost("texts a second", "texts/s", more_is_better=True),
        "size_mb": Cost("download size", "size", "MB"),
        "peak_memory_mb": Cost("peak memory", "memory", "MB"),
    }
)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a budget limits: the least of a cost of which more is better, the most of any other.

    :param cost: one of ``COSTS``.
    :param ratio: the challenger's over the champion's, instead of the challenger's by itself.
    """

    cost: str
    ratio: bool = False

    @property
    def at_least(self) -> bool:
        """Whether the limit is the least accepted."""
        return COSTS[self.cost].more_is_better

    @property
    def words(self) -> str:
        """What is compared with the limit."""
        return f"{COSTS[self.cost].words} over the champion's" if self.ratio else COSTS[self.cost].words

    def amount(self, value: float) -> str:
        """A measured value or a limit with its unit."""
        return f"{_digits(value)} ×" if self.ratio else COSTS[self.cost].amount(value)


class Budgets(Record):
    """What serving the challenger may cost, measured in a fresh process for each model, which take turns."""

    threads: int = Field(1, ge=1, le=1024, description="Threads of each measured model.")
    p50_latency_ms: Annotated[Positive | None, Budget("latency_ms.p50")] = Field(
        None, description="Median time of one text, batch 1, in milliseconds."
    )
    p95_latency_ms: Annotated[Positive | None, Budget("latency_ms.p95")] = Field(
        None, description="95th percentile of the time of one text, batch 1, in milliseconds."
    )
    min_rows_per_second: Annotated[Positive | None, Budget("rows_per_second")] = Field(
        None, description="Fewest texts a second in bulk."
    )
    size_mb: Annotated[Positive | None, Budget("size_mb")] = Field(
        None, description="Files that a client downloads, in 10^6 bytes."
    )
    peak_memory_mb: Annotated[Positive | None, Budget("peak_memory_mb")] = Field(
        None, description="Largest resident memory of a process that loads the model and answers, in 10^6 bytes."
    )
    max_latency_ratio: Annotated[Positive | None, Budget("latency_ms.p50", ratio=True)] = Field(
        None, description="Challenger's median latency over the champion's."
    )
    min_throughput_ratio: Annotated[Positive | None, Budget("rows_per_second", ratio=True)] = Field(
        None, description="Challenger's texts a second in bulk over the champion's."
    )
    max_size_ratio: Annotated[Positive | None, Budget("size_mb", ratio=True)] = Field(
        None, description="Challenger's size over the champion's."
    )
    max_memory_ratio: Annotated[Positive | None, Budget("peak_memory_mb", ratio=True)] = Field(
        None, description="Challenger's peak memory over the champion's."
    )


def budgets_of(record: type[Record]) -> dict[str, Budget]:
    """The entry of each field but ``threads``.

    :raises TypeError: a field has none, or one of a cost that is not measured, so that nothing would judge it.
    """
    entries = {}
    for name, field in record.model_fields.items():
        found = [item for item in field.metadata if isinstance(item, Budget)]
        if name == "threads":
            continue
        if len(found) != 1 or found[0].cost not in COSTS:
            raise TypeError(f"{record.__name__}.{name} needs one Budget that names one of {', '.join(COSTS)}")
        entries[name] = found[0]
    return entries


BUDGETS: Mapping[str, Budget] = MappingProxyType(budgets_of(Budgets))
