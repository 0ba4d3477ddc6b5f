"""``deploy/``: the manifests go together, and say what ``retrainer serve`` and the images really do.

Kubernetes' own schemas are asked where they are installed (PyPI: ``kubernetes-validate``). Airflow's chart is not here.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrainer.cli.serve_command import serve
from retrainer.server.server import CLOSE_SECONDS, LAST_SECONDS
from retrainer.spec import load_pipeline
from tests.conftest import REPOSITORY
from tests.docker.replay import instructions

DEPLOY = REPOSITORY / "deploy"
SERVE = DEPLOY / "serve"
AIRFLOW = DEPLOY / "airflow"
NAME = {"app.kubernetes.io/name": "retrainer-serve"}


def rendered(folder: Path) -> list[dict[str, Any]]:
    """What kustomize makes of a base that only lists resources, generates maps and sets tags."""
    said = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(said) <= {"apiVersion", "kind", "resources", "configMapGenerator", "generatorOptions", "images"}
    made = [yaml.safe_load((folder / name).read_text()) for name in said["resources"]]
    for generator in said["configMapGenerator"]:
        data = dict(pair.split("=", 1) for pair in generator.get("literals", []))
        for file in generator.get("files", []):
            key, _, path = file.rpartition("=")
            data[key or Path(path).name] = (folder / path).read_text()
        made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data})
    return made


MANIFESTS = {one["kind"]: one for one in rendered(SERVE)}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
COMMAND = CONTAINER["args"][0]
GPU_POD = yaml.safe_load((AIRFLOW / "pod-template-gpu.yaml").read_text())
VALUES = yaml.safe_load((AIRFLOW / "values.yaml").read_text())
ROLES = yaml.safe_load_all((DEPLOY / "kubernetes" / "role.yaml").read_text())
ALL = [*rendered(SERVE), *rendered(AIRFLOW), GPU_POD, *ROLES]


def test_each_part_that_was_promised_is_there() -> None:
    promised = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}
    assert set(MANIFESTS) == {*promised, "ServiceMonitor", "ServiceAccount", "ConfigMap"}


@pytest.mark.parametrize("manifest", ALL, ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_kubernetes_takes_it(manifest: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="PyPI: kubernetes-validate")
    if manifest["kind"] == "ServiceMonitor":
        pytest.skip("is not Kubernetes' own")
    validate.validate(manifest, "1.35", strict=True)


def test_everything_speaks_of_the_same_pods() -> None:
    spec = {kind: manifest.get("spec", {}) for kind, manifest in MANIFESTS.items()}
    assert spec["Deployment"]["template"]["metadata"]["labels"] == NAME
    assert spec["Service"]["selector"] == NAME
    for kind in ("Deployment", "PodDisruptionBudget", "ServiceMonitor"):
        assert spec[kind]["selector"] == {"matchLabels": NAME}, kind
    assert spec["NetworkPolicy"]["podSelector"] == {"matchLabels": NAME}
    assert MANIFESTS["Service"]["metadata"]["labels"] == NAME  # by which the monitor finds it
    target = spec["HorizontalPodAutoscaler"]["scaleTargetRef"]
    assert target["name"] == MANIFESTS["Deployment"]["metadata"]["name"]
    assert "replicas" not in spec["Deployment"]  # or each apply would undo what the autoscaler chose


def test_ports_are_called_alike() -> None:
    (port,) = CONTAINER["ports"]
    assert f"--port {port['containerPort']}" in COMMAND
    assert MANIFESTS["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    assert (
        MANIFESTS["ServiceMonitor"]["spec"]["endpoints"][0]["port"] == MANIFESTS["Service"]["spec"]["ports"][0]["name"]
    )
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] == port["name"]
    assert MANIFESTS["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == port["name"]


def test_probes_ask_what_the_server_has() -> None:
    documented = (REPOSITORY / "docs" / "serving.md").read_text()
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == CONTAINER["startupProbe"]["httpGet"]["path"] == "/healthz"
    for path in ("/readyz", "/healthz", MANIFESTS["ServiceMonitor"]["spec"]["endpoints"][0]["path"]):
        assert f"`GET {path}` |" in documented


def test_balancers_notice_the_drain_and_the_end_is_waited_for() -> None:
    found = re.search(r"--drain-seconds (\d+)", COMMAND)
    assert found is not None
    drain, probe = int(found[1]), CONTAINER["readinessProbe"]
    noticed = (probe["periodSeconds"] + probe["timeoutSeconds"]) * probe["failureThreshold"]
    assert drain >= noticed + 5  # and endpoints take a few seconds to go around
    assert POD["terminationGracePeriodSeconds"] >= drain + LAST_SECONDS + CLOSE_SECONDS


def test_the_command_is_one_that_there_is() -> None:
    options = {f"--{name.replace('_', '-')}" for name in inspect.signature(serve).parameters}
    assert set(re.findall(r"--[a-z-]+", COMMAND)) <= options
    assert COMMAND.startswith('exec retrainer serve "$STORE" $MODELS ')
    assert set(MANIFESTS["ConfigMap"]["data"]) >= {"STORE", "MODELS"}


def test_what_is_written_to_is_a_volume() -> None:
    image = {said.word: said.rest for said in instructions(REPOSITORY / "docker" / "Dockerfile.serve")}
    mounted = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert image["VOLUME"] in mounted
    token_file = re.search(r"--token-file (\S+)", COMMAND)
    assert token_file is not None
    assert mounted[str(Path(token_file[1]).parent)]["readOnly"]


def pods() -> dict[str, dict[str, Any]]:
    jobs = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in ALL if one["kind"] == "Job"}
    return {"serve": POD, "gpu": GPU_POD["spec"], **jobs}


@pytest.mark.parametrize("pod", pods().values(), ids=pods())
def test_pods_have_no_rights_and_say_what_they_take(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


def test_the_server_cannot_write_its_root() -> None:
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    users = [said.rest for said in instructions(REPOSITORY / "docker" / "Dockerfile.serve") if said.word == "ARG"]
    assert f"UID={POD['securityContext']['runAsUser']}" in users


def test_values_mount_what_is_generated() -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in rendered(AIRFLOW) if one["kind"] == "ConfigMap"}
    mounted = {volume["name"]: volume["configMap"]["name"] for volume in VALUES["volumes"]}
    assert set(mounted.values()) == set(maps)
    places = {mount["name"]: mount["mountPath"] for mount in VALUES["volumeMounts"]}
    settings = {one["name"]: one["value"] for one in VALUES["env"]}
    template = Path(settings["RETRAINER_GPU_POD_TEMPLATE"])
    assert str(template.parent) == places["pod-templates"]
    assert yaml.safe_load(maps["retrainer-pod-templates"][template.name]) == GPU_POD
    assert VALUES["config"]["retrainer"]["pipelines"] == places["pipelines"]


def test_values_hold_no_secret() -> None:
    assert VALUES["createUserJob"]["defaultUser"]["enabled"] is False
    named = {"fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"}
    assert named <= set(VALUES)
    assert not {"fernetKey", "apiSecretKey", "jwtSecret"} & set(VALUES)


@pytest.mark.parametrize(
    "file", [*(AIRFLOW / "pipelines").glob("*.yaml"), *(REPOSITORY / "docker" / "pipelines").glob("*.yaml")], ids=str
)
def test_pipelines_of_the_examples_are_right(file: Path) -> None:
    assert load_pipeline(file).name == file.stem
