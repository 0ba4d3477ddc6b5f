"""The section ``resources.kubernetes`` as records.

Not here: what Kubernetes is asked for (``run/engines/kubernetes_manifest.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from retrainer.records import Record
from retrainer.spec.fields import Text, shown
from retrainer.spec.paths import FilePath
from retrainer.spec.problems import Problem, found, listed, refuse, refuse_one

CONTAINER = "trainer"
"""The container that trains, by its name in a template; where none has it, the first is that."""

_OF_A_POD = frozenset({"apiVersion", "kind", "metadata", "spec"})
_CONTAINERS = ("initContainers", "containers")


def _as_text(value: Any) -> Any:
    """``4`` for ``"4"``, as Kubernetes' own files allow."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _quantity(value: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?", value):
        refuse_one(f"expected a number with or without a unit of Kubernetes, as 4, 500m or 16Gi, found {found(value)}")
    return value


def _dns_label(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", value):
        refuse_one(f"expected lower case letters, digits and '-', at most 63, found {found(value)}")
    return value


def _pod(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    template = without_nulls(value)
    if complaint := not_a_pod(template):
        refuse_one(f"{complaint}; or write the path of a file")
    if problems := shown_secrets(template):
        refuse(problems)
    return template


DnsLabel = Annotated[str, AfterValidator(_dns_label)]
Quantity = Annotated[
    str, BeforeValidator(_as_text, json_schema_input_type=str | int | float), AfterValidator(_quantity)
]


class Toleration(Record):
    """A taint of nodes that the pods may run on all the same."""

    key: Text | None = Field(None, description="Of the taint; without one, all.")
    operator: Literal["Equal", "Exists"] = Field("Exists", description="Exists looks at no value.")
    value: str | None = Field(None, description="Of the taint, with Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Of the taint; without one, all."
    )

    @model_validator(mode="after")
    def _a_value_is_for_equal(self) -> Self:
        if self.value is not None and self.operator == "Exists":
            refuse_one("a value is compared only with operator: Equal", "value")
        return self


class EnvFrom(Record):
    """Where variables of the pods come from that no manifest may show, such as the keys of a bucket."""

    secrets: tuple[Text, ...] = Field((), description="Names of Secrets, of which each key is a variable.")
    config_maps: tuple[Text, ...] = Field((), description="Names of ConfigMaps, likewise.")


class Kubernetes(Record):
    """How training runs as a Job of Kubernetes ([engines](engines.md#kubernetes))."""

    namespace: DnsLabel | None = Field(
        None, description="Where the Job is made; by default that of the connection, or of the pod that asks."
    )
    image: Text | None = Field(
        None, description="Image with airflow-retrainer[train]; required unless pod_template names one."
    )
    python: Text = Field("python", description="Interpreter in the image that has the training libraries.")
    service_account: Text | None = Field(None, description="Whose rights the pods have, such as a role in the cloud.")
    node_selector: dict[str, str] = Field({}, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints that do not keep the pods away.")
    env_from: EnvFrom = Field(EnvFrom(), description="Secrets and ConfigMaps whose keys are variables of the pods.")
    labels: dict[str, str] = Field({}, description="Labels of the Job and its pods, beside ours.")
    annotations: dict[str, str] = Field({}, description="Annotations of the Job and its pods, beside ours.")
    cpu: Quantity | None = Field(None, description="Processors that each pod asks for, such as 4 or 500m.")
    memory: Quantity | None = Field(
        None, description="Memory that each pod asks for and may take, such as 16Gi; /dev/shm is part of it."
    )
    gpu_resource: Text = Field("nvidia.com/gpu", description="What the cluster calls its GPUs.")
    queue: Text | None = Field(None, description="Queue of Kueue in the namespace, which says when the Job starts.")
    active_deadline_seconds: int | None = Field(
        None, ge=1, description="Kubernetes ends the Job after so long, even if nobody follows it any more."
    )
    pod_template: Annotated[FilePath | dict[str, Any] | None, BeforeValidator(_pod)] = Field(
        None,
        description="A Pod, or a file of one: what it says is kept, and ours is added to its container "
        f"'{CONTAINER}', or to its first.",
    )

    @property
    def has_image(self) -> bool | None:
        """Whether an image is named; ``None`` where only the template's file can tell."""
        if self.image is not None:
            return True
        if isinstance(self.pod_template, str):
            return None
        return "image" in container_of(self.pod_template or {})


def not_a_pod(template: Any) -> str | None:
    """Why that cannot be the template of pods, or ``None``. The rest is for Kubernetes to say."""
    if not isinstance(template, Mapping):
        return f"expected a Pod (metadata, spec), found {found(template)}"
    if unknown := sorted(str(key) for key in set(template) - _OF_A_POD):
        return f"expected a Pod (metadata, spec), found {listed(unknown)}"
    for key in ("metadata", "spec"):
        if not isinstance(template.get(key, {}), Mapping):
            return f"{key} of a Pod is a mapping, found {found(template[key])}"
    for kind in _CONTAINERS:
        containers = template.get("spec", {}).get(kind, [])
        if not _are_mappings(containers):
            return f"spec.{kind} of a Pod is a list of mappings, found {found(containers)}"
        for number, container in enumerate(containers):
            if not _are_mappings(variables := container.get("env", [])):
                return f"spec.{kind}[{number}].env of a Pod is a list of mappings, found {found(variables)}"
    return None


def _are_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in value)


def without_nulls(value: Any) -> Any:
    """The same without what is null, at any depth: Kubernetes reads that as if it were not there."""
    if isinstance(value, Mapping):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value if one is not None]
    return value


def shown_secrets(template: Mapping[str, Any]) -> list[Problem]:
    """Where a template has a secret in plain sight, by places in it."""
    problems = []
    for kind in _CONTAINERS:
        for number, container in enumerate(template.get("spec", {}).get(kind, [])):
            literal = [one["name"] for one in container.get("env", []) if "name" in one and one.get("value")]
            if complaint := shown(literal, "take it from a Secret, by valueFrom or env_from"):
                problems.append(Problem(("spec", kind, number, "env"), complaint))
    return problems


def container_of(template: Mapping[str, Any]) -> dict[str, Any]:
    """The container of a template that trains; empty where it has none. A part of the template, not a copy."""
    containers: list[dict[str, Any]] = template.get("spec", {}).get("containers", [])
    return next((one for one in containers if one.get("name") == CONTAINER), containers[0] if containers else {})
