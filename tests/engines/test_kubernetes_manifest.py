"""What Kubernetes is asked for: as its schemas want it, what a template says kept, and nothing secret in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from retrainer.chain.jobs import Job
from retrainer.errors import NotFoundError, PipelineError
from retrainer.run.engines.kubernetes_manifest import GRACE_SECONDS, OF_JOB, job_manifest, service_manifest, template_of
from retrainer.spec import parse_pipeline
from retrainer.spec.kubernetes import Kubernetes
from tests.conftest import REPOSITORY
from tests.docker.replay import instructions
from tests.engines.conftest import MakeJob

TEMPLATE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "dropped", "labels": {"team": "nlp"}, "annotations": {"sidecar.istio.io/inject": "false"}},
    "spec": {
        "priorityClassName": "batch",
        "terminationGracePeriodSeconds": 20,
        "nodeSelector": {"zone": "a"},
        "securityContext": {"runAsUser": 1000},
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "containers": [
            {"name": "proxy", "image": "proxy:1"},
            {
                "name": "trainer",
                "image": "from-template:1",
                "args": ["nothing"],
                "env": [{"name": "REGION", "value": "inside"}],
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                "resources": {"limits": {"nvidia.com/gpu": 8, "ephemeral-storage": "50Gi"}},
            },
        ],
        "volumes": [{"name": "cache", "emptyDir": {}}],
    },
}
# What a chart leaves of values that nobody has set.
RENDERED: dict[str, Any] = {
    "metadata": {"labels": None, "annotations": {"kept": "yes", "unset": None}},
    "spec": {
        "nodeSelector": None,
        "tolerations": None,
        "securityContext": None,
        "initContainers": None,
        "volumes": None,
        "containers": [
            {
                "name": "trainer",
                "args": None,
                "env": None,
                "envFrom": None,
                "volumeMounts": None,
                "securityContext": {"capabilities": None},
                "resources": {"requests": None, "limits": {"ephemeral-storage": "50Gi", "memory": None}},
            },
            None,
        ],
    },
}
OURS = {
    "service_account": "trainer",
    "node_selector": {"gpu": "h200"},
    "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
    "env_from": {"secrets": ["bucket"], "config_maps": ["settings"]},
    "labels": {"cost-centre": "7"},
    "annotations": {"owner": "nlp"},
    "cpu": 4,
    "memory": "16Gi",
    "queue": "gpus",
    "active_deadline_seconds": 3600,
}


def manifest_of(job: Job) -> dict[str, Any]:
    assert job.resources.kubernetes is not None
    return job_manifest(job, job.resources.kubernetes)


def named(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in items}


@pytest.mark.parametrize(
    "resources",
    [
        {},
        {"gpus": 1},
        {"nodes": 2, "gpus": 16, "processes": 16},
        {"kubernetes": OURS},
        {"kubernetes": {"pod_template": TEMPLATE}},
        {"kubernetes": {**OURS, "pod_template": TEMPLATE}, "nodes": 4, "gpus": 4},
        {"kubernetes": {**OURS, "pod_template": RENDERED}, "nodes": 4, "gpus": 4},
    ],
    ids=["processor", "one-gpu", "two-nodes", "all-keys", "template", "all-together", "nulls"],
)
def test_kubernetes_takes_it(make_job: MakeJob, resources: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="PyPI: kubernetes-validate")
    job = make_job(environment={"REGION": "here"}, **resources)
    manifest = manifest_of(job)
    validate.validate(manifest, "1.35", strict=True)
    service = service_manifest(job, {"metadata": {"uid": "1"}})
    validate.validate(service, "1.35", strict=True)
    assert service["spec"]["selector"] == {OF_JOB: manifest["metadata"]["name"]}


def test_a_job_on_one_node(make_job: MakeJob) -> None:
    job = make_job(gpus=2, kubernetes=OURS, environment={"REGION": "here"})
    manifest = manifest_of(job)
    spec, pod = manifest["spec"], manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert manifest["metadata"]["name"] == job.name
    assert container["command"] == job.command(job.resources.kubernetes.python)  # type: ignore[union-attr]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 0)
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    assert spec["activeDeadlineSeconds"] == 3600
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] == GRACE_SECONDS
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "2"},
    }
    assert container["env"] == [{"name": "REGION", "value": "here"}]
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}, {"configMapRef": {"name": "settings"}}]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["automountServiceAccountToken"] is False
    labels = manifest["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert labels["retrainer/pipeline"] == "trail-status"
    assert labels["retrainer/step"] == "train"
    assert manifest["metadata"]["annotations"]["retrainer/digest"] == job.digest
    assert "subdomain" not in pod


CONFINED = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


def confinement(
    make_job: MakeJob, container: dict[str, Any] | None = None, pod: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The security context of the container that trains, of a template with these."""
    template = {"spec": {"securityContext": pod, "containers": [{"name": "trainer", "securityContext": container}]}}
    spec = manifest_of(make_job(kubernetes={"pod_template": template}))["spec"]["template"]["spec"]
    assert spec.get("securityContext") == pod, "that binds other containers, too"
    return dict(spec["containers"][0]["securityContext"])


