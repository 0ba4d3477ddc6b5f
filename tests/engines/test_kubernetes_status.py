"""What a status means, in words: a table of what clusters say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from retrainer.run.engines import JobState
from retrainer.run.engines import kubernetes_status as status


def pod(phase: str = "Failed", number: int = 0, *, of_pod: dict[str, Any] | None = None, **said: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": f"job-{number}", **(of_pod or {})},
        "spec": {"nodeName": f"node-{number}"},
        "status": {"phase": phase, **said},
    }


def over(**terminated: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "trainer", "state": {"terminated": terminated}}]}


def job(*conditions: dict[str, Any], nodes: int = 1, **said: Any) -> dict[str, Any]:
    true = [{"status": "True", **condition} for condition in conditions]
    return {"metadata": {}, "spec": {"completions": nodes}, "status": {"conditions": true, **said}}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (over(exitCode=1), "job-0 on node-0 ended with exit code 1"),
        (over(exitCode=137, reason="Error"), "exit code 137, SIGKILL"),
        (over(exitCode=137, reason="OOMKilled"), "took more memory than it may, and was killed (OOMKilled"),
        (over(exitCode=128, reason="StartError", message="no such file"), "exit code 128: no such file"),
        ({"reason": "Evicted", "message": "The node was low on memory."}, "Evicted: The node was low on memory."),
        (
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
            "preempted by a pod of higher priority",
        ),
        (
            {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "New", "message": "said so"}]},
            "New (said so)",
        ),
        ({"containerStatuses": None}, "job-0 on node-0 failed"),
    ],
)
def test_why_a_pod_has_failed(said: dict[str, Any], words: str) -> None:
    assert words in status.why_ended(pod(**said))


def test_what_failed_first_comes_first() -> None:
    finished = {1: "2026-01-01T00:00:09Z", 2: "2026-01-01T00:00:08Z"}
    pods = [pod(number=number, **over(exitCode=number, finishedAt=at)) for number, at in finished.items()]
    failed = JobState("failed", "it has failed")
    why = status.explained(failed, pods).why
    assert why.startswith("it has failed: pod job-2 on node-2 ended with exit code 2; pod job-1")
    many = [pod(number=number, **over(exitCode=1)) for number in range(10)]
    assert status.explained(failed, many).why.endswith("; and 7 more")
    assert status.explained(failed, [pod("Succeeded")]) == failed


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    state = {"waiting": {"reason": reason, "message": message}}
    return {"conditions": [scheduled], "containerStatuses": [{"name": "trainer", "state": state}]}


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes"}


@pytest.mark.parametrize(
    ("pods", "phase", "words"),
    [
        ([pod("Pending", conditions=[UNSCHEDULABLE])], "waiting", "Unschedulable: 0/4 nodes"),
        ([pod("Pending", **waiting("ImagePullBackOff", "not found"))], "waiting", "ImagePullBackOff: not found"),
        ([pod("Pending", **waiting("CreateContainerConfigError", 'secret "a" not found'))], "waiting", "secret"),
        ([pod("Pending", **waiting("ContainerCreating"))], "waiting", ""),
        ([pod("Running")], "running", ""),
        ([pod(reason="Evicted", message="low on disk")], "waiting", "for another pod: pod job-0 on node-0 Evicted"),
        ([], "waiting", "no pod yet"),
    ],
)
def test_what_a_job_waits_for(pods: list[dict[str, Any]], phase: str, words: str) -> None:
    state = status.active(job(), pods, [])
    assert (state.phase, words in state.why) == (phase, True)


def test_a_job_has_ended_when_all_its_pods_have() -> None:
    assert status.ended(job({"type": "FailureTarget", "reason": "PodFailurePolicy"})) is None
    assert status.active(job({"type": "FailureTarget", "reason": "PodFailurePolicy"}), [], []).phase == "running"
    assert status.ended(job({"type": "Failed", "message": "too often"})) == JobState("failed", "too often")
    assert status.ended(job({"type": "Complete", "status": "False"})) is None
    assert status.ended(job({"type": "Complete"})) == JobState("succeeded")


NOW = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
RUNS: dict[str, Any] = {"running": {}}
DISRUPTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}


def exited(code: int, at: str = "2026-01-01T00:09:00Z", **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "finishedAt": at, **more}}


def beside(trainer: dict[str, Any], proxy: dict[str, Any] = RUNS, number: int = 0, **said: Any) -> dict[str, Any]:
    """A pod with a proxy before the container that trains, under a name of its own."""
    states = [{"name": "proxy", "state": proxy}, {"name": "main", "state": trainer}]
    phase, of_pod = said.pop("phase", "Running"), said.pop("of_pod", {})
    noted = {"annotations": {"retrainer/container": "main"}, **of_pod}
    return pod(phase, number, of_pod=noted, containerStatuses=states, **said)


@pytest.mark.parametrize(
    ("said", "pods", "phase", "words"),
    [
        (job(), [beside(RUNS)], None, ""),
        (job(), [beside(RUNS, exited(1))], None, ""),
        (job(), [beside(exited(0))], "succeeded", ""),
        (job(), [beside(exited(1))], "failed", "job-0 on node-0 ended with exit code 1"),
        (job(), [beside(exited(137, reason="OOMKilled"))], "failed", "took more memory than it may"),
        (job(), [beside(exited(0), waiting("ImagePullBackOff")["containerStatuses"][0]["state"], phase="Pending")],
         "succeeded", ""),
        (job(), [beside(exited(1, "2026-01-01T00:10:01Z"))], None, ""),
        (job(), [beside({"terminated": {"exitCode": 1}})], "failed", ""),
        (job(), [beside(exited(143), conditions=[DISRUPTED])], None, ""),
        (job(), [beside(exited(143), of_pod={"deletionTimestamp": "2026-01-01T00:09:00Z"})], None, ""),
        (job({"type": "Suspended"}), [beside(exited(143))], None, ""),
        (job({"type": "FailureTarget"}), [beside(exited(1))], None, ""),
        (job(nodes=2), [beside(exited(0)), beside(RUNS, number=1)], None, ""),
        (job(nodes=2), [beside(exited(0)), beside(exited(0), number=1)], "succeeded", ""),
        (job(nodes=2, succeeded=1), [pod("Succeeded"), beside(exited(0), number=1)], "succeeded", ""),
        (job(nodes=2), [beside(RUNS), beside(exited(2), number=1)], "failed", "job-1 on node-1 ended with exit code 2"),
        (job(nodes=2), [beside(exited(1)), beside(RUNS, number=1, conditions=[DISRUPTED])], "failed", "evicted"),
    ],
)  # fmt: skip
def test_how_a_training_has_ended_whose_pod_has_not(
    said: dict[str, Any], pods: list[dict[str, Any]], phase: str | None, words: str
) -> None:
    state = status.trained(said, pods, NOW)
    assert (state and state.phase) == phase
    assert state is None or (state.lingers and words in state.why)


def test_the_container_that_trains_explains_a_failure() -> None:
    both = beside(exited(2), exited(1, "2026-01-01T00:08:00Z"), phase="Failed")
    assert status.why_ended(both) == "pod job-0 on node-0 ended with exit code 2"
    proxy = beside(exited(0), exited(1), phase="Failed")
    assert status.why_ended(proxy) == "pod job-0 on node-0, container proxy, ended with exit code 1"
    assert status.broken_for([beside(RUNS, waiting("ImagePullBackOff"))], NOW) == 0.0


def test_of_several_some_may_be_done() -> None:
    assert status.runs(job(nodes=2, ready=2))
    assert status.runs(job(nodes=2, ready=1, succeeded=1))
    assert not status.runs(job(nodes=2, ready=1))
    assert not status.runs(job(nodes=2, succeeded=2))
    assert not status.runs(job({"type": "Suspended"}, ready=1))


def test_for_how_long_a_pod_could_not_start() -> None:
    now = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    assert status.broken_for([pod("Pending", **waiting("ImagePullBackOff"))], now) == 600.0
    assert status.broken_for([pod("Pending", **waiting("ContainerCreating"))], now) == 0.0
    assert status.broken_for([pod("Pending", conditions=[UNSCHEDULABLE])], now) == 0.0, "it may wait for days"


def test_a_job_that_is_gone_with_pods_that_are_not() -> None:
    assert status.left_behind([pod("Succeeded"), pod("Failed")]).phase == "gone"
    assert status.left_behind([pod("Running")]).phase == "running"
    assert "job-0 on node-0" in status.left_behind([pod("Running")]).why
