"""``gate`` of a pipeline file: what a challenger must show before it may replace the champion."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from retrainer.records import Record
from retrainer.spec.budgets import Budgets
from retrainer.spec.fields import Alpha, Fraction, Text
from retrainer.spec.problems import refuse_one


class AgainstChampion(Record):
    """The paired comparison with the model that is live."""

    metric: str = Field("accuracy", description="The metric that is compared, on the same rows.")
    mode: Literal["superiority", "non_inferiority"] = Field(
        "non_inferiority",
        description="The whole interval of the difference must be above 0 for 'superiority', above -margin for "
        "'non_inferiority'.",
    )
    margin: Fraction = Field(
        0.01, description="How much worse still counts as not worse: 0.01 is one point of accuracy."
    )
    alpha: Alpha = Field(
        0.05,
        description="Error rate of each end of an interval, and of the slices' tests: a challenger exactly at the "
        "threshold is promoted this often.",
    )


class Slices(Record):
    """Groups of rows on which the challenger must not have got worse."""

    by: tuple[Text, ...] = Field((), description="'label', 'length' (quarters), or any column of the data.")
    patterns: tuple[Text, ...] = Field(
        (), description="Regular expressions of Python: the rows in whose text one is found are a group."
    )
    min_rows: int = Field(50, ge=1, description="A group with fewer rows is not judged, and reported as insufficient.")
    max_drop: Fraction = Field(
        0.05, description="Loss of accuracy within a group that is accepted even when it is certain."
    )

    @model_validator(mode="after")
    def _groups_differ(self) -> Self:
        if len(set(self.by)) != len(self.by):
            refuse_one("list each column only once", "by")
        if len(set(self.patterns)) != len(self.patterns):
            refuse_one("list each pattern only once", "patterns")
        for at, pattern in enumerate(self.patterns):
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                refuse_one(f"'{pattern}' is not a regular expression: {error}", "patterns", at)
        return self


DriftKind = Literal["labels", "length", "vocabulary", "style"]


class Drift(Record):
    """How far the training rows may have moved from those of the champion; distances are between 0 and 1."""

    warn: Fraction = Field(0.1, description="From this distance on, drift that chance does not explain is a warning.")
    block: dict[DriftKind, Fraction] = Field(
        default_factory=dict,
        description="The same for refusing the challenger, for each of 'labels', 'length', 'vocabulary', 'style'.",
    )


class Gate(Record):
    """What a challenger must show before it may replace the champion."""

    floors: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="Metric to the least value accepted; to the highest where less is better (log_loss, ece).",
    )
    confident: bool = Field(False, description="Floors must be met by the confidence bound, not only by the value.")
    against_champion: AgainstChampion | None = Field(
        AgainstChampion(), description="The paired comparison; null replaces a champion without one."
    )
    slices: Slices | None = Field(None, description="Groups of rows on which it must not be worse.")
    budgets: Budgets = Field(Budgets(), description="What serving may cost.")
    baseline: Literal["report", "not_worse", "floor"] = Field(
        "not_worse",
        description="TF-IDF with logistic regression, fitted on the same rows: 'not_worse' refuses a challenger that "
        "is worse beyond chance, 'floor' one that does not beat it, 'report' only shows the comparison.",
    )
    drift: Drift = Field(Drift(), description="How far the training rows may have moved.")
    report_texts: bool = Field(
        True,
        description="report.html, which is published with the model, shows texts of test rows that the champion has "
        "right and the challenger has wrong; false shows their row ids alone.",
    )

    @property
    def alpha(self) -> float:
        """The error rate of every interval, also where there is no champion to compare with."""
        return (self.against_champion or AgainstChampion()).alpha
