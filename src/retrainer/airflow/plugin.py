"""The Airflow plugin. Loaded in every task process of a deployment, so what it offers is imported on demand."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class RetrainerPlugin(AirflowPlugin):  # type: ignore[misc]
    """Names the links of the operators to the API server."""

    name = "retrainer"

    @property
    def operator_extra_links(self) -> list[Any]:
        """The links beside the tasks. Only the API server asks for them."""
        from retrainer.airflow.links import PublishedVersionLink, ReceiptLink, RunFolderLink

        return [RunFolderLink(), ReceiptLink(), PublishedVersionLink()]
