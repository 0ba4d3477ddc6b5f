"""What Airflow reads about this package: its operators, its types of connections, and its section of ``airflow.cfg``.

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
        "connection-types": _connection_types(),
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
                        "Connection of type retrainer_store or aws through which the buckets of artifacts, data and "
                        "stores are reached. Empty: what boto3 finds on the worker.",
                        "aws_default",
                    ),
                    "kubernetes_conn_id": _option(
                        "Connection of type kubernetes to the cluster in which pipelines with engine: kubernetes "
                        "train. Empty: the cluster in which tasks run, or that of their kubeconfig.",
                        "kubernetes_default",
                    ),
                    "ray_conn_id": _option(
                        "Connection to the dashboard of the Ray cluster in which pipelines with engine: ray train: "
                        "host, port, schema (http or https), and its token as the password. Empty: what the pipeline "
                        "says, or $RAY_API_SERVER_ADDRESS.",
                        "ray_default",
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


def _connection_types() -> list[dict[str, Any]]:
    """The forms under Admin > Connections; Airflow imports a hook only to test a connection."""
    return [
        {
            "connection-type": "retrainer_store",
            "hook-class-name": "retrainer.airflow.hooks.StoreHook",
            "hook-name": "Retrainer store",
            "ui-field-behaviour": {
                "hidden-fields": ["host", "port", "schema"],
                "relabeling": {"login": "Access key id", "password": "Secret access key"},
                "placeholders": {
                    "login": "empty: the role of the worker",
                    "password": "empty: the role of the worker",
                },
            },
            "conn-fields": {
                "address": _field(
                    "Address", "What the test reaches: s3://bucket/prefix, or a folder. Pipelines name their own store."
                ),
                "endpoint_url": _field("Endpoint", "A server that is not Amazon's: https://minio.example.com"),
                "region_name": _field("Region", "Such as eu-central-1"),
                "aws_session_token": _field("Session token", "Of short-lived keys.", format="password"),
                "profile_name": _field("Profile", "Of the worker's AWS configuration, where no keys are given."),
                "role_arn": _field("Role to assume", "Needs Airflow's amazon provider."),
                "verify": _field("Certificates", "Path of a bundle that the server's certificate is checked against."),
            },
        },
        {
            "connection-type": "retrainer_signing_key",
            "hook-class-name": "retrainer.airflow.hooks.SigningKeyHook",
            "hook-name": "Retrainer signing key",
            "ui-field-behaviour": {
                "hidden-fields": ["host", "port", "schema", "login"],
                "relabeling": {"password": "Private key"},
                "placeholders": {"password": "what 'retrainer keygen' wrote into NAME.key"},
            },
        },
    ]


def _field(label: str, description: str, **schema: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], **schema}}


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
