"""``dag`` of a pipeline file: what Airflow knows about its DAG beyond what it does. Without Airflow it says nothing."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from retrainer.records import Record
from retrainer.spec.durations import Duration
from retrainer.spec.fields import Text
from retrainer.spec.notify import Notifier
from retrainer.spec.problems import refuse_one

# As long as Airflow stores.
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Deadline(Record):
    """From when on a run takes too long. It goes on all the same."""

    after: Duration | None = Field(None, description="Longer than that since it was queued, such as '4h'.")
    over_average: Duration | None = Field(
        None, description="So much longer than the pipeline's own successful runs took on average, such as '30 min'."
    )
    runs: int = Field(10, ge=1, le=1000, description="How many of the last runs the average is of.")
    least_runs: int = Field(3, ge=1, le=1000, description="With fewer there is no average, and nobody is told.")
    notify: tuple[Notifier, ...] = Field((), description="Who is told; Airflow's UI shows it in any case.")

    @model_validator(mode="after")
    def _something_to_miss(self) -> Self:
        if self.after is None and self.over_average is None:
            refuse_one("give 'after', 'over_average', or both")
        if self.least_runs > self.runs:
            refuse_one(f"there are never more than 'runs' ({self.runs})", "least_runs")
        return self


class DagSettings(Record):
    """What Airflow knows about the pipeline's DAG."""

    owner: Text | None = Field(None, description="Who answers for it; shown and searched in Airflow's UI.")
    tags: tuple[Tag, ...] = Field((), description="More tags, beside 'retrainer' and the task.")
    retries: int | None = Field(
        None,
        ge=0,
        le=100,
        description="How often a failed task is tried again; by default what the deployment says: 2.",
    )
    retry_delay: Duration | None = Field(None, description="How long is waited before; by default '1 min'.")
    task_timeout: Duration | None = Field(None, description="A task that runs longer fails, and may be tried again.")
    run_timeout: Duration | None = Field(
        None, description="A run that takes longer fails, the time that it waits for an approval included."
    )
    deadline: Deadline | None = Field(None, description="From when on a run takes too long.")

    @model_validator(mode="after")
    def _tags_once(self) -> Self:
        if len(set(self.tags)) != len(self.tags):
            refuse_one("list each tag only once", "tags")
        return self
