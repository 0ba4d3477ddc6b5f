"""One Airflow DAG for each pipeline file: of ``$RETRAINER_PIPELINES``, of ``[retrainer] pipelines`` in
``airflow.cfg``, or of the folder ``pipelines`` beside this file.

A wrong pipeline file becomes a DAG tagged ``broken`` that says what is wrong; the others are not affected.
"""

from pathlib import Path

from retrainer.airflow import build_dags
from retrainer.airflow.settings import pipelines_folder

globals().update(build_dags(pipelines_folder(Path(__file__).parent / "pipelines")))