def test_pods_have_no_rights(make_job: MakeJob) -> None:
    assert confinement(make_job) == CONFINED
    # Kubernetes can tell that a user is not root only where it is a number.
    users = [said.rest for said in instructions(REPOSITORY / "docker" / "Dockerfile.trainer") if said.word == "USER"]
    assert users[-1].partition(":")[0].isdecimal()


@pytest.mark.parametrize(
    ("container", "pod", "left_out"),
    [
        ({"runAsUser": 0}, None, {"runAsNonRoot"}),
        (None, {"runAsUser": 0}, {"runAsNonRoot"}),
        ({"runAsUser": 1000}, {"runAsUser": 0}, set()),
        (None, {"runAsNonRoot": False}, {"runAsNonRoot"}),
        (None, {"seccompProfile": {"type": "Unconfined"}}, {"seccompProfile"}),
        ({"privileged": True}, None, {"allowPrivilegeEscalation"}),
        ({"privileged": False}, None, set()),
        ({"capabilities": {"add": ["CAP_SYS_ADMIN"]}}, None, {"allowPrivilegeEscalation"}),
        ({"capabilities": {"add": ["IPC_LOCK"]}}, None, set()),
    ],
)
def test_a_template_may_ask_for_rights(
    make_job: MakeJob, container: dict[str, Any] | None, pod: dict[str, Any] | None, left_out: set[str]
) -> None:
    """Ours beside it would be refused by Kubernetes, or would take it away."""
    ours = {key: value for key, value in CONFINED.items() if key not in left_out}
    assert confinement(make_job, container, pod) == {**ours, **(container or {})}


def test_other_containers_of_a_template_stay_as_they_are(make_job: MakeJob) -> None:
    others = {"initContainers": [{"name": "owner", "image": "busybox:1", "securityContext": {"runAsUser": 0}}]}
    template = {"spec": {**others, "containers": [{"name": "trainer"}, {"name": "proxy", "image": "proxy:1"}]}}
    pod = manifest_of(make_job(kubernetes={"pod_template": template}))["spec"]["template"]["spec"]
    assert pod["initContainers"] == others["initContainers"]
    assert named(pod["containers"])["proxy"] == {"name": "proxy", "image": "proxy:1"}
    assert "securityContext" not in pod


def test_nulls_of_a_template_say_nothing(make_job: MakeJob, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(RENDERED))
    inline = manifest_of(make_job(kubernetes={**OURS, "pod_template": RENDERED}))
    template = inline["spec"]["template"]
    assert template["metadata"]["annotations"]["kept"] == "yes"
    assert "unset" not in template["metadata"]["annotations"]
    (trainer,) = template["spec"]["containers"]
    assert trainer["resources"]["limits"] == {"ephemeral-storage": "50Gi", "memory": "16Gi"}
    assert trainer["securityContext"] == CONFINED
    assert ": null" not in yaml.safe_dump(inline)
    read = manifest_of(make_job(kubernetes={**OURS, "pod_template": str(file)}))["spec"]["template"]
    trainer["command"] = read["spec"]["containers"][0]["command"]
    assert read == template, "in a file as in the pipeline"


