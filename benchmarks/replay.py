"""How long a year of nights takes to be decided again: ``python -m benchmarks.replay [--nights N] [--rows N]``.

Half of the nights bring a challenger that is a little better or worse than the one before, on the same rows. Times are
of the whole command in a process of its own: of its processors, and on the wall.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.nights import MODEL, Nights
from benchmarks.table import show

MOST_SECONDS = 10.0
GATE = {"floors": {"accuracy": 0.8}, "against_champion": {"margin": 0.03}, "slices": {"by": ["label"]}}
POLICIES = {
    "its own": None,
    "superiority": {"floors": {"accuracy": 0.8}, "against_champion": {"mode": "superiority"}},
    "each night by itself": {"floors": {"accuracy": 0.8}, "over_time": {"control": "none"}},
}


def main() -> None:
    """Make a history, replay it, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nights = make(Path(folder), options.nights, options.rows)
        rows = [_measured(nights, name, policy) for name, policy in POLICIES.items()]
    title = f"{options.nights} decisions, {options.rows:,} rows each; required: within {MOST_SECONDS:g} s"
    columns = ("policy", "processor s", "wall s", "decisions", "equal", "other verdicts", "stopped", "held")
    show(title, columns, rows)


def make(folder: Path, count: int, rows: int) -> Nights:
    """A history in which some challengers go live."""
    random = np.random.default_rng(5)
    nights = Nights(folder, rows, GATE)
    hard = random.permutation(rows)[: rows // 4]
    for night in range(count):
        nights.night(f"night-{night}", random.permutation(hard)[: int(rows * random.uniform(0.08, 0.12))])
    return nights


def _measured(nights: Nights, name: str, policy: object) -> tuple[str, ...]:
    command = [sys.executable, "-m", "retrainer.cli", "replay", str(nights.store), MODEL]
    command += ["--artifacts", nights.root, "--json"]
    if policy is not None:
        file = nights.folder / "other.yaml"
        file.write_text(json.dumps({"gate": policy}))
        command += ["--policy", str(file)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    answer = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = json.loads(answer.stdout)
    decisions = said["decisions"]
    return (
        name,
        f"{used:.1f}",
        f"{wall:.1f}",
        str(len(decisions)),
        str(sum(one["equal"] is True for one in decisions)),
        str(sum(one["recorded"] != one["replayed"] for one in decisions)),
        "no" if said["stop"] is None else f"at entry {said['stop']['entry']}",
        "yes" if used <= MOST_SECONDS else "NO",
    )


if __name__ == "__main__":
    main()
