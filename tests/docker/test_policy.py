"""The images' cluster policy: what takes GPUs goes where GPUs are."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import REPOSITORY

Policy = Callable[[Any], None]


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> Policy:
    monkeypatch.setenv("RETRAINER_GPU_QUEUE", "gpu")
    monkeypatch.setenv("RETRAINER_GPU_POD_TEMPLATE", "/gpu.yaml")
    found: Policy = runpy.run_path(str(REPOSITORY / "docker" / "airflow_local_settings.py"))["task_policy"]
    return found


def task(pool: str = "default_pool", queue: str = "default", **executor_config: object) -> SimpleNamespace:
    return SimpleNamespace(pool=pool, queue=queue, executor_config=executor_config)


def test_training_goes_to_the_queue_and_the_pod_of_gpus(policy: Policy) -> None:
    training = task(pool="gpu_pool")
    policy(training)
    assert (training.queue, training.executor_config) == ("gpu", {"pod_template_file": "/gpu.yaml"})


def test_other_tasks_stay_where_they_are(policy: Policy) -> None:
    other = task()
    policy(other)
    assert (other.queue, other.executor_config) == ("default", {})


def test_what_an_author_chose_goes_first(policy: Policy) -> None:
    chosen = task(pool="gpu_pool", queue="large", pod_template_file="/own.yaml")
    policy(chosen)
    assert (chosen.queue, chosen.executor_config) == ("large", {"pod_template_file": "/own.yaml"})
