"""Are wrong labels found, and does looking at a few settle a decision? Labels of real data are flipped at random.

Of each data set 5 % of all labels become another label. Printed are the precision of the suspects at the number that
was flipped, beside how often the models that judge are right; and, for two models on subsets of the test rows, of the
``insufficient_rows`` that the flips caused how many are decided once the first rows of ``look_first`` have their true
label, beside what as many rows at random and the best possible ones would decide. The models are TF-IDF with logistic
regression on half and on all of the train rows with their flipped labels.

Run it where the public data is, as ``python -m benchmarks.labels [DATA SET]...``; a data set takes about a minute.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import PUBLIC_DATA
from benchmarks.table import show
from retrainer.gate.answers import Answers
from retrainer.gate.claims import FEWEST_ROWS
from retrainer.gate.metrics import compare
from retrainer.gate.overturn import look_first
from retrainer.spec.dataset import Checks
from retrainer.work.evaluate.baseline import fit_baseline
from retrainer.work.evaluate.suspects import Doubts, doubt_labels
from retrainer.work.ingest.pools import row_keys
from retrainer.work.snapshot_texts import Text

Ints = npt.NDArray[np.int64]

FLIPPED = 0.05
DATA = {
    "ag_news": ("text",),
    "imdb": ("text",),
    "mrpc": ("sentence1", "sentence2"),
    "rte": ("sentence1", "sentence2"),
}
REQUIRED_PRECISION = {"ag_news": 0.7, "imdb": 0.7}
REQUIRED_DECIDED = 0.8
LOOKED_AT = 20
LEVEL = 0.05
THRESHOLDS = (0.0, -0.005, -0.01, -0.02)
ROWS = (500, 1000, 2000, 4000)
SUBSETS = 150  # of each size


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows with their true labels, each text once."""

    row_ids: list[str]
    texts: list[Text]
    labels: Ints

    def write(self, path: Path, labels: Ints, keep: slice = slice(None)) -> None:
        """As a snapshot has it."""
        texts = self.texts[keep]
        pairs = [text if isinstance(text, tuple) else (text,) for text in texts]
        columns = {
            name: list(part) for name, part in zip(("text", "text_pair"), zip(*pairs, strict=True), strict=False)
        }
        table = {"row_id": self.row_ids[keep], **columns, "label": pa.array(labels[keep], pa.int64())}
        pq.write_table(pa.table(table), path)


def read(path: Path, columns: tuple[str, ...], names: list[str]) -> Split:
    """The rows of a file, each text once."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    keys, blank = row_keys([pa.array([row[column] for row in rows], pa.large_string()) for column in columns])
    _, first = np.unique(keys, return_index=True)
    kept = [int(at) for at in np.sort(first) if not blank[at]]
    texts: list[Text] = [
        (rows[at][columns[0]], rows[at][columns[1]]) if len(columns) == 2 else rows[at][columns[0]] for at in kept
    ]
    labels = np.array([names.index(rows[at]["label"]) for at in kept], dtype=np.int64)
    return Split([f"{int(keys[at]):016x}" for at in kept], texts, labels)


def flip(labels: Ints, count: int, random: np.random.Generator) -> Ints:
    """The same with a share of them changed into any other of ``count`` labels."""
    given = labels.copy()
    rows = random.choice(labels.size, int(FLIPPED * labels.size), replace=False)
    given[rows] = (given[rows] + random.integers(1, count, rows.size)) % count
    return given


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One data set, flipped once."""

    doubts: Doubts
    test: Split
    given: Ints
    champion: Answers
    challenger: Answers
    seconds: float
    precision: float
    right: float


