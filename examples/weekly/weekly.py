"""Retrain when all seven days of a week are there: data as Airflow's partitions, and a window over them.

``collect_news`` stands for whatever brings the data of a day. Each of its runs is one partition of the asset
``news/daily``. ``retrain__weekly_news`` waits until the seven of a week have come, in whatever order, and then reads
just these. A day that is collected again after that starts nothing, until all seven of its week have come again.

Copy it into the DAGs folder, and set where the data and the models are.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import (
    DAG,
    Asset,
    CronPartitionTimetable,
    PartitionedAssetTimetable,
    RollupMapper,
    StartOfWeekMapper,
    WeekWindow,
    task,
)

from retrainer.airflow import retrain_dag

DATA = os.environ.get("WEEKLY_DATA", "/data/news")
STORE = os.environ.get("WEEKLY_STORE", "/data/models")

daily = Asset(name="news/daily", uri=f"file://{DATA}")

with DAG(
    "collect_news",
    schedule=CronPartitionTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
):

    @task(outlets=[daily])
    def collect(partition_date: datetime | None = None) -> str:
        """Put the rows of a day into the folder of that day, as a file that appears at once."""
        assert partition_date is not None, "the timetable gives each run its day"
        folder = Path(DATA) / f"{partition_date:%Y-%m-%d}"
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / ".news.csv.part"
        part.write_text("text,label\n")  # here: the rows of the day
        part.rename(folder / "news.csv")
        return str(folder)

    collect()

weekly = retrain_dag(
    {
        "name": "weekly-news",
        "dataset": {
            # The window's date is its Monday.
            "train": [f"{DATA}/{{{{ macros.ds_add(partition_date | ds, {day}) }}}}/*.csv" for day in range(7)],
            "text": "text",
            "label": "label",
        },
        "model": {"base": "distilbert-base-uncased"},
        "gate": {"floors": {"accuracy": 0.85}},
        "publish": {"store": STORE},
    },
    schedule=PartitionedAssetTimetable(
        assets=daily,
        default_partition_mapper=RollupMapper(upstream_mapper=StartOfWeekMapper(), window=WeekWindow()),
    ),
)
