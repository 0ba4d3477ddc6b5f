"""The store: publishers that race, 10,000 versions of one model, 1 GB of files.

``python -m benchmarks.store [--rounds N] [--versions N] [--megabytes N] [--transfer-rounds N]``
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks import transfers
from benchmarks.store_growth import growth
from benchmarks.store_races import races
from benchmarks.table import show


def transferred(megabytes: int, rounds: int) -> None:
    """Print what large files take beside boto3's plain transfer of one."""
    speeds = transfers.measure(megabytes=megabytes, rounds=rounds)
    show(
        f"{speeds.bytes / 1e6:,.0f} MB to a {speeds.server} server on this machine, median of {speeds.rounds} rounds",
        ["MB/s", f"{speeds.files} files, checked", "1 file, boto3", "ratio"],
        [
            [
                "upload",
                *(f"{value / 1e6:.0f}" for value in (speeds.upload, speeds.plain_upload)),
                f"{speeds.upload_ratio:.2f}",
            ],
            [
                "download",
                *(f"{value / 1e6:.0f}" for value in (speeds.download, speeds.plain_download)),
                f"{speeds.download_ratio:.2f}",
            ],
        ],
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--transfer-rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        races(Path(scratch) / "races", options.rounds)
        growth(Path(scratch) / "growth", options.versions)
    transferred(options.megabytes, options.transfer_rounds)


if __name__ == "__main__":
    main()
