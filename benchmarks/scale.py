"""What docs/scale.md says, measured: hosts that follow a channel, a night of many pipelines, models of many versions,
data sets that are too large. A few minutes unless ``--full``, whose figures the page has.

Figures on a busy machine say little about seconds; requests, bytes and simulated nights do not depend on it.

``python -m benchmarks.scale [--only watchers night versions data] [--full]``
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Each imports what it needs when it runs: Airflow, onnxruntime and moto have no need of one another.


def watchers(folder: Path, *, full: bool) -> None:
    """500 hosts that follow one channel."""
    from benchmarks.scale_watchers import report

    hosts, interval = (500, 60.0) if full else (100, 12.0)
    report(folder, hosts=hosts, interval=interval, intervals=2, seeds=20 if full else 5)


def night(folder: Path, *, full: bool) -> None:
    """1,000 pipelines on 20 GPUs."""
    from benchmarks.scale_night import report

    report(1000, seeds=20 if full else 3)


def versions(folder: Path, *, full: bool) -> None:
    """10,000 versions of a model."""
    from benchmarks.scale_versions import report

    report(folder, [20, 1000, 10_000] if full else [20, 200])


def data(folder: Path, *, full: bool) -> None:
    """200 GB."""
    from benchmarks.scale_data import report

    report(folder, [100_000, 300_000] if full else [10_000, 30_000])


PARTS: Mapping[str, Callable[..., None]] = {"watchers": watchers, "night": night, "versions": versions, "data": data}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix=f"retrainer-scale-{name}-") as folder:
            PARTS[name](Path(folder), full=options.full)
    load = os.getloadavg()
    print(f"{os.cpu_count()} cores; load of the machine {load[0]:.1f}")


if __name__ == "__main__":
    main()
