"""What an Airflow deployment sets for all pipelines: where artifacts lie, how buckets are reached, which Python trains,
which folder to read.

Each is taken from the first place that says it: the argument, the environment, ``airflow.cfg``, a default.
Not here: anything about one pipeline (``retrainer.spec``).
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import conf

SECTION = "retrainer"


def artifact_root(given: str | Path | None) -> str:
    """Where the steps keep their outputs: a path, ``file://`` or ``s3://``.

    ``$RETRAINER_ARTIFACT_ROOT``, ``[retrainer] artifact_root``, ``$AIRFLOW_HOME/retrainer/artifacts``.
    """
    found = _first(given, "RETRAINER_ARTIFACT_ROOT", "artifact_root")
    return found or str(_airflow_home() / "retrainer" / "artifacts")


def trainer_python(given: str | Path | None) -> str | None:
    """The interpreter that has the training libraries; ``None`` means the one that runs Airflow.

    ``$RETRAINER_TRAINER_PYTHON``, ``[retrainer] trainer_python``.
    """
    return _first(given, "RETRAINER_TRAINER_PYTHON", "trainer_python")


def aws_conn_id(given: str | None) -> str | None:
    """The connection that says how buckets are reached; ``None`` leaves it to boto3's own chain.

    ``$RETRAINER_AWS_CONN_ID``, ``[retrainer] aws_conn_id``.
    """
    return _first(given, "RETRAINER_AWS_CONN_ID", "aws_conn_id")


def pipelines_folder(default: str | Path) -> Path:
    """The folder of the pipeline files: ``$RETRAINER_PIPELINES``, ``[retrainer] pipelines``, else ``default``."""
    return Path(_first(None, "RETRAINER_PIPELINES", "pipelines") or default).expanduser()


def _first(given: str | Path | None, variable: str, option: str) -> str | None:
    # An empty string is how a config file and an empty template say "not set".
    return str(given or "") or os.environ.get(variable) or conf.get(SECTION, option, fallback="") or None


def _airflow_home() -> Path:
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
