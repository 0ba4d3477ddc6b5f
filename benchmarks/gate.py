"""Whether the gate holds the error rates it states, and how long it takes on a million rows.

Each line is a requirement: what it says, and what was measured on evidence whose truth is known. Chance is stated as
two standard errors of the simulation. A new line is a function that yields ``Line``, named in ``LINES``.
``python -m benchmarks.gate [--quick] [--only TEXT] [--processes N]``
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np

from benchmarks.gate_evidence import (
    SHARES,
    Floats,
    Ints,
    draw,
    evidence,
    probabilities,
    with_difference,
    write_evidence,
)
from benchmarks.gate_lines import ALPHA, Line, Options, at_least, at_most, near
from benchmarks.table import show
from retrainer.artifacts.evaluation import BASELINE, CHAMPION
from retrainer.gate.answers import Answers
from retrainer.gate.decide import decide
from retrainer.gate.evidence import load_evidence
from retrainer.gate.metrics import METRICS, compare, score
from retrainer.gate.receipt import ReasonCode
from retrainer.gate.slices import judge_slices
from retrainer.gate.validity import FP32, Rows, check
from retrainer.spec.gate import AgainstChampion, Gate, Slices

MARGIN = 0.01
SUPERIORITY = Gate(against_champion=AgainstChampion(mode="superiority", alpha=ALPHA))
NON_INFERIORITY = Gate(against_champion=AgainstChampion(mode="non_inferiority", margin=MARGIN, alpha=ALPHA))
MOST_SECONDS = 20.0
MOST_GIGABYTES = 2.0
MOST_RATIO = 1.5
CORES = 2


# --- accuracy, through the whole decision ------------------------------------------------------------------


def promoted_by_accuracy(policy: Gate, difference: float, discordant: float, n: int, seed: int) -> bool:
    """Whether ``decide`` promotes a challenger that is better by ``difference``, on ``n`` rows of four labels."""
    random = np.random.default_rng([seed, n])
    labels = random.integers(0, 4, n)
    kinds = random.choice(
        4, n, p=[0.85, (discordant + difference) / 2, (discordant - difference) / 2, 0.15 - discordant]
    )
    wrong = (labels + random.integers(1, 4, n)) % 4
    challenger = np.where((kinds == 0) | (kinds == 1), labels, wrong)
    champion = np.where((kinds == 0) | (kinds == 2), labels, wrong)
    return decide(policy, evidence(labels, {FP32: challenger, CHAMPION: champion}, 4)).promoted


def accuracy_lines(options: Options) -> Iterator[Line]:
    """Equal, better and worse challengers, n = 2,000, 8 % discordant."""
    runs = options.runs(1000, 300)

    def share(policy: Gate, difference: float) -> float:
        return options.share(partial(promoted_by_accuracy, policy, difference, 0.08, 2000), runs)

    what = "accuracy, n = 2,000, 8 % discordant"
    yield at_most(f"{what}: equal, superiority, promoted", ALPHA, share(SUPERIORITY, 0.0), runs)
    yield at_least(f"{what}: 3 points better, superiority, promoted", 0.95, share(SUPERIORITY, 0.03), runs)
    yield at_most(f"{what}: 2 points worse, margin 1 point, promoted", ALPHA, share(NON_INFERIORITY, -0.02), runs)
    yield near(f"{what}: 1 point worse, margin 1 point, promoted", 0.035, 0.065, share(NON_INFERIORITY, -0.01), runs)


# --- macro F1 ----------------------------------------------------------------------------------------------


@cache
def _ten_labels(shares: str, difference: float, accuracy: float) -> Floats:
    """The population of both models; 8 % discordant, fewer where models are right too often for that."""
    discordant = min(0.08, 1.2 * (1 - accuracy))
    return with_difference(SHARES[shares], difference, "f1", accuracy=accuracy, discordant=discordant)


def shown_by_macro_f1(shares: str, n: int, difference: float, threshold: float, accuracy: float, seed: int) -> bool:
    """Whether the lower bound exceeds the threshold, on ``n`` rows of ten uneven labels."""
    cells = _ten_labels(shares, difference, accuracy)
    labels, first, second = draw(cells, n, np.random.default_rng([seed, n]))
    challenger, champion = (Answers(said, probabilities(said, 10)) for said in (first, second))
    return compare("f1", labels, challenger, champion, ALPHA).low > threshold


def macro_f1_lines(options: Options) -> Iterator[Line]:
    """The truth exactly at the threshold: the error must be near alpha, neither above nor far below."""
    runs = options.runs(1000, 200)
    uneven = ["1/k"] if options.quick else list(SHARES)
    settings = [(shares, n, 0.85) for shares in uneven for n in (500, 5000)]
    if not options.quick:
        settings += [("1/k", n, accuracy) for accuracy in (0.6, 0.95) for n in (500, 5000)]
    for shares, n, accuracy in settings:
        what = f"macro F1, n = {n:,}, 10 labels {shares}, {accuracy:.0%} right"
        for mode, threshold in (("equal, superiority", 0.0), ("1 point worse, margin 1 point", -MARGIN)):
            happened = partial(shown_by_macro_f1, shares, n, threshold, threshold, accuracy)
            yield near(f"{what}: {mode}, promoted", 0.035, 0.065, options.share(happened, runs), runs)


# --- slices ------------------------------------------------------------------------------------------------


def _sliced(parts: int, size: int, seed: int, losing: bool) -> tuple[Rows, Ints]:
    """Rows of 20 slices, 8 % discordant; with ``losing`` slice 0 lost 10 points while the whole gained 1."""
    random = np.random.default_rng([seed, parts])
    n = parts * size
    part = np.repeat(np.arange(parts), size)
    labels = random.integers(0, 4, n)
    gain = np.zeros(parts)
    if losing:
        gain[0], gain[1:] = -0.10, (0.01 * parts + 0.10) / (parts - 1)
    shift = gain[part]
    spread = np.maximum(0.08, 1.2 * np.abs(shift))
    draws = random.random(n)
    won, lost = draws < (spread + shift) / 2, draws > 1 - (spread - shift) / 2
    both = ~won & ~lost & (random.random(n) < 0.9)
    wrong = (labels + 1) % 4
    challenger, champion = np.where(won | both, labels, wrong), np.where(lost | both, labels, wrong)
    answers = {
        FP32: Answers(challenger, probabilities(challenger, 4)),
        CHAMPION: Answers(champion, probabilities(champion, 4)),
    }
    return Rows(labels, answers, None, {"part": np.array([f"part {x}" for x in range(parts)])[part]}), champion


def refused_for_a_slice(max_drop: float, seed: int) -> bool:
    """Whether any of 20 slices of 300 rows refuses two equal models."""
    rows, _ = _sliced(20, 300, seed, losing=False)
    policy = Slices(by=("part",), max_drop=max_drop)
    return bool(judge_slices(policy, rows, tuple("abcd"), rows.answers[CHAMPION], ALPHA)[1])


def names_the_slice(seed: int) -> bool:
    """Whether ``decide`` refuses a challenger that lost 10 points on one slice, and names that slice alone."""
    rows, champion = _sliced(20, 300, seed, losing=True)
    models = {FP32: rows.answers[FP32].predictions, CHAMPION: champion}
    policy = Gate(against_champion=AgainstChampion(), slices=Slices(by=("part",)))
    receipt = decide(policy, evidence(rows.labels, models, 4, slices=rows.slices))
    named = [reason.detail for reason in receipt.reasons if reason.code == ReasonCode.SLICE_WORSE]
    return len(named) == 1 and named[0].startswith("part = part 0:") and not receipt.promoted


def slice_lines(options: Options) -> Iterator[Line]:
    """Twenty slices of 300 rows."""
    runs = options.runs(2000, 500)
    null = options.share(partial(refused_for_a_slice, 0.0), runs)
    yield at_most("20 null slices of 300, no loss tolerated: any refused", ALPHA, null, runs)
    runs = options.runs(500, 100)
    named = options.share(names_the_slice, runs)
    yield at_least("a slice of 300 lost 10 points, the whole gained 1: refused and named", 0.95, named, runs)


# --- a million rows ----------------------------------------------------------------------------------------


def _peak_gigabytes() -> float:
    """Largest resident memory of this process since it started, 10^9 bytes. Not that of its parent, as ru_maxrss."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def measure_statistics(folder: Path) -> dict[str, list[float]]:
    """Every metric of three models with bounds, two comparisons each: seconds and peak GB after each phase."""
    phases: dict[str, list[float]] = {}
    started = last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[name] = [now - last, _peak_gigabytes()]
        last = now

    loaded = load_evidence(folder)
    lap("read the evidence")
    rows, problems = check(loaded)
    assert rows is not None
    assert not problems, problems
    lap("align and check the rows")
    for name in METRICS:
        if name == "f1_binary" and len(loaded.record.labels) != 2:
            continue
        for model in (FP32, CHAMPION, BASELINE):
            score(name, rows.labels, rows.answers[model], ALPHA)
        for model in (CHAMPION, BASELINE):
            compare(name, rows.labels, rows.answers[FP32], rows.answers[model], ALPHA)
        lap(name)
    phases["in all"] = [last - started, _peak_gigabytes()]
    return phases


