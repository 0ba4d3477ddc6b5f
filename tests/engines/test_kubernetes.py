"""The engine against a cluster whose calls fail: one Job whatever happens, the right state, nothing left that runs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from retrainer.chain.jobs import Job, JobEnd
from retrainer.errors import EngineError, EngineUnavailable, StepKilled, StorageError
from retrainer.run import remote
from retrainer.run.engines import JobState, connect, kubernetes
from retrainer.run.engines.kubernetes import KubernetesEngine
from retrainer.run.engines.kubernetes_api import Cluster as Reached
from retrainer.run.engines.kubernetes_api import KubernetesApi
from retrainer.run.remote import Following, _has_ended, follow
from tests.conftest import REPOSITORY
from tests.engines.cluster import FAULTS, FakeCluster
from tests.engines.conftest import MakeJob

T = TypeVar("T")

RIGHT_SECONDS = 60.0
GONE_SECONDS = 30.0


def until(look: Callable[[], bool], seconds: float = RIGHT_SECONDS) -> None:
    ends = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < ends, "it took too long"
        time.sleep(0.05)


def patiently(call: Callable[[], T]) -> T:
    """The answer to a call; one that is refused is made again, as the next try of a task does."""
    refused = ""
    try:
        return call()
    except EngineError as error:
        refused = str(error)
    assert re.search("cannot .* in the namespace .*Role", refused), "it says what is not allowed"
    return call()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["POST jobs", "GET jobs", "POST services", "GET services", "GET pods"])
def test_a_call_that_fails_changes_nothing(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, tmp_path: Path, call: str, fault: str
) -> None:
    """Two hosts, so that all calls are made; asked for twice, so that what is there already is found."""
    job = make_job(f'while [ ! -e "{tmp_path}/go" ]; do sleep 0.05; done', nodes=2, gpus=2)
    started = time.monotonic()
    if call == "GET services":
        patiently(lambda: engine.submit(job))
    cluster.fail(call, fault)
    for _ in range(2):
        patiently(lambda: engine.submit(job))
    states: list[JobState] = []

    def look(phase: str) -> bool:
        states.append(patiently(lambda: engine.state(job)))
        return states[-1].phase == phase

    until(lambda: look("running"))
    (tmp_path / "go").touch()
    until(lambda: look("succeeded"))
    if call == "GET pods":
        cluster.delete(job.name)
        until(lambda: look("gone"))
    phases = [state.phase for state in states]
    assert phases == sorted(phases, key=["waiting", "running", "succeeded", "gone"].index), "it never goes back"
    refused = fault == "403" and call in {"POST jobs", "POST services"}
    assert cluster.made["jobs"] == (2 if fault == "403" and call == "POST services" else 1)
    assert cluster.made["services"] == 1
    assert cluster.made["pods"] <= (4 if refused else 2)
    assert time.monotonic() - started < RIGHT_SECONDS


def test_a_refusal_of_what_is_there_ends_nothing(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob
) -> None:
    """A quota of Jobs is full with the Job itself, and is asked before the name."""
    job = make_job("sleep 300", nodes=2, gpus=2)
    cluster.fail("POST jobs", "cut after", "403", "403")
    cluster.fail("POST services", "cut after", "403", "403")
    engine.submit(job)
    engine.submit(job)
    until(lambda: engine.state(job).phase == "running")
    assert (cluster.made["jobs"], cluster.made["services"], cluster.made["pods"]) == (1, 1, 2)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", ["DELETE jobs", "GET jobs", "GET pods"])
def test_a_stop_that_fails_stops_all_the_same(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, call: str, fault: str
) -> None:
    job = make_job("sleep 300 & sleep 300")
    engine.submit(job)
    until(lambda: len(cluster.processes(job.name)) >= 3)
    cluster.fail(call, fault)
    started = time.monotonic()
    patiently(lambda: engine.stop(job))
    assert cluster.objects("jobs") == []
    assert cluster.objects("pods") == []
    assert cluster.processes(job.name) == []
    assert time.monotonic() - started < GONE_SECONDS
    assert engine.state(job).phase == "gone"


@pytest.mark.parametrize("call", ["POST jobs", "GET jobs", "GET pods", "DELETE jobs"])
def test_a_server_that_is_away_is_not_waited_for_long(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(kubernetes, "CALL_SECONDS", 1.0)
    job = make_job("sleep 300")
    cluster.gpus = -1  # nothing runs, so that pods are asked for
    ask = {"POST": engine.submit, "GET": engine.state, "DELETE": engine.stop}[call.split(maxsplit=1)[0]]
    if call != "POST jobs":
        engine.submit(job)
    cluster.fail(call, *["500"] * 1000)
    started = time.monotonic()
    with pytest.raises(EngineUnavailable, match="injected"):
        ask(job)
    assert time.monotonic() - started < 3.0
    assert 3 < cluster.calls[call] < 50, "each pause is longer than the one before"


def test_a_stop_needs_no_answer_about_what_it_stopped(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it does not know; the Job is deleted, and whoever looks later finds it gone."""
    monkeypatch.setattr(kubernetes, "STOP_SECONDS", 1.0)
    job = make_job(
        "trap '' TERM; while true; do sleep 0.1; done",
        kubernetes={"pod_template": {"spec": {"terminationGracePeriodSeconds": 2}}},
    )
    engine.submit(job)
    until(lambda: engine.state(job).phase == "running")
    time.sleep(0.2)  # the shell has to read its first line
    with pytest.raises(EngineUnavailable, match=f"pod {job.name}-0-00001 on node-1 has not ended"):
        engine.stop(job)
    assert engine.state(job) == JobState(
        "running", f"it is being deleted, and pod {job.name}-0-00001 on node-1 has not ended"
    )
    engine.submit(job)
    until(lambda: engine.state(job).phase == "gone", GONE_SECONDS)
    assert cluster.made["jobs"] == 1, "no second one beside the one that ends"


