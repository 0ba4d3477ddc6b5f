"""What a data set that is larger than any that was measured takes: ingest at two sizes and more, and the line through
them.

Rows of 40 words and the checks that are on by default, as of ``benchmarks.ingest``. Part of ``python -m
benchmarks.scale``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.ingest import measure, plan, write
from benchmarks.table import show

# Training holds input ids, mask and token types of each row, 4 bytes a token each, and once more while it joins them.
TOKEN_BYTES, TOKENS_PER_WORD, WORDS = 3 * 4, 1.3, 40
HOSTS_GB = (16, 64, 256, 1024)
DATA_GB = 200.0


@dataclass(frozen=True, slots=True)
class Size:
    """Ingest of so many rows.

    :ivar processor, wall: seconds; ``bytes`` of the files, ``peak`` of the process.
    """

    rows: int
    bytes: int
    processor: float
    wall: float
    peak: int


def sizes_of(folder: Path, counts: Sequence[int]) -> list[Size]:
    """Run ingest on each number of rows."""
    found = []
    for rows in counts:
        sources = write(folder, rows, "words", "parquet")
        root = folder / f"root-{rows}"
        root.mkdir()
        whole = measure(plan(sources, root), root)[-1]
        size = sum(Path(path).stat().st_size for path in sources.values())
        found.append(Size(rows, size, whole.processor, whole.wall, whole.peak))
    return found


def report(folder: Path, counts: Sequence[int]) -> list[Size]:
    """Measure and print."""
    found = sizes_of(folder, counts)
    show(
        "Ingest of rows of 40 words, parquet, all checks",
        ["rows", "file, MB", "processor s", "wall s", "peak MB", "rows a processor second"],
        [
            [
                f"{one.rows:,}",
                f"{one.bytes / 1e6:.0f}",
                f"{one.processor:.1f}",
                f"{one.wall:.1f}",
                f"{one.peak / 1e6:,.0f}",
                f"{one.rows / one.processor:,.0f}",
            ]
            for one in found
        ],
    )
    rows = np.array([one.rows for one in found], float)
    row_bytes, base_bytes = np.polyfit(rows, [one.peak for one in found], 1)
    row_seconds, base_seconds = np.polyfit(rows, [one.processor for one in found], 1)
    text_bytes = found[-1].bytes / found[-1].rows
    print(
        f"The line through them: {row_bytes:,.0f} bytes of memory a row over {base_bytes / 1e6:,.0f} MB, "
        f"{row_seconds * 1e6:.0f} microseconds of a core over {base_seconds:.1f} s; a row has {text_bytes:.0f} bytes "
        "in the file."
    )
    many = DATA_GB * 1e9 / text_bytes
    lines = [
        [
            f"{memory:,} GB",
            f"{(most := (memory * 1e9 * 0.8 - base_bytes) / row_bytes) / 1e6:,.0f}",
            f"{most * text_bytes / 1e9:.0f}",
            f"{most * row_seconds / 3600:.1f}",
        ]
        for memory in HOSTS_GB
    ]
    show(
        "What fits into four fifths of a host's memory, by that line",
        ["memory", "million rows", "GB of files", "hours of a core"],
        lines,
        f"{DATA_GB:.0f} GB of such files are {many / 1e6:,.0f} million rows: "
        f"{many * row_bytes / 1e9:,.0f} GB of memory, "
        f"{many * row_seconds / 3600:,.0f} hours of a core",
    )
    held = TOKEN_BYTES * TOKENS_PER_WORD * WORDS
    print(
        f"Training holds {held:,.0f} bytes of tokens a row of {WORDS} words, twice that for a moment: of 10 million "
        f"rows {held * 1e7 / 1e9:.1f} GB."
    )
    return found