def test_labels_of_a_template_go_before_those_that_nobody_looks_for(make_job: MakeJob) -> None:
    theirs = {"app.kubernetes.io/name": "mine", "app.kubernetes.io/component": "nlp"}
    template = {"metadata": {"labels": {**theirs, "retrainer/step": "theirs"}}}
    spec = manifest_of(make_job(kubernetes={"pod_template": template}))["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert {key: labels[key] for key in theirs} == theirs
    assert labels["app.kubernetes.io/managed-by"] == "retrainer"
    assert labels["retrainer/step"] == "train"
    manifest = manifest_of(make_job(kubernetes={"labels": theirs}))
    assert {key: manifest["metadata"]["labels"][key] for key in theirs} == theirs


def test_several_nodes_find_each_other(make_job: MakeJob) -> None:
    job = make_job(nodes=2, gpus=16)
    spec = manifest_of(job)["spec"]
    pod = spec["template"]["spec"]
    env = named(pod["containers"][0]["env"])
    service = service_manifest(job, {"metadata": {"uid": "1"}})
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (2, 2, "Indexed")
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "FailJob"
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert pod["subdomain"] == service["metadata"]["name"]
    # A pod of an Indexed Job is called after its Job and its index.
    assert env["PET_MASTER_ADDR"]["value"] == f"{job.name}-0.{pod['subdomain']}"
    assert env["PET_MASTER_PORT"]["value"] == str(service["spec"]["ports"][0]["port"])
    assert env["PET_NODE_RANK"]["valueFrom"]["fieldRef"]["fieldPath"].startswith("metadata.annotations['batch.kuber")
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]


def test_several_nodes_wait_for_each_other(make_job: MakeJob) -> None:
    """As long as one has no room, a day; torchrun alone would give up after a quarter of an hour."""
    env = named(manifest_of(make_job(nodes=2))["spec"]["template"]["spec"]["containers"][0]["env"])
    assert env["PET_RDZV_CONF"]["value"] == "timeout=86400"
    own = {"name": "PET_RDZV_CONF", "value": "timeout=60"}
    template = {"spec": {"containers": [{"name": "trainer", "env": [own]}]}}
    job = make_job(nodes=2, kubernetes={"pod_template": template})
    given = manifest_of(job)["spec"]["template"]["spec"]["containers"][0]["env"]
    assert [one for one in given if one["name"] == "PET_RDZV_CONF"] == [own]