@pytest.mark.parametrize("propagation", ["Background", "Foreground", "Orphan"])
def test_a_job_that_somebody_deletes_is_gone_when_its_pods_are(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, propagation: str
) -> None:
    job = make_job("trap 'sleep 0.5; exit 1' TERM; sleep 1 & wait; sleep 0.2")
    engine.submit(job)
    until(lambda: engine.state(job).phase == "running")
    cluster.delete(job.name, propagation)
    until(lambda: engine.state(job).phase == "gone", GONE_SECONDS)
    assert cluster.processes(job.name) == []
    engine.submit(job)
    assert cluster.made["jobs"] == 2


def test_a_stop_ends_pods_whose_job_is_gone(cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob) -> None:
    job = make_job("sleep 300")
    engine.submit(job)
    until(lambda: engine.state(job).phase == "running")
    cluster.delete(job.name, "Orphan")
    assert engine.state(job).phase == "running"
    engine.stop(job)
    assert cluster.processes(job.name) == []


def test_a_pod_that_is_evicted_is_replaced(cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob) -> None:
    job = make_job("sleep 1")
    engine.submit(job)
    until(lambda: engine.state(job).phase == "running")
    cluster.disrupt(job.name)
    until(lambda: engine.state(job).phase == "succeeded")
    assert cluster.made == {"jobs": 1, "pods": 2}
    nodes = [pod["spec"]["nodeName"] for pod in cluster.pods(job.name)]
    assert nodes[-1:] == ["node-2"], "elsewhere"


def test_one_of_several_that_is_evicted_ends_all(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob
) -> None:
    """The others would wait for it in a collective operation until that times out."""
    job = make_job("sleep 300", nodes=2)
    engine.submit(job)
    until(lambda: engine.state(job).phase == "running")
    cluster.disrupt(job.name, index=1)
    until(lambda: engine.state(job).phase == "failed", GONE_SECONDS)
    state = engine.state(job)
    assert "evicted, as when a node is drained" in state.why
    assert f"pod {job.name}-1" in state.why
    assert cluster.processes(job.name) == []
    assert cluster.made["pods"] == 2


