"""The Airflow DAG ``operate_models``: roll back or promote a published model by hand."""

from pathlib import Path

from retrainer.airflow import operate_dag
from retrainer.airflow.settings import pipelines_folder

dag = operate_dag(pipelines_folder(Path(__file__).parent / "pipelines"))
