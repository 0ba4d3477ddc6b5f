"""The lines that ``benchmarks.gate`` prints: what was required, what was measured, and whether it held."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """A requirement and what was measured.

    :param chance: two standard errors of the simulation; empty where nothing was simulated, and so is ``runs``.
    """

    what: str
    required: str
    measured: str
    held: bool
    chance: str = ""
    runs: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How much is simulated.

    :param details: what the lines add below the table.
    """

    quick: bool
    processes: int
    details: list[str] = field(default_factory=list)

    def runs(self, full: int, quick: int) -> int:
        """How often to simulate."""
        return quick if self.quick else full

    def share(self, happened: Callable[[int], bool], runs: int) -> float:
        """Share of seeds with which something happened; over processes."""
        if self.processes < 2:
            return sum(map(happened, range(runs))) / runs
        with ProcessPoolExecutor(self.processes) as pool:
            return sum(pool.map(happened, range(runs), chunksize=10)) / runs


def _error(share: float, runs: int) -> float:
    """Two standard errors of a share."""
    return 2 * math.sqrt(max(share * (1 - share), 1 / runs) / runs)


def at_most(what: str, limit: float, share: float, runs: int) -> Line:
    """A share that must not be larger, but for chance."""
    error = _error(limit, runs)
    return Line(what, f"<= {limit:.1%}", f"{share:.1%}", share <= limit + error, f"{error:.1%}", f"{runs:,}")


def at_least(what: str, limit: float, share: float, runs: int) -> Line:
    """A share that must not be smaller, but for chance."""
    error = _error(limit, runs)
    return Line(what, f">= {limit:.1%}", f"{share:.1%}", share >= limit - error, f"{error:.1%}", f"{runs:,}")


def near(what: str, low: float, high: float, share: float, runs: int) -> Line:
    """A share that must be in a range, but for chance."""
    error = _error(ALPHA, runs)
    held = low - error <= share <= high + error
    return Line(what, f"{low:.1%} to {high:.1%}", f"{share:.1%}", held, f"{error:.1%}", f"{runs:,}")
