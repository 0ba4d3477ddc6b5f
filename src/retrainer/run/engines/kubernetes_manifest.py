"""What Kubernetes is asked for: an Indexed Job whose pods run a job's command, and for several hosts a headless Service
by which they find each other.

Pure functions of a job and its section. What the pod template says is kept; the section and what the job needs are
added to it. Not here: asking (``kubernetes.py``).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from retrainer.chain.jobs import Job
from retrainer.errors import PipelineError
from retrainer.spec.kubernetes import CONTAINER, Kubernetes, container_of, not_a_pod, shown_secrets, without_nulls
from retrainer.spec.problems import key_path
from retrainer.storage.errors import filesystem_errors

MASTER_PORT = 29500
# For so long pods of a job that run wait for those that have no room yet.
RENDEZVOUS_SECONDS = 86_400
# A step's processes end within a second of SIGTERM; what they had not saved is trained again.
GRACE_SECONDS = 10
# A Job that has ended is kept for so long, for people who look why.
KEPT_SECONDS = 86_400
OF_JOB = "batch.kubernetes.io/job-name"
# The annotation of pods that names their container that trains: others may be added on the way, before it, too.
TRAINS = "retrainer/container"
_INDEX = "batch.kubernetes.io/job-completion-index"
_SHARED_MEMORY = "shared-memory"
_ESCALATING = frozenset({"SYS_ADMIN", "CAP_SYS_ADMIN"})

Manifest = dict[str, Any]


def template_of(section: Kubernetes) -> Manifest:
    """The pod template, which whoever gets it may change.

    :raises PipelineError: it is not one, or names no image where the section names none.
    :raises ResourceError: its file cannot be read on this host.
    """
    if not isinstance(section.pod_template, str):
        return copy.deepcopy(section.pod_template or {})
    where = section.pod_template
    with filesystem_errors(where):
        text = Path(where).read_text(encoding="utf-8")
    try:
        template = without_nulls(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise PipelineError(f"is not YAML: {error}", where=where) from None
    if complaint := not_a_pod(template):
        raise PipelineError(complaint, where=where)
    if problems := shown_secrets(template):
        raise PipelineError("; ".join(f"{key_path(place)}: {said}" for place, said in problems), where=where)
    if section.image is None and "image" not in container_of(template):
        raise PipelineError("names no image", where=where, hint="name one there, or resources.kubernetes.image")
    return dict(template)


def job_manifest(job: Job, section: Kubernetes) -> Manifest:
    """The Job.

    A pod that is evicted, preempted or drained away is not the training's failure: alone it is replaced, on another
    node if need be, and goes on from the last checkpoint. Several pods depend on each other, so there the Job fails at
    once, rather than when its processes have waited long enough for the one that is gone; then another Job starts.

    :raises UserError: the pod template cannot be used.
    """
    nodes = job.resources.nodes
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore" if nodes == 1 else "FailJob",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                }
            ]
        },
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "template": _pod(job, section),
    }
    if section.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = section.active_deadline_seconds
    of_job = {"kueue.x-k8s.io/queue-name": section.queue} if section.queue is not None else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job.name,
            "labels": {**_usual_labels(job), **section.labels, **of_job, **_labels(job)},
            "annotations": {**section.annotations, **_annotations(job)},
        },
        "spec": spec,
    }


def service_manifest(job: Job, owner: Mapping[str, Any]) -> Manifest:
    """The Service by which the pods of a job find the first of them.

    :param owner: the Job as Kubernetes has it, with which the Service goes.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": job.name,
            "labels": {**_usual_labels(job), **_labels(job)},
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": job.name, "uid": owner["metadata"]["uid"]}
            ],
        },
        "spec": {
            "clusterIP": "None",
            # They look for each other before any of them is ready.
            "publishNotReadyAddresses": True,
            "selector": {OF_JOB: job.name},
            "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        },
    }


def _pod(job: Job, section: Kubernetes) -> Manifest:
    template = template_of(section)
    metadata, spec = template.get("metadata") or {}, dict(template.get("spec") or {})
    containers = spec.setdefault("containers", [])
    if not containers:
        containers.append({"name": CONTAINER})
    container = container_of({"spec": spec})
    name = container.setdefault("name", CONTAINER)
    _fill(container, job, section)
    container["securityContext"] = _confined(container.get("securityContext", {}), spec.get("securityContext", {}))
    spec["restartPolicy"] = "Never"
    spec.setdefault("terminationGracePeriodSeconds", GRACE_SECONDS)
    # It has nothing to ask Kubernetes for. Roles in a cloud have tokens of their own.
    spec.setdefault("automountServiceAccountToken", False)
    if section.service_account is not None:
        spec["serviceAccountName"] = section.service_account
    if section.node_selector:
        spec["nodeSelector"] = {**spec.get("nodeSelector", {}), **section.node_selector}
    if section.tolerations:
        own = [toleration.model_dump(exclude_none=True) for toleration in section.tolerations]
        spec["tolerations"] = [*spec.get("tolerations", []), *own]
    if job.resources.nodes > 1:
        spec["subdomain"] = job.name
    mounts = [mount for one in containers for mount in one.get("volumeMounts", [])]
    if any(mount.get("name") == _SHARED_MEMORY for mount in mounts):
        volumes = spec.setdefault("volumes", [])
        if not any(volume.get("name") == _SHARED_MEMORY for volume in volumes):
            volumes.append({"name": _SHARED_MEMORY, "emptyDir": {"medium": "Memory"}})
    labels = {**_usual_labels(job), **metadata.get("labels", {}), **section.labels, **_labels(job)}
    annotations = {**metadata.get("annotations", {}), **section.annotations, **_annotations(job), TRAINS: name}
    return {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}


