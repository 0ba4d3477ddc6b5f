"""Serving: the client against torch eager and plain onnxruntime, its start, its memory; then the HTTP server.

Same weights, same rows in the order of the file, the same number of threads, taking turns in one run. Plain
onnxruntime reads the same graph with the same options, in batches of 32 padded to their longest row.
``python -m benchmarks.serve [--rows N] [--rounds N] [--only client|start|http]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For all alike, as the steps' processes have it: what else runs here then distorts the figures less.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from benchmarks import http
from benchmarks.bundle import MAX_LENGTH, make_bundle, manifest_of
from benchmarks.data import REPOSITORY, Rows, read_rows
from benchmarks.table import show
from retrainer.serve.cores import usable_cores
from retrainer.serve.encoding import load_tokenizer
from retrainer.serve.engine import load_session, session_options
from retrainer.serve.predictor import OUTPUT, Predictor, load_info
from retrainer.store import Store

BATCH = 32
PRECISIONS = ("fp32", "int8")
SINGLE_TEXTS = 100
STARTS = 7
START = """
import json, resource, sys, time
started = time.perf_counter()
from retrainer.serve import Classifier
imported = time.perf_counter()
classify = Classifier.from_store(sys.argv[1], "ag-news", cache_dir=sys.argv[2])
loaded = time.perf_counter()
classify("Oil prices fall as supply grows")
answered = time.perf_counter()
unwanted = sorted({"torch", "transformers", "airflow"} & set(sys.modules))
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps([imported - started, loaded - imported, answered - loaded, resident, classify.precision, unwanted]))
"""
Ask = Callable[[list[str]], object]


def turns(contenders: dict[str, Ask], calls: list[list[str]], rounds: int) -> dict[str, float]:
    """Median seconds of a call, the contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for texts in calls[:4]:
        for ask in contenders.values():
            ask(texts)
    for _ in range(rounds):
        for texts in calls:
            for name, ask in contenders.items():
                started = time.perf_counter()
                ask(texts)
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def torch_eager(checkpoint: Path) -> Ask:
    """The checkpoint itself."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(usable_cores())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()

    def ask(texts: list[str]) -> object:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            return model(**batch).logits

    return ask


def plain_onnxruntime(bundle: Path, precision: str) -> Ask:
    """A session and a tokenizer that pads, as a tutorial has it."""
    info = load_info(bundle)
    session = load_session(bundle / info.precisions[precision].file, session_options())
    tokenizer = load_tokenizer(bundle, MAX_LENGTH)
    tokenizer.enable_padding(pad_id=info.pad_token_id)

    def ask(texts: list[str]) -> object:
        rows = tokenizer.encode_batch_fast(texts)
        feed = {
            "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
            "token_type_ids": np.array([row.type_ids for row in rows], dtype=np.int64),
        }
        return session.run([OUTPUT], {name: feed[name] for name in info.inputs})

    return ask


def in_batches(ask: Ask) -> Ask:
    """The same in batches of 32, in the order of the rows."""
    return lambda texts: [ask(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]


def measure_client(made: Path, rows: Rows, rounds: int) -> None:
    """One text, and many."""
    torch = torch_eager(made / "checkpoint")
    plain = {name: plain_onnxruntime(made / "bundle", name) for name in PRECISIONS}
    ours: dict[str, Ask] = {name: Predictor(made / "bundle", precision=name).probabilities for name in PRECISIONS}
    single = turns(
        {"torch": torch}
        | {f"plain {name}": ask for name, ask in plain.items()}
        | {f"ours {name}": ask for name, ask in ours.items()},
        [[text] for text in rows.texts[:SINGLE_TEXTS]],
        rounds,
    )
    bulk = turns(
        {"torch": in_batches(torch)}
        | {f"plain {name}": in_batches(ask) for name, ask in plain.items()}
        | {f"ours {name}": ask for name, ask in ours.items()},
        [rows.texts],
        rounds,
    )
    names = {
        "torch": "torch eager fp32",
        **{f"plain {name}": f"onnxruntime {name}" for name in PRECISIONS},
        **{f"ours {name}": f"retrainer {name}" for name in PRECISIONS},
    }

    def times_plain(name: str) -> str:
        kind, _, precision = name.partition(" ")
        return f"{bulk[f'plain {precision}'] / bulk[name]:.2f}x" if kind == "ours" else ""

    show(
        f"Client, {len(rows.texts)} rows of {rows.name}, MiniLM-L6, {usable_cores()} threads",
        [
            "",
            "p50, ms",
            "of torch",
            "rows/s",
            "of torch",
            "of plain",
        ],
        [
            [
                label,
                f"{single[name] * 1000:.2f}",
                f"{single[name] / single['torch']:.2f}",
                f"{len(rows.texts) / bulk[name]:.0f}",
                f"{bulk['torch'] / bulk[name]:.2f}x",
                times_plain(name),
            ]
            for name, label in names.items()
        ],
        f"torch and plain onnxruntime in batches of {BATCH}, in the order of the file",
    )


def start_once(url: str, cache: Path) -> list[float]:
    """A fresh process: seconds to import, load and answer, and the most memory that it ever had, in MB."""
    result = subprocess.run(
        [sys.executable, "-c", START, url, str(cache)], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    if result.returncode != 0:
        raise SystemExit(result.stderr)
    *figures, precision, unwanted = json.loads(result.stdout)
    if precision != "int8" or unwanted:
        raise SystemExit(f"not what was to be measured: {precision}, {unwanted}")
    return [*figures[:3], sum(figures[:3]), figures[3]]


def measure_start(bundle: Path, scratch: Path) -> None:
    """Fresh processes with a warm cache."""
    url = (scratch / "store").as_uri()
    Store.open(url).model("ag-news").publish(
        bundle,
        manifest_of(bundle, "ag-news"),
        channel="production",
        actor="benchmark",
        reason="measured",
        decision=None,
        expected=None,
    )
    start_once(url, scratch / "cache")
    starts = [start_once(url, scratch / "cache") for _ in range(STARTS)]
    rows = [
        [label, *(f"{value:.2f} s" for value in figures[:4]), f"{figures[4]:.0f} MB"]
        for label, figures in (
            ("median", [statistics.median(column) for column in zip(*starts, strict=True)]),
            ("best", [min(column) for column in zip(*starts, strict=True)]),
            ("worst", [max(column) for column in zip(*starts, strict=True)]),
        )
    ]
    show(
        f"Start from a warm cache, MiniLM-L6 int8, {STARTS} fresh processes",
        ["", "import", "verify, load, golden rows", "first answer", "all", "most memory"],
        rows,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("client", "start", "http"))
    options = parser.parse_args()
    rows = read_rows(options.rows, "test")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bundle = make_bundle(scratch / "made")
        if options.only in {None, "start"}:
            measure_start(bundle, scratch)
        if options.only in {None, "client"}:
            measure_client(scratch / "made", rows, options.rounds)
        if options.only in {None, "http"}:
            texts = {rows.name: rows.texts, "headlines": [http.first_sentence(text) for text in rows.texts]}
            served = scratch / "served"
            served.mkdir()
            measured = http.measure(bundle, texts, scratch=served, rounds=options.rounds)
            http.show_measured(measured, f"HTTP server, {http.CLIENTS} clients, one text a request, MiniLM-L6")


if __name__ == "__main__":
    main()
