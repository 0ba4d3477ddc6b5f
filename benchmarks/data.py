"""Real rows for benchmarks: AG News or IMDB where the public data lies beside the checkout, else the example set."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PUBLIC_DATA = Path(os.environ.get("RETRAINER_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

_NAMES = {"ag_news": "AG News", "imdb": "IMDB"}


@dataclass(frozen=True, slots=True)
class Rows:
    """Texts with labels.

    :param name: of the data set, for titles.
    """

    name: str
    texts: list[str]
    labels: list[str]


def read_rows(count: int, split: str = "train", data: str = "ag_news") -> Rows:
    """The first ``count`` rows of a split.

    :param data: ``ag_news`` or ``imdb``.
    """
    path = PUBLIC_DATA / data / f"{split}.csv"
    if path.is_file():
        return _read(_NAMES[data], path, "text", count)
    return _read("trail status", REPOSITORY / "examples" / "trail_status" / f"{split}.csv", "status", count)


def _read(name: str, path: Path, text: str, count: int) -> Rows:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row, _ in zip(csv.DictReader(stream), range(count), strict=False)]
    return Rows(name, [row[text] for row in rows], [row["label"] for row in rows])
