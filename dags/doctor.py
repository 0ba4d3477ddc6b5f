"""The Airflow DAG ``doctor``: whether the workers of this deployment have what runs need."""

from pathlib import Path

from retrainer.airflow import doctor_dag
from retrainer.airflow.settings import pipelines_folder

dag = doctor_dag(pipelines_folder(Path(__file__).parent / "pipelines"))
