"""Airflow's cluster policy in these images: what takes GPUs runs where GPUs are. Airflow finds it by its name.

A task takes GPUs when it is in a pool of them (``resources.pool`` of a pipeline). With CeleryExecutor it goes to the
queue ``RETRAINER_GPU_QUEUE``, with KubernetesExecutor into a pod of ``RETRAINER_GPU_POD_TEMPLATE``. Both are read by
the DAG processor; without them a task stays where Airflow put it. Not here: how many GPUs there are (the pool).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

POOLS = frozenset(os.environ.get("RETRAINER_GPU_POOLS", "gpu_pool").split(","))
QUEUE = os.environ.get("RETRAINER_GPU_QUEUE")
POD_TEMPLATE = os.environ.get("RETRAINER_GPU_POD_TEMPLATE")


def task_policy(task: BaseOperator) -> None:
    """Send a task of a GPU pool to the queue and the pod template of GPUs, unless its author chose others."""
    if task.pool not in POOLS:
        return
    if QUEUE and task.queue == "default":
        task.queue = QUEUE
    if POD_TEMPLATE and not task.executor_config:
        task.executor_config = {"pod_template_file": POD_TEMPLATE}
