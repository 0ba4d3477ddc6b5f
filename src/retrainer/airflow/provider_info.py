"""What Airflow reads about this package: its operators, and its section of ``airflow.cfg``.

Read while Airflow itself is starting, so nothing of ours is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's description, in the form of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-retrainer",
        "name": "retrainer",
        "description": "Keeps text classifiers fresh: ingest, fine-tune, export to ONNX, judge, publish.",
        "integrations": [{"integration-name": "retrainer", "tags": ["software"]}],
        "operators": [
            {
                "integration-name": "retrainer",
                "python-modules": [f"retrainer.airflow.operators.{name}" for name in _operator_modules()],
            }
        ],
        "extra-links": [
            "retrainer.airflow.links.RunFolderLink",
            "retrainer.airflow.links.ReceiptLink",
            "retrainer.airflow.links.PublishedVersionLink",
        ],
        "config": {
            "retrainer": {
                "description": "Where retrainer keeps its artifacts, how it reaches them, and what it trains with.",
                "options": {
                    "artifact_root": _option(
                        "Where the steps keep their outputs: a path, file:// or s3://. Every worker must reach it. "
                        "Empty: $AIRFLOW_HOME/retrainer/artifacts.",
                        "s3://bucket/retrainer",
                    ),
                    "trainer_python": _option(
                        "Interpreter that has airflow-retrainer[train]. Empty: the one that runs Airflow.",
                        "/opt/train/bin/python",
                    ),
                    "aws_conn_id": _option(
                        "Connection of type aws through which the buckets of artifacts, data and stores are reached. "
                        "Empty: what boto3 finds on the worker.",
                        "aws_default",
                    ),
                    "pipelines": _option(
                        "Folder of the pipeline files. Empty: the folder 'pipelines' beside dags/retrain.py.",
                        "/opt/airflow/pipelines",
                    ),
                    "console_try": _option(
                        "Whether texts may be tried on versions in the console: true or false. Empty: false.",
                        "true",
                    ),
                },
            }
        },
    }


def _operator_modules() -> list[str]:
    return sorted(file.stem for file in (Path(__file__).parent / "operators").glob("[!_]*.py"))


def _option(description: str, example: str) -> dict[str, str]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": example,
        "default": "",
    }
