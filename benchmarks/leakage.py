"""Copies of training rows planted among test rows: how many the ingest step and a champion's index find.

7.4 % of the test rows are such copies, as many as in a public data set whose leak was reported. ``false`` are test
rows that a champion's index leaves out although a search with the texts at hand finds no near training row.
``python -m benchmarks.leakage [--rows N]``
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import PUBLIC_DATA, REPOSITORY
from benchmarks.planted import EXACT, NEAR, Text, copy, long_enough, vocabulary
from benchmarks.table import show
from retrainer.artifacts.snapshot import QUARANTINE
from retrainer.chain.messages import Message
from retrainer.spec import parse_pipeline
from retrainer.work.ingest import ingest
from retrainer.work.near.index import near_rows, write_index
from retrainer.work.near.search import Texts
from retrainer.work.near.verify import gram_sets
from retrainer.work.reporter import Reporter

SHARE = 0.074
SIMILARITY = 0.8


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set with a train and a test file."""

    name: str
    train: Path
    test: Path
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of the copies of one kind.

    :param planted: copies of it among the test rows.
    :param by_ingest: of these, training rows that went to quarantine.
    :param by_index: of these, copies that a champion's index names; not asked for exact ones.
    """

    kind: str
    planted: int
    by_ingest: int
    by_index: int


@dataclass(frozen=True, slots=True)
class Result:
    """One data set.

    :param natural: training rows in quarantine that nobody planted a copy of.
    :param false: test rows that the index names and the search with texts does not.
    :param index_bytes: size of the index for each training row.
    """

    name: str
    train_rows: int
    test_rows: int
    findings: tuple[Finding, ...]
    natural: int
    false: int
    ingest_seconds: float
    index_bytes: float
    write_seconds: float
    ask_seconds: float

    @property
    def near_recall(self) -> float:
        """Share of the near copies that the ingest step found."""
        return self._recall(NEAR)

    @property
    def exact_recall(self) -> float:
        """Share of the exact copies that the ingest step found."""
        return self._recall(EXACT)

    def _recall(self, kinds: Collection[str]) -> float:
        of_kind = [finding for finding in self.findings if finding.kind in kinds]
        return sum(finding.by_ingest for finding in of_kind) / max(sum(finding.planted for finding in of_kind), 1)


class _Silent(Reporter):
    def send(self, message: Message) -> None:
        """Nothing."""


def data_sets() -> list[DataSet]:
    """Those that are there: the example in the repository, and the public ones beside the checkout."""
    example = REPOSITORY / "examples" / "trail_status"
    pair = ("sentence1", "sentence2")
    known = [
        DataSet("trail status", example / "train.csv", example / "test.csv", ("status",)),
        DataSet("AG News", PUBLIC_DATA / "ag_news" / "train.csv", PUBLIC_DATA / "ag_news" / "test.csv", ("text",)),
        DataSet("IMDB", PUBLIC_DATA / "imdb" / "train.csv", PUBLIC_DATA / "imdb" / "test.csv", ("text",)),
        DataSet("MRPC", PUBLIC_DATA / "mrpc" / "train.csv", PUBLIC_DATA / "mrpc" / "validation.csv", pair),
        DataSet("RTE", PUBLIC_DATA / "rte" / "train.csv", PUBLIC_DATA / "rte" / "validation.csv", pair),
    ]
    return [data for data in known if data.train.is_file()]


def measure(data: DataSet, rows: int | None = None, seed: int = 0, share: float = SHARE) -> Result:
    """Plant copies in one data set and look for them.

    :param rows: only so many training rows, and so many test rows.
    :param share: of the test rows, how many are copies.
    """
    train, test = _read(data, data.train, rows), _read(data, data.test, rows)
    kinds = [*EXACT, *NEAR]
    chance = random.Random(seed)
    # A repeated row leaves before anything is compared, and a text with two labels with all its copies.
    seen = Counter(gram_sets(text) for text, _ in train)
    candidates = [at for at, (text, _) in enumerate(train) if long_enough(text) and seen[gram_sets(text)] == 1]
    count = min(len(candidates), max(len(kinds), round(len(test) * share / (1 - share))))
    words = vocabulary([text for text, _ in train])
    sources = chance.sample(candidates, count)
    kind_of = {source: kinds[at % len(kinds)] for at, source in enumerate(sources)}
    planted = [(copy(train[source][0], kind, chance, words), train[source][1]) for source, kind in kind_of.items()]
    judged = [*test, *planted]

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        started = time.perf_counter()
        gone = _ingested(data, train, judged, folder)
        ingest_seconds = time.perf_counter() - started
        labels = sorted({label for _, label in [*train, *judged]})
        started = time.perf_counter()
        write_index(_parquet(train, labels, folder), labels, folder / "near.bin")
        write_seconds = time.perf_counter() - started
        started = time.perf_counter()
        texts, names = [text for text, _ in judged], [label for _, label in judged]
        named = near_rows(folder / "near.bin", texts, names, SIMILARITY)
        ask_seconds = time.perf_counter() - started
        index_bytes = (folder / "near.bin").stat().st_size / len(train)

    index = np.array([labels.index(label) for _, label in train])
    asked = np.array([labels.index(name) for name in names])
    truly = Texts([text for text, _ in train], index, SIMILARITY).near(texts, asked).row >= 0
    plants, found, by_index = Counter(kind_of.values()), Counter[str](), Counter[str]()
    for at, (source, kind) in enumerate(kind_of.items()):
        found[kind] += source in gone
        by_index[kind] += bool(named[len(test) + at])
    return Result(
        name=data.name,
        train_rows=len(train),
        test_rows=len(judged),
        findings=tuple(Finding(kind, plants[kind], found[kind], by_index[kind]) for kind in kinds),
        natural=len(gone - set(sources)),
        false=int((named & ~truly).sum()),
        ingest_seconds=ingest_seconds,
        index_bytes=index_bytes,
        write_seconds=write_seconds,
        ask_seconds=ask_seconds,
    )


def _read(data: DataSet, path: Path, rows: int | None) -> list[tuple[Text, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        read = [row for row, _ in zip(csv.DictReader(stream), range(rows or 10**9), strict=False)]
    if len(data.texts) == 2:
        return [((row[data.texts[0]], row[data.texts[1]]), row["label"]) for row in read]
    return [(row[data.texts[0]], row["label"]) for row in read]


def _ingested(data: DataSet, train: list[tuple[Text, str]], test: list[tuple[Text, str]], folder: Path) -> set[int]:
    """Positions of the training rows that the ingest step took out because of a test row."""
    for name, rows in (("train", train), ("test", test)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            columns = [[*(text if isinstance(text, tuple) else (text,)), label] for text, label in rows]
            csv.writer(stream).writerows([[*data.texts, "label"], *columns])
    pipeline = parse_pipeline(
        {
            "name": "leakage",
            "task": "text-pair-classification" if len(data.texts) == 2 else "text-classification",
            "dataset": {
                "train": str(folder / "train.csv"),
                "test": str(folder / "test.csv"),
                "text": list(data.texts) if len(data.texts) == 2 else data.texts[0],
                "split": {"validation": 0.0},
                "checks": {"near_duplicate_similarity": SIMILARITY, "min_rows": 1, "min_rows_per_label": 1},
            },
            "model": {"base": "none"},
            "publish": {"store": "none"},
        }
    )
    (folder / "snapshot").mkdir()
    ingest(pipeline, folder / "snapshot", _Silent())
    set_aside = pq.read_table(folder / "snapshot" / QUARANTINE).to_pylist()
    return {row["row"] - 1 for row in set_aside if row["reason"] in {"also_in_test", "nearly_in_test"}}


def _parquet(rows: list[tuple[Text, str]], labels: list[str], folder: Path) -> Path:
    path = folder / "trained_on.parquet"
    table: dict[str, list[object]] = {"text": [t if isinstance(t, str) else t[0] for t, _ in rows]}
    if not isinstance(rows[0][0], str):
        table["text_pair"] = [text[1] for text, _ in rows]
    table["label"] = [labels.index(label) for _, label in rows]
    pq.write_table(pa.table(table), path)
    return path


def print_results(results: list[Result]) -> None:
    """Two tables: what was found, and what it took."""
    kinds = [
        [
            *(result.name, finding.kind, str(finding.planted), str(finding.by_ingest)),
            str(finding.by_index) if finding.kind in NEAR else "-",
        ]
        for result in results
        for finding in result.findings
    ]
    show("Planted copies", ["data", "kind", "planted", "found by ingest", "by champion's index"], kinds)
    show(
        "What it took",
        ["data", "train", "test", "natural", "false", "ingest s", "index B/row", "write s", "ask s"],
        [
            [
                *(result.name, f"{result.train_rows:,}", f"{result.test_rows:,}", str(result.natural)),
                *(str(result.false), f"{result.ingest_seconds:.1f}", f"{result.index_bytes:.0f}"),
                *(f"{result.write_seconds:.1f}", f"{result.ask_seconds:.1f}"),
            ]
            for result in results
        ],
        "natural: training rows nearly in test that nobody planted; false: test rows only the index names",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--share", type=float, default=SHARE)
    options = parser.parse_args()
    print_results([measure(data, options.rows, share=options.share) for data in data_sets()])


if __name__ == "__main__":
    main()
