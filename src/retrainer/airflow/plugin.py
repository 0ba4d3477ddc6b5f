"""The Airflow plugin. Loaded in every task process of a deployment, so what it offers is imported on demand.

It offers nothing yet: Airflow finds operators by their modules, and their links in the serialized DAG.
"""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class RetrainerPlugin(AirflowPlugin):  # type: ignore[misc]
    """The place of what Airflow's UI is to show."""

    name = "retrainer"
