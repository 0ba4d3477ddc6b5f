"""What the status of a Job, its pods and its events says, as a state and in words for people.

Pure functions of Kubernetes' JSON. Not here: asking for it (``kubernetes_api.py``).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from retrainer.run.engines import JobState
from retrainer.run.engines.kubernetes_manifest import TRAINS
from retrainer.spec.kubernetes import CONTAINER

Object = Mapping[str, Any]

MOST_PODS = 3
# A container that waits for one of these starts only after somebody has mended something.
_BROKEN = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
# Of a Job that Kubernetes ends, or holds back, by itself.
_ENDS = frozenset({"FailureTarget", "SuccessCriteriaMet", "Suspended"})
_USUAL = frozenset({"ContainerCreating", "PodInitializing"})
_DISRUPTIONS = {
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "its node was tainted",
    "EvictionByEvictionAPI": "evicted, as when a node is drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "ended by its node, for want of memory or disk, or for a shutdown",
}


def ended(job: Object) -> JobState | None:
    """How a Job has ended; ``None`` while it, or a pod of it, may still run."""
    conditions = _conditions(job)
    if "Complete" in conditions:
        return JobState("succeeded")
    if "Failed" in conditions:
        return JobState("failed", _said_by(conditions["Failed"]))
    return None


def runs(job: Object) -> bool:
    """Whether all its pods run, by what it says itself."""
    ready = job["status"].get("ready", 0)
    return not _leaves(job) and "Suspended" not in _conditions(job) and ready >= _wanted(job) > 0


def trained(job: Object, pods: Sequence[Object], before: datetime) -> JobState | None:
    """How a training has ended in pods that go on, because something beside it in them does.

    ``None`` where it has not, or where Kubernetes ends the pods by itself: what it evicts, suspends or deletes has not
    failed.

    :param before: by then it has to have ended.
    """
    if _leaves(job) or not _ENDS.isdisjoint(_conditions(job)):
        return None
    over = [pod for pod in living(pods) if not _is_disturbed(pod) and _has_trained(pod, before)]
    if any(_trainer(pod)["terminated"]["exitCode"] for pod in over):
        return replace(explained(JobState("failed"), pods), lingers=True)
    return JobState("succeeded", lingers=True) if over and len(over) >= _wanted(job) else None


def active(job: Object, pods: Sequence[Object], events: Sequence[Object]) -> JobState:
    """The state of a Job that has not ended, some of whose pods do not run."""
    conditions = _conditions(job)
    if _leaves(job):
        return JobState("running", f"it is being deleted{_of_pods(living(pods))}")
    for name in ("FailureTarget", "SuccessCriteriaMet"):
        if name in conditions:
            return JobState("running", f"its last pods end: {_said_by(conditions[name])}")
    if "Suspended" in conditions:
        return JobState("waiting", "suspended, as by a queue until there is room")
    of_job = [pod for pod in pods if pod["metadata"].get("deletionTimestamp") is None]
    waiting = [why for pod in of_job if pod["status"].get("phase") == "Pending" and (why := _waits_for(pod))]
    if waiting:
        return JobState("waiting", _listed(waiting))
    if len(living(of_job)) >= _wanted(job):
        all_run = all(pod["status"].get("phase") == "Running" for pod in living(of_job))
        return JobState("running" if all_run else "waiting")
    lost = [why for pod in pods if (why := why_ended(pod))]
    if lost:
        return JobState("waiting", f"for another pod: {_listed(lost)}")
    warnings = [event for event in events if event.get("type") == "Warning"]
    warnings.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return JobState("waiting", f"no pod yet: {warnings[-1].get('message')}" if warnings else "no pod yet")


def living(pods: Sequence[Object]) -> list[Object]:
    """The pods whose processes may run, now or later."""
    return [pod for pod in pods if pod["status"].get("phase") not in {"Succeeded", "Failed"}]


def explained(state: JobState, pods: Sequence[Object]) -> JobState:
    """The same with what its pods say, what ended first before the rest."""
    failed = sorted((pod for pod in pods if why_ended(pod)), key=_ended_at)
    causes = _listed([why for pod in failed if (why := why_ended(pod))])
    return JobState(state.phase, ": ".join(part for part in (state.why, causes) if part))


def left_behind(pods: Sequence[Object]) -> JobState:
    """The state of a job whose Job is gone: as long as a pod of it may run, it is not."""
    still = living(pods)
    return JobState("running", f"its Job is gone{_of_pods(still)}") if still else JobState("gone", "its Job is gone")


def broken_for(pods: Sequence[Object], now: datetime) -> float:
    """For how many seconds a pod has had a node and could not train, for what nobody but a person can mend."""
    longest = 0.0
    for pod in pods:
        waiting = {state.get("reason") for state in _waiting(pod)}
        scheduled = _conditions(pod).get("PodScheduled", {}).get("lastTransitionTime")
        trains = _trainer(pod).keys() & {"running", "terminated"}
        if waiting & _BROKEN and scheduled and not trains:
            longest = max(longest, (now - datetime.fromisoformat(scheduled)).total_seconds())
    return longest


def why_ended(pod: Object) -> str:
    """Why a pod has failed, or its training, or why it is made to end; empty where nothing of that is so."""
    status, place = pod["status"], _place(pod)
    disrupted = _conditions(pod).get("DisruptionTarget")
    if disrupted is not None:
        reason = str(disrupted.get("reason"))
        return f"{place} {_DISRUPTIONS.get(reason, reason)} ({disrupted.get('message') or reason})"
    if status.get("phase") == "Failed" and status.get("reason"):  # Evicted, UnexpectedAdmissionError, NodeLost
        return f"{place} {status['reason']}: {status.get('message') or 'without a word'}"
    over = _trainer(pod).get("terminated") or {}
    if over.get("exitCode"):
        return f"{place} {_exit(over)}"
    if status.get("phase") != "Failed":
        return ""
    for name, state in _states(pod):
        over = state.get("terminated") or {}
        if over.get("exitCode"):
            return f"{place}, container {name}, {_exit(over)}"
    return f"{place} failed{': ' + status['message'] if status.get('message') else ''}"


def _exit(over: Object) -> str:
    code, reason = over["exitCode"], over.get("reason")
    if reason == "OOMKilled":
        return f"took more memory than it may, and was killed (OOMKilled, exit code {code}); raise memory"
    name = ""
    if code > 128 and code - 128 in set(signal.Signals):
        name = f", {signal.Signals(code - 128).name}"
    message = f": {over['message']}" if over.get("message") else ""
    return f"ended with exit code {code}{name}{message}"


def _waits_for(pod: Object) -> str:
    """What a pending pod waits for; empty where that is nothing to speak of."""
    scheduled = _conditions(pod, status=None).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{_place(pod)} {scheduled.get('reason')}: {scheduled.get('message')}"
    for state in _waiting(pod):
        if state.get("reason") not in _USUAL:
            return f"{_place(pod)} {state.get('reason')}: {state.get('message') or 'without a word'}"
    return ""


def _waiting(pod: Object) -> Iterator[Object]:
    return (state["waiting"] for _, state in _states(pod) if state.get("waiting"))


def _states(pod: Object) -> Iterator[tuple[str, Object]]:
    """The containers of a pod by name, each with its state."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in pod["status"].get(kind) or []:
            yield str(container.get("name")), container.get("state") or {}


