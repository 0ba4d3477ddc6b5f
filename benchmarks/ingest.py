"""How long the ingest step takes on a million rows, all checks on, and how much memory: phase by phase.

The data is made up, with fixed seeds: texts of 40 words drawn from a vocabulary in which the n-th word is as frequent
as 1/n, exact copies of other rows (some in another case), copies with one other word, and rows whose copy has another
label; in a train and a test file, validation carved. ``templates`` are texts that share a long instruction and differ
in the rest, a little below the similarity that counts; ``heavy`` are groups of dozens that are nearly the same;
``short`` are texts of 16 words, which are also compared with each word left out.

The step runs in a process of its own, as ``python -m retrainer.work`` runs it. ``processor`` is the time of all its
threads, ``peak`` the most memory that it held at the end of a phase or before.
``python -m benchmarks.ingest [--rows N] [--kind words|short|templates|heavy] [--format csv|parquet]``
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import REPOSITORY
from benchmarks.table import show
from retrainer.artifacts.snapshot import SPLITS, SnapshotStatistics
from retrainer.chain import INGEST, RunContext, StepRequest
from retrainer.spec import parse_pipeline

Ints = npt.NDArray[np.int64]

ROWS, WORDS, SHORT, VOCABULARY, SEED = 1_000_000, 40, 16, 50_000, 5
LABELS = ("business", "science", "sports", "world")
TEST_SHARE = 0.1
# Shares of all rows.
EXACT, NEAR, CONFLICTING = 0.03, 0.03, 0.005
# Words that all texts of a template have, and how many templates there are.
SHARED_WORDS, TEMPLATES = 32, 20
# Rows that are nearly the same.
GROUP = 50
# What holds for a million rows of words, see docs/data.md.
MOST_SECONDS, MOST_BYTES = 120.0, 2e9
# Phase to what of the step is part of it: modules below ``retrainer.work.ingest`` and names in them.
PHASES = {
    "reading": ("_read",),
    "labels": ("index_labels",),
    "keys": ("Pool.of",),
    "checks": ("checks.set_missing_aside", "checks.set_duplicates_aside", "leakage.set_exact_aside"),
    "carve": ("_select",),
    "near duplicates": ("leakage.set_near_aside",),
    "writing": ("write_splits", "write_quarantine"),
}


@dataclass(frozen=True, slots=True)
class Phase:
    """What one part of the step took.

    :param peak: the most memory that the process had held when it ended, in bytes.
    """

    name: str
    wall: float
    processor: float
    peak: int


def texts(rows: int, kind: str, random: np.random.Generator) -> tuple[list[str], Ints]:
    """Texts of a kind without copies, and an index of a label for each."""
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = random.integers(2, 12, VOCABULARY)
    words = np.array(["".join(random.choice(letters, length)) for length in lengths], dtype=object)
    frequency = 1.0 / np.arange(1, VOCABULARY + 1)
    drawn = random.choice(VOCABULARY, (rows, SHORT if kind == "short" else WORDS), p=frequency / frequency.sum())
    label = random.integers(0, len(LABELS), rows)
    if kind == "templates":
        shared = random.integers(0, VOCABULARY, (TEMPLATES, SHARED_WORDS))
        drawn[:, :SHARED_WORDS] = shared[random.integers(0, TEMPLATES, rows)]
    elif kind == "heavy":
        leaders = np.arange(rows) // GROUP * GROUP
        own = drawn[:, 0].copy()
        drawn = drawn[leaders]
        label = label[leaders]
        drawn[np.arange(rows), random.integers(0, WORDS, rows)] = own
    return [" ".join(row) for row in words[drawn]], label


def data_set(rows: int, kind: str) -> tuple[list[str], list[str]]:
    """Texts with copies among them, and the label of each, in an order without meaning."""
    random = np.random.default_rng(SEED)
    copies = {name: int(rows * share) for name, share in (("exact", EXACT), ("near", NEAR), ("other", CONFLICTING))}
    made, index = texts(rows - sum(copies.values()), kind, random)
    label = index.tolist()
    for name, count in copies.items():
        for source in random.integers(0, len(index), count).tolist():
            text, own = made[source], label[source]
            if name == "exact":
                text = text.upper() if source % 2 else text
            elif name == "near":
                words = text.split()
                words[source % len(words)] = f"other{source}"
                text = " ".join(words)
            else:
                own = (own + 1) % len(LABELS)
            made.append(text)
            label.append(own)
    order = random.permutation(len(made)).tolist()
    return [made[at] for at in order], [LABELS[label[at]] for at in order]


def write(folder: Path, rows: int, kind: str, form: str) -> dict[str, str]:
    """Write a train and a test file, unless they are there; the paths, as a pipeline names them."""
    paths = {split: folder / f"{kind}-{rows}-{split}.{form}" for split in ("train", "test")}
    if not all(path.is_file() for path in paths.values()):
        made, labels = data_set(rows, kind)
        held_out = int(rows * TEST_SHARE)
        for split, part in (("test", slice(held_out)), ("train", slice(held_out, None))):
            _write(paths[split], made[part], labels[part])
    return {split: str(path) for split, path in paths.items()}


def _write(path: Path, rows: list[str], labels: list[str]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": rows, "label": labels}), path)
        return
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(rows, labels, strict=True)])


def plan(sources: dict[str, str], root: Path, text: str = "text", label: str = "label") -> StepRequest:
    """The step's request, with the checks that are on by default."""
    pipeline = parse_pipeline(
        {
            "name": "ingest",
            "dataset": {**sources, "text": text, "label": label, "checks": {"min_rows": 1, "min_rows_per_label": 1}},
            "model": {"base": str(root)},
            "publish": {"store": str(root / "store")},
        }
    )
    context = RunContext(root=str(root), run_id="benchmark", actor="benchmark", started_at="2026-01-01T00:00:00Z")
    planned = INGEST.plan(pipeline, context=context)
    assert isinstance(planned, StepRequest)
    return planned


