"""The operator that starts the retraining of a model that has decayed.

Loads half of Airflow: imported where a pipeline asks for it, and not with the other operators.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

_UNDER_WAY = ["queued", "running"]


class StartRetrainOperator(TriggerDagRunOperator):  # type: ignore[misc]
    """Start a run of a pipeline's DAG, unless one is queued or runs: skipped then, as where the same was asked before.

    The next check asks again. It holds whatever that run has made live against the rows that there are by then.
    """

    def execute(self, context: Any) -> None:
        """Start it."""
        if RuntimeTaskInstance.get_dr_count(dag_id=self.trigger_dag_id, states=_UNDER_WAY):
            raise AirflowSkipException(f"a run of {self.trigger_dag_id} is under way: the next check asks again")
        super().execute(context)