@pytest.mark.parametrize(
    ("how", "why"), [("Error", "exit code 137, SIGKILL"), ("OOMKilled", "took more memory than it may")]
)
def test_a_pod_that_is_killed_fails_the_job(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, how: str, why: str
) -> None:
    job = make_job("sleep 300")
    engine.submit(job)
    until(lambda: engine.state(job).phase == "running")
    cluster.kill(job.name, reason=how)
    until(lambda: engine.state(job).phase == "failed")
    assert why in engine.state(job).why
    assert cluster.made["pods"] == 1, "it is for the next try to start another, and to say so"


# A proxy of a mesh, which stands before the container that trains and never ends by itself.
PROXY = {"name": "proxy", "image": "proxy:1", "command": ["sleep", "300"]}
BESIDE_A_PROXY = {"pod_template": {"spec": {"containers": [PROXY, {"name": "trainer"}]}}}


@pytest.mark.parametrize(
    ("how", "phase", "why"),
    [
        ("OOMKilled", "failed", "pod {0}-0-00001 on node-1 took more memory than it may"),
        ("exit 3", "failed", "pod {0}-0-00001 on node-1 ended with exit code 3"),
        ("exit 0", "succeeded", ""),
    ],
)
def test_a_training_has_ended_although_a_proxy_beside_it_has_not(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, tmp_path: Path, how: str, phase: str, why: str
) -> None:
    job = make_job(f'while [ ! -e "{tmp_path}/go" ]; do sleep 0.05; done; {how}', kubernetes=BESIDE_A_PROXY)
    engine.submit(job)
    until(lambda: engine.state(job) == JobState("running"))
    if how == "OOMKilled":
        cluster.kill(job.name, reason=how)
    (tmp_path / "go").touch()
    until(lambda: not engine.state(job).is_active)
    for _ in range(3):
        state = engine.state(job)
        assert (state.phase, state.lingers) == (phase, True), "also for whoever could not note it at once"
        assert why.format(job.name) in state.why
    engine.submit(job)
    assert cluster.made == {"jobs": 1, "pods": 1}
    engine.stop(job)
    assert cluster.processes(job.name) == []
    assert engine.state(job).phase == "gone"


