"""Jobs as Indexed Jobs of Kubernetes.

A plain Job of the API that every cluster has: its name is the lock by which a step runs once, its conditions say what
became of it, its deletion ends its pods. Not here: what it looks like (``kubernetes_manifest.py``), the calls
(``kubernetes_api.py``), what a status means (``kubernetes_status.py``).
"""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from retrainer.chain.jobs import Job
from retrainer.errors import EngineError, EngineUnavailable, ResourceError
from retrainer.run.engines import JobState
from retrainer.run.engines import kubernetes_status as status
from retrainer.run.engines.kubernetes_manifest import OF_JOB, job_manifest, service_manifest
from retrainer.spec.kubernetes import Kubernetes
from retrainer.spec.resources import Resources

if TYPE_CHECKING:
    from retrainer.run.engines.kubernetes_api import Connect, KubernetesApi

CALL_SECONDS = 30.0
# Pods get GRACE_SECONDS after their SIGTERM; the rest is for Kubernetes to notice.
STOP_SECONDS = 50.0
LOOK_SECONDS = 1.0
# For so long a pod may fail to start for what only a person can mend, such as the name of an image.
BROKEN_SECONDS = 900.0
# For so long the other containers of a pod may go on after the one that trains, before they are ended.
BESIDE_SECONDS = 20.0


def connect(resources: Resources, connection: Connect | None = None) -> KubernetesEngine:
    """The cluster of a connection; without one, that in which this process runs, or that of the kubeconfig.

    :raises EngineError: there is none.
    :raises ResourceError: the client of Kubernetes is not installed.
    """
    try:
        from retrainer.run.engines.kubernetes_api import KubernetesApi, from_environment
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "kubernetes":
            raise
        hint = "pip install 'airflow-retrainer[kubernetes]'"
        raise ResourceError("the client of Kubernetes is not installed", where="resources.engine", hint=hint) from None
    section = resources.kubernetes or Kubernetes()
    return KubernetesEngine(KubernetesApi(connection or from_environment, section.namespace))


class KubernetesEngine:
    """One namespace of a cluster, as an ``Engine``."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def submit(self, job: Job) -> None:
        """Make the Job, and for several hosts its Service.

        The Job comes first and owns the Service: whatever fails between, nothing is left that nobody deletes, and
        whoever asks again makes what is missing.
        """
        ends = time.monotonic() + CALL_SECONDS
        found, made = self._api.create_job(job_manifest(job, job.resources.kubernetes or Kubernetes()), ends)
        if job.resources.nodes == 1 or status.ended(found) or found["metadata"].get("deletionTimestamp"):
            return
        try:
            self._api.create_service(service_manifest(job, found), ends)
        except EngineUnavailable:
            raise
        except EngineError:
            if made:  # its pods would look for each other in vain
                self._api.delete_job(job.name, time.monotonic() + CALL_SECONDS)
            raise

    def state(self, job: Job) -> JobState:
        """What the Job says, and where that is not enough, its pods and events.

        A Job that is deleted counts as gone once none of its pods may run, however it was deleted: another one of the
        same step would write beside them.
        """
        ends = time.monotonic() + CALL_SECONDS
        found = self._api.job(job.name, ends)
        if found is None:
            return status.left_behind(self._pods(job, ends))
        if status.runs(found):
            return JobState("running")
        end = status.ended(found)
        if end is not None and end.phase == "succeeded":
            return end
        pods = self._pods(job, ends)
        if end is not None:
            return status.explained(end, pods)
        now = datetime.now(UTC)
        if (over := status.trained(found, pods, now - timedelta(seconds=BESIDE_SECONDS))) is not None:
            return over
        events = [] if pods else self._api.events(found["metadata"]["uid"], ends)
        state = status.active(found, pods, events)
        if status.broken_for(pods, now) > BROKEN_SECONDS:
            why = f"{state.why}; it could not start for {BROKEN_SECONDS / 60:.0f} minutes"
            return JobState("failed", why, lingers=True)
        return state

    def stop(self, job: Job) -> None:
        """Delete the Job, and wait until its pods have ended.

        :raises EngineUnavailable: one of them may still run, as on a node that does not answer.
        """
        started = time.monotonic()
        ends = started + STOP_SECONDS
        self._api.delete_job(job.name, started + CALL_SECONDS)
        left = JobState("running", "nothing is known about its pods")
        while time.monotonic() < ends:
            with suppress(EngineUnavailable):
                left = self._left(job, ends)
                if left.phase == "gone":
                    return
            time.sleep(LOOK_SECONDS)
        raise EngineUnavailable(f"the job is deleted, and has not ended yet: {left.why}", where=job.name)

    def _left(self, job: Job, ends: float) -> JobState:
        found, pods = self._api.job(job.name, ends), self._pods(job, ends)
        if found is not None:
            return status.active(found, pods, ())
        if any(pod["metadata"].get("deletionTimestamp") is None for pod in status.living(pods)):
            # Somebody has deleted the Job alone.
            self._api.delete_pods(self._selector(job), ends)
        return status.left_behind(pods)

    def _pods(self, job: Job, ends: float) -> list[status.Object]:
        return list(self._api.pods(self._selector(job), ends))

    @staticmethod
    def _selector(job: Job) -> str:
        return f"{OF_JOB}={job.name}"