def _fill(container: Manifest, job: Job, section: Kubernetes) -> None:
    """Add to the container of a template what the job needs."""
    if section.image is not None:
        container["image"] = section.image
    container["command"] = job.command(section.python)
    container.pop("args", None)
    given = container.get("env", [])
    named = {one.get("name") for one in given}
    variables = dict(job.environment)
    if job.resources.nodes > 1:
        variables["PET_RDZV_CONF"] = f"timeout={RENDEZVOUS_SECONDS}"
    # The template knows better how buckets are reached from inside the cluster.
    ours = [{"name": name, "value": value} for name, value in variables.items() if name not in named]
    container["env"] = [*given, *ours, *_rendezvous(job)]
    sources = [{"secretRef": {"name": name}} for name in section.env_from.secrets]
    sources += [{"configMapRef": {"name": name}} for name in section.env_from.config_maps]
    if sources:
        container["envFrom"] = [*container.get("envFrom", []), *sources]
    container["resources"] = _resources(container.get("resources", {}), job, section)
    mounts = container.setdefault("volumeMounts", [])
    if not any(mount.get("mountPath") == "/dev/shm" for mount in mounts):
        # Of processes that load data, and of NCCL. What containers have by default is 64 MB.
        mounts.append({"name": _SHARED_MEMORY, "mountPath": "/dev/shm"})


def _confined(given: Manifest, pod: Mapping[str, Any]) -> Manifest:
    """The security context of the container that trains: without rights, but for those that the template gives.

    Not of the pod, where it would bind the template's other containers, too.

    :param given: the container's own in the template.
    :param pod: that of the template's pod.
    """
    safe: Manifest = {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    if given.get("runAsUser", pod.get("runAsUser")) == 0:
        del safe["runAsNonRoot"]
    added = given.get("capabilities", {}).get("add", [])
    if given.get("privileged") or not _ESCALATING.isdisjoint(added):
        del safe["allowPrivilegeEscalation"]  # Kubernetes refuses both together
    return {**{key: value for key, value in safe.items() if key not in pod}, **given}


def _rendezvous(job: Job) -> list[Manifest]:
    """Variables by which torchrun's processes on several hosts find each other, as ``torchrun`` itself reads them."""
    if job.resources.nodes == 1:
        return []
    return [
        {"name": "PET_NNODES", "value": str(job.resources.nodes)},
        {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{_INDEX}']"}}},
        # Relative to the namespace, which the pod's resolver adds.
        {"name": "PET_MASTER_ADDR", "value": f"{job.name}-0.{job.name}"},
        {"name": "PET_MASTER_PORT", "value": str(MASTER_PORT)},
    ]


def _resources(given: Mapping[str, Any], job: Job, section: Kubernetes) -> Manifest:
    requests, limits = dict(given.get("requests", {})), dict(given.get("limits", {}))
    if section.cpu is not None:
        requests["cpu"] = section.cpu
    if section.memory is not None:
        requests["memory"] = limits["memory"] = section.memory
    # As many as are leased in the pod, and none where none are.
    for amounts in (requests, limits):
        amounts.pop(section.gpu_resource, None)
    if gpus := job.resources.gpus_of_a_node:
        limits[section.gpu_resource] = str(gpus)
    return {**given, **({"requests": requests} if requests else {}), **({"limits": limits} if limits else {})}


def _usual_labels(job: Job) -> dict[str, str]:
    """Labels that nobody looks for, so those of a template or the section go before them."""
    return {
        "app.kubernetes.io/name": "retrainer",
        "app.kubernetes.io/component": job.step,
        "app.kubernetes.io/managed-by": "retrainer",
    }


def _labels(job: Job) -> dict[str, str]:
    of_pipeline = {"retrainer/pipeline": job.pipeline[:63].rstrip("._-")} if job.pipeline else {}
    return {"retrainer/step": job.step, **of_pipeline}


def _annotations(job: Job) -> dict[str, str]:
    return {"retrainer/digest": job.digest, "retrainer/folder": job.folder}
