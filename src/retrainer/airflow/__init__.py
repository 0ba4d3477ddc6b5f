"""Airflow: operators for the steps, the DAG that chains them, the plugin, the provider's description.

Light: the operators plan a step and start its process. Nothing here trains, and nothing that does is imported.
Names are loaded when they are first used, because Airflow reads ``provider_info`` long before it can import
operators.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrainer.airflow.assets import data_assets, decay_asset, decisions_asset, model_asset
    from retrainer.airflow.dag_builder import retrain_dag
    from retrainer.airflow.dag_folder import build_dags
    from retrainer.airflow.decay_builder import decay_dag
    from retrainer.airflow.doctor import doctor_dag
    from retrainer.airflow.form import run_params
    from retrainer.airflow.operate import operate_dag
    from retrainer.airflow.operators import (
        ApproveModelOperator,
        CheckDecayOperator,
        EvaluateModelOperator,
        EvaluationGateOperator,
        ExportOnnxOperator,
        FineTuneOperator,
        IngestDatasetOperator,
        PublishModelOperator,
        SelectModelOperator,
    )
    from retrainer.airflow.settings import Settings

# Where a name is from, unless it is an operator.
_MODULES = {
    "Settings": "settings",
    "build_dags": "dag_folder",
    "data_assets": "assets",
    "decay_asset": "assets",
    "decay_dag": "decay_builder",
    "decisions_asset": "assets",
    "doctor_dag": "doctor",
    "model_asset": "assets",
    "operate_dag": "operate",
    "retrain_dag": "dag_builder",
    "run_params": "form",
}

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
    "Settings",
    "build_dags",
    "data_assets",
    "decay_asset",
    "decay_dag",
    "decisions_asset",
    "doctor_dag",
    "model_asset",
    "operate_dag",
    "retrain_dag",
    "run_params",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'operators')}"), name)
    globals()[name] = value
    return value
