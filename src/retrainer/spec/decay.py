"""``decay`` of a pipeline file: whether the champion still answers as well on rows that were labelled since.

Not here: how that is judged (``gate/decay.py``).
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from retrainer.records import Record
from retrainer.spec import cross_checks
from retrainer.spec.dataset import Source
from retrainer.spec.fields import Fraction
from retrainer.spec.problems import refuse_one


class Decay(Record):
    """A check of the champion on newly labelled rows, by itself and without training anything."""

    data: Source | None = Field(
        None,
        description="Where newly labelled rows come, like dataset.train; by default dataset.train itself. Rows by "
        "which the champion was trained, chosen or judged are left out.",
    )
    cron: str | None = Field(
        None,
        description="When it is looked, in schedule.timezone; by default never, but for a run that somebody starts.",
    )
    metric: str | None = Field(
        None, description="One that is measured; by default that of against_champion, else the first of metrics."
    )
    max_drop: Fraction = Field(
        0.05,
        description="How much worse than at its decision the champion may be: it has decayed when the whole interval "
        "of the drop is above it, and holds when none of it is.",
    )
    min_rows: int = Field(200, ge=1, description="With fewer new rows nothing is said.")
    retrain: bool = Field(False, description="Start the pipeline's DAG when the champion has decayed, once.")

    @model_validator(mode="after")
    def _times_can_be_read(self) -> Self:
        if self.cron is not None and (complaint := cross_checks.cron(self.cron)):
            refuse_one(complaint, "cron")
        return self
