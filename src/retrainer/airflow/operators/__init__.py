"""The operators, one module each. ``step_operator.py`` beside this folder has what they share."""

from retrainer.airflow.operators.approve import ApproveModelOperator
from retrainer.airflow.operators.decay import CheckDecayOperator
from retrainer.airflow.operators.evaluate import EvaluateModelOperator
from retrainer.airflow.operators.export import ExportOnnxOperator
from retrainer.airflow.operators.fine_tune import FineTuneOperator
from retrainer.airflow.operators.gate import EvaluationGateOperator
from retrainer.airflow.operators.ingest import IngestDatasetOperator
from retrainer.airflow.operators.publish import PublishModelOperator
from retrainer.airflow.operators.select import SelectModelOperator

__all__ = [
    "ApproveModelOperator",
    "CheckDecayOperator",
    "EvaluateModelOperator",
    "EvaluationGateOperator",
    "ExportOnnxOperator",
    "FineTuneOperator",
    "IngestDatasetOperator",
    "PublishModelOperator",
    "SelectModelOperator",
]