def _trainer(pod: Object) -> Object:
    """The state of the container that trains; empty where it has none yet."""
    name = (pod["metadata"].get("annotations") or {}).get(TRAINS, CONTAINER)
    return next((state for other, state in _states(pod) if other == name), {})


def _has_trained(pod: Object, before: datetime) -> bool:
    over = _trainer(pod).get("terminated")
    return over is not None and (not over.get("finishedAt") or datetime.fromisoformat(over["finishedAt"]) <= before)


def _is_disturbed(pod: Object) -> bool:
    """Whether a pod is made to end from outside."""
    return pod["metadata"].get("deletionTimestamp") is not None or "DisruptionTarget" in _conditions(pod)


def _ended_at(pod: Object) -> str:
    over = [state["terminated"] for state in (_trainer(pod), *dict(_states(pod)).values()) if state.get("terminated")]
    return str(over[0].get("finishedAt") or "") if over else "~"


def _conditions(thing: Object, *, status: str | None = "True") -> dict[str, Object]:
    """The conditions by type: those that are true, or all."""
    found = thing["status"].get("conditions") or []
    return {one["type"]: one for one in found if status is None or one["status"] == status}


def _said_by(condition: Object) -> str:
    return str(condition.get("message") or condition.get("reason") or "")


def _wanted(job: Object) -> int:
    """How many of its pods are to run now."""
    return int(job["spec"].get("completions", 1)) - int(job["status"].get("succeeded", 0))


def _leaves(job: Object) -> bool:
    return job["metadata"].get("deletionTimestamp") is not None


def _place(pod: Object) -> str:
    node = pod["spec"].get("nodeName")
    return f"pod {pod['metadata']['name']}{' on ' + node if node else ''}"


def _of_pods(pods: Sequence[Object]) -> str:
    return f", and {_listed([_place(pod) for pod in pods])} has not ended" if pods else ""


def _listed(words: Sequence[str]) -> str:
    more = f"; and {len(words) - MOST_PODS} more" if len(words) > MOST_PODS else ""
    return "; ".join(words[:MOST_PODS]) + more