def test_what_a_template_says_is_kept(make_job: MakeJob) -> None:
    before = yaml.safe_dump(TEMPLATE)
    section = {**OURS, "image": None, "pod_template": TEMPLATE}
    manifest = manifest_of(make_job(gpus=1, kubernetes=section, environment={"REGION": "outside", "MORE": "1"}))
    metadata, pod = manifest["spec"]["template"]["metadata"], manifest["spec"]["template"]["spec"]
    containers = named(pod["containers"])
    trainer = containers["trainer"]
    assert containers["proxy"] == {"name": "proxy", "image": "proxy:1"}
    assert trainer["image"] == "from-template:1"
    assert "args" not in trainer
    assert named(trainer["env"]) == {
        "REGION": {"name": "REGION", "value": "inside"},
        "MORE": {"name": "MORE", "value": "1"},
    }
    assert trainer["resources"]["limits"] == {"ephemeral-storage": "50Gi", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert pod["priorityClassName"] == "batch"
    assert pod["terminationGracePeriodSeconds"] == 20
    assert pod["nodeSelector"] == {"zone": "a", "gpu": "h200"}
    assert [one["key"] for one in pod["tolerations"]] == ["spot", "nvidia.com/gpu"]
    assert pod["securityContext"] == {"runAsUser": 1000}
    assert trainer["securityContext"]["runAsNonRoot"]
    assert {volume["name"] for volume in pod["volumes"]} == {"cache", "shared-memory"}
    assert set(metadata) == {"labels", "annotations"}
    assert metadata["labels"]["team"] == "nlp"
    assert metadata["annotations"]["sidecar.istio.io/inject"] == "false"
    assert yaml.safe_dump(TEMPLATE) == before, "the pipeline's own mapping stays as it is"


def test_the_image_of_the_section_goes_first(make_job: MakeJob) -> None:
    job = make_job(kubernetes={"pod_template": TEMPLATE})
    assert named(manifest_of(job)["spec"]["template"]["spec"]["containers"])["trainer"]["image"] == "trainer:1"


def test_shared_memory_of_the_template_stays(make_job: MakeJob) -> None:
    container = {"name": "trainer", "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}]}
    volumes = [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}]
    template = {"spec": {"containers": [container], "volumes": volumes}}
    pod = manifest_of(make_job(kubernetes={"pod_template": template}))["spec"]["template"]["spec"]
    assert pod["volumes"] == volumes
    assert len(pod["containers"][0]["volumeMounts"]) == 1


def test_a_template_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    section = Kubernetes(pod_template=str(file))
    with pytest.raises(NotFoundError):
        template_of(section)
    file.write_text(yaml.safe_dump(TEMPLATE))
    assert template_of(section) == TEMPLATE
    for wrong, said in {
        "spec: {containers: [{name: trainer}]}": "names no image",
        "containers: []": r"expected a Pod \(metadata, spec\), found containers",
        "- 1": "found a list",
        "a: [": "is not YAML",
        SECRET_TEMPLATE: r"spec.containers\[0\].env: HF_TOKEN would be shown to anybody",
    }.items():
        file.write_text(wrong)
        with pytest.raises(PipelineError, match=said):
            template_of(section)


SECRET_TEMPLATE = "spec: {containers: [{name: trainer, image: a, env: [{name: HF_TOKEN, value: hf_1}]}]}"
PIPELINE = """\
name: trails
dataset: {train: rows.csv}
model: {base: somewhere/else}
publish: {store: store}
resources:
"""


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ("engine: kubernetes", ":6: resources.engine: engine: kubernetes needs a section kubernetes"),
        ("engine: kubernetes\n  kubernetes:\n    cpu: 4", ":7: resources.kubernetes: name the image"),
        ("kubernetes:\n    image: a", ":6: resources.kubernetes: says nothing with engine: local"),
        (
            "engine: kubernetes\n  kubernetes:\n    image: a\n    memory: 16GB",
            ":9: resources.kubernetes.memory: expected a number with or without a unit of Kubernetes",
        ),
        (
            "engine: kubernetes\n  kubernetes:\n    image: a\n    namespace: My_Team",
            ":9: resources.kubernetes.namespace: expected lower case letters",
        ),
        (
            "engine: kubernetes\n  kubernetes:\n    image: a\n    tolerations:\n      - value: spot",
            ":10: resources.kubernetes.tolerations[0].value: a value is compared only with operator: Equal",
        ),
        (
            "engine: kubernetes\n  kubernetes:\n    pod_template:\n      containers: []",
            ":8: resources.kubernetes.pod_template: expected a Pod (metadata, spec), found containers",
        ),
        (
            "engine: kubernetes\n  kubernetes:\n    pod_template:\n      spec: {containers: [{name: trainer}]}",
            ":7: resources.kubernetes: name the image",
        ),
        (
            f"engine: kubernetes\n  kubernetes:\n    pod_template:\n      {SECRET_TEMPLATE}",
            ":9: resources.kubernetes.pod_template.spec.containers[0].env: HF_TOKEN would be shown to anybody who may "
            "look at the cluster; take it from a Secret, by valueFrom or env_from",
        ),
        (
            "engine: kubernetes\n  kubernetes:\n    pod_template:\n      spec: {containers: [{name: a, env: {A: b}}]}",
            ":8: resources.kubernetes.pod_template: spec.containers[0].env of a Pod is a list of mappings, found a map",
        ),
    ],
)
def test_mistakes_are_found_where_the_file_is_read(tmp_path: Path, resources: str, said: str) -> None:
    from retrainer.spec import load_pipeline

    file = tmp_path / "trails.yaml"
    file.write_text(f"{PIPELINE}  {resources}\n")
    with pytest.raises(PipelineError) as raised:
        load_pipeline(file)
    assert said in str(raised.value)


def test_secrets_of_a_template_come_from_a_secret(make_job: MakeJob) -> None:
    sources = [
        {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        {"name": "HF_TOKEN_PATH", "value": "/run/secrets/hub/token"},
        {"name": "TOKENIZERS_PARALLELISM", "value": "false"},
    ]
    template = {"spec": {"containers": [{"name": "trainer", "env": sources}]}}
    container = manifest_of(make_job(kubernetes={"pod_template": template}))["spec"]["template"]["spec"]["containers"][
        0
    ]
    assert container["env"] == sources
    for kind, name in (("initContainers", "AWS_SECRET_ACCESS_KEY"), ("containers", "DB_PASSWORD")):
        other = {"name": "other", "image": "a", "env": [{"name": name, "value": "x"}]}
        with pytest.raises(ValidationError, match=f"{name} would be shown"):
            Kubernetes(image="a", pod_template={"spec": {kind: [other]}})


def test_a_template_s_path_is_that_of_the_pipeline_file(tmp_path: Path) -> None:
    content = {
        **yaml.safe_load(PIPELINE),
        "resources": {"engine": "kubernetes", "kubernetes": {"pod_template": "a.yaml"}},
    }
    section = parse_pipeline(content, where="test", base_folder=tmp_path).resources.kubernetes
    assert section is not None
    assert section.pod_template == str(tmp_path / "a.yaml")
