"""``resources.ray`` of a pipeline file: the Ray cluster that trains.

Not here: how a cluster is asked (``run/engines/ray.py``), what runs there (``run/engines/ray_driver.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from retrainer.records import Record
from retrainer.spec.fields import Positive, Text, shown
from retrainer.spec.problems import Problem, found, refuse, refuse_one

# What Ray packs and uploads itself only from its own client, which the Jobs API is not.
_UPLOADED = ("working_dir", "py_modules")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")


class Ray(Record):
    """The Ray cluster that trains, and what a training takes of it."""

    address: Text | None = Field(
        None,
        description="Where its dashboard answers, such as `http://ray-head:8265`. By default that of the connection "
        "`ray_conn_id`, or $RAY_API_SERVER_ADDRESS.",
    )
    python: Text | None = Field(
        None,
        description="Interpreter on the cluster that has airflow-retrainer[train]; by default the one that Ray runs "
        "with, which needs airflow-retrainer[ray] in any case.",
    )
    cpus_per_worker: Positive = Field(
        1.0, description="CPUs for each of `processes`, by which Ray also sets how many threads compute."
    )
    resources_per_worker: dict[str, Positive] = Field(
        {},
        description="What else Ray sets aside for each of `processes`: `memory` in bytes, and resources of the "
        "cluster's own such as `accelerator_type:H100`. GPUs are in `resources.gpus`.",
    )
    entrypoint_resources: dict[str, Positive] = Field(
        {},
        description="What Ray sets aside for the process that watches over the workers: `CPU`, `GPU`, `memory` and the "
        "cluster's own. By default nothing, and it runs on the head node.",
    )
    max_failures: int = Field(
        3,
        ge=0,
        le=1000,
        description="How often workers that died, or whose node did, are started again, from the newest checkpoint, "
        "before the task fails and Airflow's retries begin.",
    )
    runtime_env: dict[str, Any] = Field(
        {},
        description="Ray's [runtime environment](https://docs.ray.io/en/latest/ray-core/handling-dependencies.html) of "
        "the job. Anybody who may look at the cluster can read it: no secrets. Processes there find their own "
        "credentials, those of the cluster's machines or pods.",
    )

    @field_validator("address")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if complaint := complaint_about(value):
            refuse_one(complaint)
        return value.rstrip("/")

    @model_validator(mode="after")
    def _counted_once(self) -> Self:
        twice = {"CPU": "cpus_per_worker", "GPU": "resources.gpus"}
        problems = [
            Problem(("resources_per_worker", name), f"say it as {twice[name]}")
            for name in self.resources_per_worker
            if name in twice
        ]
        problems += _of_environment(self.runtime_env)
        if problems:
            refuse(problems)
        return self


def complaint_about(address: str) -> str | None:
    """What is wrong with the address of a dashboard, for people; ``None`` if nothing is."""
    try:
        parts = urlsplit(address)
        right = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        return f"expected the address of Ray's dashboard, such as http://ray-head:8265, found {found(address)}"
    if parts.username or parts.password:
        return "leave user and password out; a connection of Airflow holds them"
    if parts.query or parts.fragment:
        return f"expected an address without ? and #, found {found(address)}"
    return None


def _of_environment(environment: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name in _UPLOADED:
        value = environment.get(name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and not _SCHEME.match(item):
                detail = (
                    f"'{item}' is a path of this machine, which nobody uploads; give a URI such as s3://, or https://"
                )
                problems.append(Problem(("runtime_env", name), detail))
    variables = environment.get("env_vars", {})
    if not isinstance(variables, Mapping) or not all(isinstance(value, str) for value in variables.values()):
        problems.append(Problem(("runtime_env", "env_vars"), "expected a mapping of names to texts; quote numbers"))
    elif complaint := shown(variables, "give it to its machines or pods"):
        problems.append(Problem(("runtime_env", "env_vars"), complaint))
    return problems