def measure_decision(folder: Path) -> dict[str, list[float]]:
    """The whole decision over every metric, with slices."""
    policy = Gate(
        against_champion=AgainstChampion(metric="f1"),
        slices=Slices(by=("label", "length", "region")),
        floors={"auroc": 0.5, "ece": 1.0, "log_loss": 9.0},
        baseline="floor",
    )
    started = time.perf_counter()
    receipt = decide(policy, load_evidence(folder))
    assert receipt.comparison is not None
    return {"in all": [time.perf_counter() - started, _peak_gigabytes()]}


MEASURES = {"statistics": measure_statistics, "decision": measure_decision}


def _in_fresh_process(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gate", *arguments], stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout


def million_lines(options: Options) -> Iterator[Line]:
    """1,000,000 rows with real-valued scores, each measurement in a fresh process bound to two cores."""
    n = 1_000_000
    for n_labels in (10,) if options.quick else (4, 10):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "evaluate"
            _in_fresh_process("--write", str(folder), "--rows", str(n), "--labels", str(n_labels))
            for measure in MEASURES:
                phases = json.loads(_in_fresh_process("--measure", measure, str(folder)))
                seconds, gigabytes = phases.pop("in all")
                what = f"{n:,} rows, {n_labels} labels, {measure}"
                required = f"{MOST_SECONDS:g} s, {MOST_GIGABYTES:g} GB"
                held = seconds <= MOST_SECONDS and gigabytes <= MOST_GIGABYTES
                yield Line(what, required, f"{seconds:.1f} s, {gigabytes:.2f} GB", held)
                if phases:
                    each = ", ".join(f"{name} {taken:.1f} s ({peak:.2f} GB)" for name, (taken, peak) in phases.items())
                    options.details.append(f"{what}: {each}")


# --- leakage -----------------------------------------------------------------------------------------------


def leakage_lines(options: Options) -> Iterator[Line]:
    """7.4 % of the test rows are copies of training rows: with changed case, space, Unicode form, one word."""
    from benchmarks.leakage import data_sets, measure

    for data in data_sets():
        found = measure(data, 1000 if options.quick else None)
        planted = sum(finding.planted for finding in found.findings)
        what = f"{data.name}, {planted} planted copies"
        yield Line(f"{what}: exact ones found", "100.0%", f"{found.exact_recall:.1%}", found.exact_recall == 1.0)
        yield Line(f"{what}: near ones found", ">= 95.0%", f"{found.near_recall:.1%}", found.near_recall >= 0.95)


# --- costs -------------------------------------------------------------------------------------------------


def cost_lines(options: Options) -> Iterator[Line]:
    """The same bundle measured twice: no ratio budget of 1.5 may refuse it."""
    from benchmarks.costs import compared

    runs = 5 if options.quick else 20
    for name, ratios in compared(runs).ratios.items():
        most = max(max(ratio, 1 / ratio) for ratio in ratios)
        yield Line(f"A/A, {name}: largest ratio", "< 1.5", f"{most:.2f}", most < MOST_RATIO, runs=f"{runs}")


# --- many nights -------------------------------------------------------------------------------------------


def time_lines(options: Options) -> Iterator[Line]:
    """What a schedule that asks every night adds up to."""
    from benchmarks.gate_over_time import lines

    yield from lines(options)


def tail_lines(options: Options) -> Iterator[Line]:
    """The error of intervals at the small levels that are left after many nights."""
    from benchmarks.gate_tails import lines

    yield from lines(options)


LINES: Sequence[Callable[[Options], Iterator[Line]]] = (
    accuracy_lines,
    macro_f1_lines,
    slice_lines,
    million_lines,
    leakage_lines,
    cost_lines,
    time_lines,
    tail_lines,
)


def main() -> None:
    """Simulate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer runs, fewer settings")
    parser.add_argument("--only", default="", help="lines of the functions whose name contains this")
    parser.add_argument("--processes", type=int, default=min(CORES, os.cpu_count() or 1))
    # How this script calls itself.
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--labels", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_evidence(arguments.write, arguments.rows, arguments.labels)
        return
    if arguments.measure:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
        measure, folder = arguments.measure
        print(json.dumps(MEASURES[measure](Path(folder))))
        return
    options = Options(arguments.quick, arguments.processes)
    started = time.perf_counter()
    lines = []
    for function in LINES:
        if arguments.only in function.__name__:
            for line in function(options):
                lines.append(line)
                print(f"{line.what}: {line.measured}", file=sys.stderr)
    missed = sum(not line.held for line in lines)
    show(
        "The gate",
        ["what", "required", "measured", "2 s.e.", "runs", "held"],
        [
            [line.what, line.required, line.measured, line.chance, line.runs, "yes" if line.held else "NO"]
            for line in lines
        ],
        "\n".join([*options.details, f"{missed} of {len(lines)} not held; {time.perf_counter() - started:.0f} s"]),
    )


if __name__ == "__main__":
    main()