def measure(request: StepRequest, folder: Path) -> list[Phase]:
    """Run the step in a process of its own; the whole of it comes last."""
    path = folder / "request.json"
    path.write_bytes(request.to_json())
    command = [sys.executable, "-m", "benchmarks.ingest", "--step", str(path), "--phases", str(folder / "phases.json")]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"the step ended with {os.waitstatus_to_exitcode(status)}")
    phases = [Phase(**phase) for phase in json.loads((folder / "phases.json").read_bytes())]
    whole = Phase("all", wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
    rest = whole.wall - sum(phase.wall for phase in phases)
    rest_processor = whole.processor - sum(phase.processor for phase in phases)
    return [*phases, Phase("imports and the rest", rest, rest_processor, whole.peak), whole]


def run_step(request: Path, target: Path) -> None:
    """In the step's process: the step as it always runs, with a watch on its phases."""
    from retrainer.work import __main__ as work
    from retrainer.work import ingest

    taken = {name: Phase(name, 0.0, 0.0, 0) for name in PHASES}
    for name, parts in PHASES.items():
        for part in parts:
            *path, last = part.split(".")
            _watch(functools.reduce(getattr, path, ingest), last, name, taken)
    code = work.main(["ingest", str(request)])
    target.write_text(json.dumps([asdict(phase) for phase in taken.values()]))
    sys.exit(code)


def _watch(owner: Any, name: str, phase: str, taken: dict[str, Phase]) -> None:
    function: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            before = taken[phase]
            taken[phase] = Phase(
                phase,
                before.wall + time.perf_counter() - wall,
                before.processor + time.process_time() - processor,
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            )

    setattr(owner, name, timed)


def snapshot(root: Path) -> tuple[Path, SnapshotStatistics]:
    """The one that the step left."""
    folder = next((root / "ingest").glob("*/statistics.json")).parent
    return folder, SnapshotStatistics.load(folder)


def report(name: str, phases: list[Phase], rows: int, statistics: SnapshotStatistics) -> None:
    """A table of the phases, and what the snapshot holds."""
    lines = [
        [
            *(phase.name, f"{phase.wall:.1f}", f"{phase.processor:.1f}", f"{phase.peak / 1e6:,.0f}"),
            f"{rows / phase.wall:,.0f}" if phase.wall > 0.005 else "-",
        ]
        for phase in phases
    ]
    kept = ", ".join(f"{split} {statistics.splits[split].rows:,}" for split in SPLITS)
    aside = ", ".join(f"{reason} {count:,}" for reason, count in statistics.quarantined.items())
    show(
        f"{rows:,} rows, {name}",
        ["phase", "wall s", "processor s", "peak MB", "rows/s"],
        lines,
        f"{kept}; duplicates {statistics.duplicates:,}; {aside}",
    )


def cases(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, str]]]:
    """Names of data sets, and their files."""
    for kind in options.kind:
        for form in options.format:
            yield f"{kind}, {form}", write(folder, options.rows, kind, form)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--kind", nargs="+", choices=["words", "short", "templates", "heavy"], default=["words"])
    parser.add_argument("--format", nargs="+", choices=["csv", "parquet"], default=["csv", "parquet"])
    parser.add_argument("--data", type=Path, default=None, help="folder in which the data stays, to be used again")
    parser.add_argument("--keep", type=Path, default=None, help="folder in which the snapshots stay")
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--phases", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options.step, options.phases)
    with tempfile.TemporaryDirectory(prefix="retrainer-benchmark-") as scratch:
        data = options.data or Path(scratch)
        data.mkdir(parents=True, exist_ok=True)
        for name, sources in cases(data, options):
            root = (options.keep or Path(scratch)) / name.replace(", ", "-")
            root.mkdir(parents=True)
            phases = measure(plan(sources, root), root)
            _, statistics = snapshot(root)
            report(name, phases, options.rows, statistics)
            if options.kind == ["words"] and options.rows == ROWS:
                held = phases[-1].wall <= MOST_SECONDS and phases[-1].peak <= MOST_BYTES
                print(f"within {MOST_SECONDS:.0f} s and {MOST_BYTES / 1e9:.0f} GB: {'yes' if held else 'no'}")


if __name__ == "__main__":
    main()
