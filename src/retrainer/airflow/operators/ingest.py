"""The operator that turns labelled files into a snapshot."""

from __future__ import annotations

from retrainer.airflow.connections import AIRFLOW_KEY, signer
from retrainer.airflow.step_operator import StepOperator
from retrainer.chain import INGEST
from retrainer.errors import UserError
from retrainer.spec import Pipeline


class IngestDatasetOperator(StepOperator):
    """Read labelled text, check it, drop duplicates and leaks, and split it into train, validation and test.

    Returns the reference of the snapshot, with an ``Ingested`` as its output.

    Retries: the snapshot is named by the content of the data, so a retry, or another run over unchanged data, finds
    the finished one and starts no process. Wrong data (a missing column, an unknown label, a file that is not
    UTF-8) fails the task without a retry. A bucket that does not answer is tried again.

    As the first task it also looks at the key that the pipeline signs with, so that a wrong one is found before
    anything is trained. A key in a file or a variable may lie on another worker: then it only warns.

    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = INGEST
    task_name = "ingest"

    def prepare(self, pipeline: Pipeline) -> dict[str, str]:
        """Look at the signing key. It is not kept, and not given to this step's process."""
        try:
            signer(pipeline.publish)
        except UserError as error:
            if str(pipeline.publish.sign_with).startswith(AIRFLOW_KEY):
                raise
            self.log.warning("publishing will fail unless its worker has what this one has not: %s", error)
        return {}
