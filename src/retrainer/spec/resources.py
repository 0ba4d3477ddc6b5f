"""The section ``resources``: what training occupies, and which engine runs it where.

Not here: the sections of the engines (``kubernetes.py``, ``ray.py``).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retrainer.records import Record
from retrainer.spec.fields import Text
from retrainer.spec.kubernetes import Kubernetes
from retrainer.spec.problems import Problem
from retrainer.spec.ray import Ray


class Resources(Record):
    """What a training run occupies, and where."""

    engine: Literal["local", "kubernetes", "ray"] = Field(
        "local", description="Who runs the training: the worker itself, or an engine on other machines."
    )
    nodes: int = Field(
        1, ge=1, le=1024, description="Hosts that train one model together; GPUs and processes are shared out evenly."
    )
    gpus: int = Field(
        0, ge=0, le=1024, description="GPUs to lease; 0 trains on the CPU, and so does a host without any."
    )
    pool: Text = Field(
        "gpu_pool",
        description="Airflow pool in which training takes as many slots as GPUs, at least one. "
        "The default is used only with GPUs.",
    )
    processes: int = Field(
        1,
        ge=1,
        le=1024,
        description="Processes of the training, on all its hosts together; with GPUs, at most one for each.",
    )
    kubernetes: Kubernetes | None = Field(None, description="What the Job looks like, with engine: kubernetes.")
    ray: Ray | None = Field(None, description="With `engine: ray`: the cluster, and what is taken of it; {} will do.")

    @property
    def gpus_of_a_node(self) -> int:
        """GPUs that each host leases."""
        return self.gpus // self.nodes


# Engines with a section of their own.
_ENGINES = ("kubernetes", "ray")


def resource_problems(resources: Resources) -> list[Problem]:
    """What hosts, GPUs, processes and the engine must have in common. Places are relative to the pipeline."""
    problems = []
    if resources.gpus and resources.processes > resources.gpus:
        detail = f"{resources.processes} processes cannot train on {resources.gpus} GPU; each needs one"
        problems.append(Problem(("resources", "processes"), detail))
    for name, count in (("processes", resources.processes), ("gpus", resources.gpus)):
        if count % resources.nodes:
            detail = f"{count} {name} cannot be shared out evenly among {resources.nodes} nodes"
            problems.append(Problem(("resources", name), detail))
    problems += [
        Problem(("resources", name), f"says nothing with engine: {resources.engine}; write engine: {name}, or drop it")
        for name in _ENGINES
        if name != resources.engine and getattr(resources, name) is not None
    ]
    match resources.engine:
        case "kubernetes":
            problems += _of_kubernetes(resources)
        case "ray":
            problems += _of_ray(resources)
    return problems


def _of_kubernetes(resources: Resources) -> list[Problem]:
    if resources.kubernetes is None:
        detail = "engine: kubernetes needs a section kubernetes beside it, with the image that trains"
        return [Problem(("resources", "engine"), detail)]
    if resources.kubernetes.has_image is False:
        detail = "name the image that trains: image, or the image of a container in pod_template"
        return [Problem(("resources", "kubernetes"), detail)]
    return []


def _of_ray(resources: Resources) -> list[Problem]:
    problems = []
    if resources.nodes > 1:
        detail = "Ray itself chooses the nodes of its workers; give processes, and leave nodes out"
        problems.append(Problem(("resources", "nodes"), detail))
    if resources.processes > 1 and resources.gpus not in {0, resources.processes}:
        detail = (
            f"on Ray each of several processes has one GPU; {resources.gpus} are for {resources.processes} processes"
        )
        problems.append(Problem(("resources", "gpus"), detail))
    return problems
