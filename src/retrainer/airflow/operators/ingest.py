"""The operator that turns labelled files into a snapshot."""

from __future__ import annotations

from retrainer.airflow.operators.base import StepOperator
from retrainer.spec import Pipeline
from retrainer.steps import RunContext, StepRequest, plan_ingest


class IngestDatasetOperator(StepOperator):
    """Read labelled text, check it, drop duplicates and leaks, and split it into train, validation and test.

    Returns the reference of the snapshot; its summary has ``rows`` per split, ``labels``, ``duplicates``,
    ``leakage`` and ``quarantined``.

    Retries: the snapshot is named by the content of the data, so a retry, or another run over unchanged data, finds
    the finished one and starts no process. Wrong data (a missing column, an unknown label, a file that is not
    UTF-8) fails the task without a retry. A bucket that does not answer is tried again.

    :param pipeline: see ``StepOperator``.
    :param artifact_root: see ``StepOperator``.
    :param trainer_python: see ``StepOperator``.
    """

    def plan(self, pipeline: Pipeline, *, root: str, context: RunContext) -> StepRequest:
        """Read the data by its content."""
        return plan_ingest(pipeline, root=root, context=context)
