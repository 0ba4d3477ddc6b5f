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

    metric: str = Field(
        "accuracy",
        description="The metric that is compared, on the same rows; unless another is named, of any number of labels "
        "f1_micro, of text chrf.",
    )
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
        "threshold is promoted this often by a single decision. 'over_time' lowers it for the comparison.",
    )


class OverTime(Record):
    """What many decisions together may get wrong."""

    control: Literal["fdr", "familywise", "none"] = Field(
        "familywise",
        description="'familywise': any false promotion with probability alpha. 'fdr': a false share of promotions of "
        "alpha; the anchor's guard stays familywise. 'none': each decision by itself.",
    )
    alpha: Alpha = Field(
        0.05, description="What 'control' bounds, over as many decisions of the channel as 'decisions' says."
    )
    decisions: int = Field(
        365,
        ge=1,
        le=100_000,
        description="Comparisons with the champion over which alpha is spent, and looks after which rows are used up.",
    )


class Anchor(Record):
    """The model that small losses are measured against, so that they cannot add up."""

    max_loss: Fraction | None = Field(
        None, description="How much worse than the anchor a challenger may be; null is the margin of against_champion."
    )


class Slices(Record):
    """Groups of rows on which the challenger must not have got worse."""

    by: tuple[Text, ...] = Field((), description="'label', 'length' (quarters), or any column of the data.")
    patterns: tuple[Text, ...] = Field(
        (), description="Regular expressions of Python: the rows in whose text one is found are a group."
    )
    min_rows: int = Field(50, ge=1, description="A group with fewer rows is not judged, and reported as insufficient.")
    max_drop: Fraction = Field(
        0.05,
        description="Loss of accuracy within a group, of rows with any number of labels of subset_accuracy, of text of "
        "the metric that is compared, that is accepted even when it is certain.",
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
        description="Metric to the least value accepted; to the highest where less is better, as of log_loss.",
    )
    confident: bool = Field(False, description="Floors must be met by the confidence bound, not only by the value.")
    against_champion: AgainstChampion | None = Field(
        AgainstChampion(), description="The paired comparison; null replaces a champion without one."
    )
    over_time: OverTime = Field(OverTime(), description="What many decisions together may get wrong.")
    anchor: Anchor | None = Field(
        Anchor(),
        description="The best champion so far, or one that a person pinned: a challenger must not be worse than it, "
        "unless it is shown to be better than the champion. null compares with the champion only.",
    )
    max_harmful_flips: Fraction | None = Field(
        None,
        description="Largest share of rows that the champion had right and the challenger has wrong; with 'confident' "
        "its upper bound counts. A slice refuses when it is shown to be above.",
    )
    slices: Slices | None = Field(None, description="Groups of rows on which it must not be worse.")
    budgets: Budgets = Field(Budgets(), description="What serving may cost.")
    baseline: Literal["report", "not_worse", "floor"] = Field(
        "not_worse",
        description="TF-IDF with logistic regression, fitted on the same rows: 'not_worse' refuses a challenger that "
        "is worse beyond chance, 'floor' one that does not beat it, 'report' only shows the comparison. "
        "Models that write text have none.",
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

    @property
    def max_loss(self) -> float | None:
        """How much worse than the anchor a challenger may be; ``None`` where it is not compared with one."""
        if self.anchor is None or self.against_champion is None:
            return None
        return self.against_champion.margin if self.anchor.max_loss is None else self.anchor.max_loss