def test_a_proxy_that_ends_too_is_not_ended(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the Job stays, with the logs of its pod."""
    monkeypatch.setattr(kubernetes, "BESIDE_SECONDS", 20.0)
    proxy = {**PROXY, "command": ["sleep", "2"]}
    job = make_job("exit 3", kubernetes={"pod_template": {"spec": {"containers": [{"name": "trainer"}, proxy]}}})
    engine.submit(job)
    until(lambda: not engine.state(job).is_active)
    state = engine.state(job)
    assert (state.phase, state.lingers) == ("failed", False)
    assert "ended with exit code 3" in state.why


def test_a_training_beside_a_proxy_is_evicted_and_replaced(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob
) -> None:
    """Its exit by SIGTERM, while the proxy still ends, is no failure."""
    slow = {**PROXY, "command": ["sh", "-c", "trap 'sleep 1; exit 0' TERM; sleep 300 & wait"]}
    template = {"spec": {"containers": [{"name": "trainer"}, slow]}}
    job = make_job("sleep 1", kubernetes={"pod_template": template})
    engine.submit(job)
    until(lambda: engine.state(job) == JobState("running"))
    time.sleep(0.2)  # the shell has to read its first line
    cluster.disrupt(job.name)
    until(lambda: engine.state(job).phase not in {"running", "waiting"})
    assert engine.state(job) == JobState("succeeded", lingers=True)
    assert cluster.made == {"jobs": 1, "pods": 2}
    engine.stop(job)


def test_whoever_follows_ends_what_is_left_beside_a_training(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("exit 3", kubernetes=BESIDE_A_PROXY, nodes=2)
    engine.submit(job)
    until(lambda: engine.state(job).lingers)
    noted, slow = Job.note_end, [StorageError("slow", where="store")]

    def notes(self: Job, end: JobEnd) -> JobEnd:
        if slow:
            raise slow.pop()
        return noted(self, end)

    monkeypatch.setattr(Job, "note_end", notes)
    following = Following(engine, job, lambda message: None)
    assert not following.look()
    assert cluster.objects("jobs") == [job.name], "what it failed of would be lost with it"
    with pytest.raises(StepKilled, match="ended with exit code 3"):
        following.look()
    assert slow == []
    assert cluster.objects("jobs") == []
    assert cluster.processes(job.name) == []


def test_what_is_left_beside_a_training_that_succeeded_is_ended(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("exit 0", kubernetes=BESIDE_A_PROXY)
    engine.submit(job)
    until(lambda: engine.state(job).lingers)
    following = Following(engine, job, lambda message: None)
    monkeypatch.setattr(following, "_read", lambda: True)  # the artifact is there
    assert not following.look(), "the proxy may end by itself"
    monkeypatch.setattr(remote, "FAREWELL_SECONDS", 0.0)
    assert following.look()
    assert cluster.objects("jobs") == []
    assert cluster.processes(job.name) == []


@pytest.mark.parametrize("noted", [False, True], ids=["nobody-followed-it", "who-noted-it-could-not-end-it"])
def test_what_is_left_beside_a_training_ends_before_another_begins(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, noted: bool
) -> None:
    job = make_job("exit 3", kubernetes=BESIDE_A_PROXY)
    engine.submit(job)
    until(lambda: engine.state(job).lingers)
    if noted:
        job.note_end(JobEnd(phase="failed"))
    assert _has_ended(engine, job)
    assert cluster.processes(job.name) == []
    end = job.end()
    assert end is not None
    assert end.phase == "failed"


def test_what_it_waits_for_is_said(cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob) -> None:
    job = make_job("sleep 300", gpus=9)
    engine.submit(job)
    until(lambda: "Insufficient GPUs" in engine.state(job).why)
    assert engine.state(job).phase == "waiting"


def test_a_queue_holds_it_back(cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob) -> None:
    cluster.suspends = True
    job = make_job(kubernetes={"queue": "gpus"})
    engine.submit(job)
    until(lambda: engine.state(job) == JobState("waiting", "suspended, as by a queue until there is room"))
    cluster.job(job.name)["spec"]["suspend"] = False
    until(lambda: engine.state(job).phase == "succeeded")


@pytest.mark.parametrize("allowed", [True, False])
def test_a_quota_is_named_where_events_may_be_read(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, allowed: bool
) -> None:
    cluster.quota = True
    job = make_job()
    engine.submit(job)
    if not allowed:
        cluster.fail("GET events", *["403"] * 10)
    said = "no pod yet: exceeded quota: team, requested: pods=1" if allowed else "no pod yet"
    assert engine.state(job) == JobState("waiting", said)


def test_an_image_that_is_not_there_ends_the_job_in_the_end(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.missing_images.add("trainer:1")
    job = make_job()
    engine.submit(job)
    until(lambda: "ImagePullBackOff: no image trainer:1" in engine.state(job).why)
    assert engine.state(job).phase == "waiting", "a registry may come back"
    monkeypatch.setattr(kubernetes, "BROKEN_SECONDS", 0.5)
    time.sleep(1.0)
    for _ in range(2):  # until whoever follows it has noted that
        state = engine.state(job)
        assert state.phase == "failed"
        assert "ImagePullBackOff" in state.why
    with pytest.raises(StepKilled, match="ImagePullBackOff"):
        follow(engine, job, lambda message: None)
    assert cluster.objects("jobs") == [], "it cannot start later beside the next one"


def test_what_the_cluster_refuses_is_not_asked_again(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob
) -> None:
    job = make_job(kubernetes={"image": None})
    with pytest.raises(EngineError, match="image: Required value") as raised:
        engine.submit(job)
    assert not isinstance(raised.value, EngineUnavailable)
    assert cluster.calls["POST jobs"] == 1
    with pytest.raises(EngineError, match="is there a namespace 'elsewhere'"):
        KubernetesEngine(KubernetesApi(cluster.reached, "elsewhere")).submit(make_job())


def test_credentials_that_were_renewed_are_read_again(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob
) -> None:
    cluster.token = "new"
    engine.submit(make_job())
    assert cluster.calls["POST jobs"] == 2
    renewing = KubernetesApi(cluster.reached)
    reached = cluster.reached()
    cluster.token = "newer"
    with pytest.raises(EngineError, match="renew the credentials"):
        KubernetesEngine(KubernetesApi(lambda: reached)).submit(make_job())
    assert KubernetesEngine(renewing).state(make_job()).phase != "gone"


def test_without_a_connection_the_kubeconfig_says_where(
    cluster: FakeCluster, brisk: None, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(EngineError, match=r"no cluster of Kubernetes .*Invalid kube-config file"):
        connect(job.resources)
    (tmp_path / "kubeconfig").write_text(json.dumps(cluster.kubeconfig()))
    engine = connect(job.resources)
    assert engine is not None
    engine.submit(job)
    until(lambda: engine.state(job).phase == "succeeded")
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(EngineError, match="no cluster of Kubernetes"):
        connect(job.resources)  # no token lies where pods have one


def test_a_proxy_that_finds_nothing_is_not_believed(
    cluster: FakeCluster, make_job: MakeJob, brisk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 404 would make a job gone that runs, and start another beside it."""
    monkeypatch.setattr(kubernetes, "CALL_SECONDS", 0.5)

    def behind_proxy() -> Reached:
        reached = cluster.reached()
        reached.configuration.host += "/nowhere"
        return reached

    answered = KubernetesEngine(KubernetesApi(behind_proxy))
    with pytest.raises(EngineUnavailable, match="404"):
        answered.state(make_job())


def test_the_role_that_we_ship_is_enough(cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob) -> None:
    role, binding = yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes" / "role.yaml").read_text())
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    cluster.role = {f"{verb} {kind}" for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}
    cluster.quota = True
    job = make_job("sleep 300", nodes=2)
    for _ in range(2):
        engine.submit(job)
    assert "exceeded quota" in engine.state(job).why
    cluster.quota = False
    until(lambda: engine.state(job).phase == "running")
    cluster.delete(job.name, "Orphan")
    engine.stop(job)
    assert engine.state(job).phase == "gone"
    asked = {f"{verb} {kind}" for verb, kind in (call.split() for call in cluster.calls)}
    assert len(asked) == len(cluster.role), f"it allows what is never asked: {asked}, {cluster.role}"


def test_pods_are_told_who_they_are(
    cluster: FakeCluster, engine: KubernetesEngine, make_job: MakeJob, tmp_path: Path
) -> None:
    cluster.secrets["bucket"] = {"KEY": "secret"}
    job = make_job(
        f'env > "{tmp_path}/said-$PET_NODE_RANK"',
        nodes=2,
        environment={"REGION": "here"},
        kubernetes={"env_from": {"secrets": ["bucket"]}},
    )
    engine.submit(job)
    until(lambda: engine.state(job).phase == "succeeded")
    for rank in range(2):
        said = dict(line.split("=", 1) for line in (tmp_path / f"said-{rank}").read_text().splitlines() if "=" in line)
        assert said["JOB_COMPLETION_INDEX"] == str(rank)
        assert said["PET_NNODES"] == "2"
        assert said["PET_MASTER_ADDR"] == f"{job.name}-0.{job.name}"
        assert said["PET_MASTER_PORT"].isdecimal()
        assert said["REGION"] == "here"
        assert said["KEY"] == "secret"
    assert "secret" not in str(cluster.job(job.name)["spec"]["template"]["spec"]["containers"][0]["env"])
    assert cluster.objects("services") == [job.name]
    engine.stop(job)
    assert cluster.objects("services") == []