def case(name: str, seed: int, rows: int) -> Case:
    """One data set with its labels flipped by that seed."""
    source = PUBLIC_DATA / name
    held_out = next(path for path in (source / "test.csv", source / "validation.csv") if path.is_file())
    with (source / "train.csv").open(newline="", encoding="utf-8") as stream:
        names = sorted({row["label"] for row in csv.DictReader(stream)})
    train, test = read(source / "train.csv", DATA[name], names), read(held_out, DATA[name], names)
    random = np.random.default_rng(seed)
    of_train, given = flip(train.labels, len(names), random), flip(test.labels, len(names), random)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        train.write(folder / "half.parquet", of_train, slice(0, len(train.texts) // 2))
        train.write(folder / "train.parquet", of_train)
        test.write(folder / "test.parquet", given)
        champion, challenger = (
            Answers(*fit_baseline(folder / f"{part}.parquet", tuple(names)).answers(test.texts))
            for part in ("half", "train")
        )
        said = (champion.probabilities + challenger.probabilities) / 2
        started = time.perf_counter()
        doubts = doubt_labels(folder, tuple(names), rows, dict(zip(test.row_ids, said, strict=True)))
        seconds = time.perf_counter() - started
    true = dict(zip(train.row_ids + test.row_ids, [*train.labels.tolist(), *test.labels.tolist()], strict=True))
    truth = np.array([true[row_id] for row_id in doubts.row_ids])
    wrong = doubts.labels != truth
    first = np.argsort(doubts.scores, kind="stable")[: int(wrong.sum())]
    right = float((doubts.probabilities.argmax(axis=1) == truth).mean())
    return Case(doubts, test, given, champion, challenger, seconds, float(wrong[first].mean()), right)


def told(labels: Ints, models: tuple[Answers, Answers], threshold: float) -> bool:
    """Whether the rows tell: shown, or worse."""
    interval = compare("accuracy", labels, *models, LEVEL)
    return (interval.low > threshold and interval.n >= FEWEST_ROWS) or interval.high < 0


def of_rows(answers: Answers, rows: Ints) -> Answers:
    """Those of some rows."""
    return Answers(answers.predictions[rows], answers.probabilities[rows])


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of an ``insufficient_rows`` that the flips caused: whether looking at a few rows decides it.

    :param first: the first of ``look_first``.
    :param at_random: of those on which the models differ.
    :param best: those that move the comparison most. What these do not decide no list of rows can.
    """

    first: bool
    at_random: bool
    best: bool


def best_rows(true: Ints, given: Ints, models: tuple[Answers, Answers], sign: int) -> Ints:
    """The rows to look at of somebody who knows all labels.

    :param sign: 1 to move the comparison up, -1 to move it down.
    """
    now, then = (
        (models[0].predictions == labels).astype(int) - (models[1].predictions == labels) for labels in (given, true)
    )
    moves = sign * (then - now)
    return np.argsort(-moves, kind="stable")[: int((moves > 0).sum())]


def caused(found: Case, seed: int) -> Iterator[Outcome]:
    """Each ``insufficient_rows`` that the flips caused."""
    random = np.random.default_rng(seed)
    position = {row_id: at for at, row_id in enumerate(found.doubts.row_ids)}
    at_hand = np.array([at for at, row_id in enumerate(found.test.row_ids) if row_id in position])
    doubted = found.doubts.probabilities[[position[found.test.row_ids[at]] for at in at_hand]]
    for n in (n for n in ROWS if n < at_hand.size):
        for _ in range(SUBSETS):
            chosen = random.choice(at_hand.size, n, replace=False)
            rows = at_hand[chosen]
            true, given = found.test.labels[rows], found.given[rows]
            models = of_rows(found.challenger, rows), of_rows(found.champion, rows)
            order, _ = look_first(
                given, models[0].predictions, models[1].predictions, doubted[chosen], found.doubts.noise
            )
            differ = random.permutation(np.flatnonzero(models[0].predictions != models[1].predictions))
            looked = []
            for at in (order, differ, best_rows(true, given, models, 1), best_rows(true, given, models, -1)):
                labels = given.copy()
                labels[at[:LOOKED_AT]] = true[at[:LOOKED_AT]]
                looked.append(labels)
            for threshold in THRESHOLDS:
                superior = threshold == 0.0
                if told(true, models, threshold) and not told(given, models, threshold):
                    if superior and (given == models[0].predictions).sum() <= (given == models[1].predictions).sum():
                        continue  # that is not_better, and no number of rows is asked for
                    first, at_random, *best = (told(labels, models, threshold) for labels in looked)
                    yield Outcome(first, at_random, any(best))


def main() -> None:
    """Print what is required and what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("data", nargs="*", default=[*DATA])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=Checks().suspect_rows)
    asked = parser.parse_args()
    precisions, decisions = [], []
    for name in asked.data:
        found = [case(name, seed, asked.rows) for seed in asked.seeds]
        summary = found[0].doubts.summary()
        required = REQUIRED_PRECISION.get(name)
        precisions.append(
            [
                name,
                f"{sum(summary.rows.values()):,}",
                f">= {required}" if required else "shown",
                ", ".join(f"{one.precision:.3f}" for one in found),
                f"{np.mean([one.right for one in found]):.3f}",
                f"{sum(summary.wrong.values()):,}",
                f"{np.mean([one.seconds for one in found]):.0f}",
            ]
        )
        outcomes = [outcome for seed, one in enumerate(found) for outcome in caused(one, seed)]
        shares = [
            np.mean([getattr(outcome, field.name) for outcome in outcomes]) if outcomes else float("nan")
            for field in fields(Outcome)
        ]
        decisions.append([name, f"{len(outcomes):,}", f">= {REQUIRED_DECIDED}", *(f"{share:.3f}" for share in shares)])
    show(
        f"{FLIPPED:.0%} of labels flipped: suspects",
        ("data", "rows", "required", "precision at the number flipped", "models right", "estimated wrong", "seconds"),
        precisions,
    )
    show(
        f"insufficient_rows that the flips caused, and the first {LOOKED_AT} rows decide",
        ("data", "cases", "required", "decided", "by as many rows at random", "by the best rows"),
        decisions,
    )


if __name__ == "__main__":
    main()
