"""Real rows for benchmarks: AG News where the public data lies beside the checkout, else the example set."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PUBLIC_DATA = Path(os.environ.get("RETRAINER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts with labels.

    :param name: of the data set, for titles.
    """

    name: str
    texts: list[str]
    labels: list[str]


def read_rows(count: int, split: str = "train") -> Rows:
    """The first ``count`` rows of a split."""
    news = PUBLIC_DATA / "ag_news" / f"{split}.csv"
    if news.is_file():
        return _read("AG News", news, "text", count)
    return _read("trail status", REPOSITORY / "examples" / "trail_status" / f"{split}.csv", "status", count)


def _read(name: str, path: Path, text: str, count: int) -> Rows:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row, _ in zip(csv.DictReader(stream), range(count), strict=False)]
    return Rows(name, [row[text] for row in rows], [row["label"] for row in rows])
