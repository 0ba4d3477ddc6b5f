"""A cluster of Kubernetes for tests: the calls that a job needs, over real HTTP, and pods that are processes here.

Each container of a pod is a process with the environment that its manifest describes; what that starts belongs to it,
in whatever session, and ends with it, as in a container. The controller does with Jobs what the real one does: Indexed
completions, ``backoffLimit`` 0, ``podFailurePolicy`` of disruptions, foreground and background deletion. No image is
pulled, nothing is scheduled but GPUs. Calls fail as they are told to.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from kubernetes import client

from retrainer.run.engines.kubernetes_api import Cluster as Reached
from retrainer.run.engines.kubernetes_manifest import OF_JOB

INDEX = "batch.kubernetes.io/job-completion-index"
POD_MARK = "TEST_POD_UID"
CONTAINER_MARK = "TEST_CONTAINER"
TICK_SECONDS = 0.02
ROUTE = re.compile(r"/(?:api|apis/batch)/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>\w+)(?:/(?P<name>[^/]+))?")
REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
}
# By the method, and whether one object is named.
VERBS = {
    ("POST", False): "create",
    ("GET", True): "get",
    ("GET", False): "list",
    ("DELETE", True): "delete",
    ("DELETE", False): "deletecollection",
}
# What a call may suffer. Of the last two the effect takes place.
FAULTS = ("500", "429", "410", "409", "403", "garbage", "timeout", "cut", "late", "cut after")


class Answered(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str = "so it goes", *, reason: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.content = {
            "kind": "Status",
            "status": "Failure",
            "code": status,
            "reason": reason or REASONS[status],
            "message": message,
        }


class FakeCluster:
    """A cluster with one namespace, ``ml``. A context manager: leaving it ends all pods.

    :param folder: of the pods' logs.
    :ivar calls: of each kind, such as ``POST jobs``, how many came.
    :ivar made: of each kind of object, how many were made.
    :ivar gpus: of each node; a pod that asks for more stays pending.
    :ivar role: what may be asked for, as ``create jobs``; ``None`` for everything.
    :ivar secrets: by name, what ``envFrom`` finds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.calls: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.gpus = 8
        self.secrets: dict[str, dict[str, str]] = {}
        self.token: str | None = None
        self.role: set[str] | None = None
        self.missing_images: set[str] = set()
        self.quota = False
        self.suspends = False
        self._faults: dict[str, deque[str]] = {}
        self._objects: dict[str, dict[str, Any]] = {"jobs": {}, "pods": {}, "services": {}}
        self._processes: dict[str, dict[str, subprocess.Popen[bytes]]] = {}
        self._kill_at: dict[str, float] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None: ...

            def do_GET(self) -> None:
                cluster._serve(self)

            do_POST = do_DELETE = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> FakeCluster:
        for run in (partial(self._server.serve_forever, TICK_SECONDS), self._control):
            threading.Thread(target=run, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._server.shutdown()
        with self._lock:
            for pod in self._objects["pods"].values():
                self._end_all(pod)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def reached(self) -> Reached:
        configuration = client.Configuration(host=self.address)
        if self.token:
            configuration.api_key["BearerToken"] = f"Bearer {self.token}"
        return Reached(configuration, "ml")

    def kubeconfig(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.address}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "ml"}}],
        }

    def fail(self, call: str, *faults: str) -> None:
        """The next calls of that kind suffer these faults, one each."""
        self._faults.setdefault(call, deque()).extend(faults)

    def job(self, name: str) -> dict[str, Any]:
        return self._objects["jobs"][name]  # type: ignore[no-any-return]

    def pods(self, job: str) -> list[dict[str, Any]]:
        return [pod for pod in self._objects["pods"].values() if pod["metadata"]["labels"].get(OF_JOB) == job]

    def objects(self, kind: str) -> list[str]:
        return sorted(self._objects[kind])

    def processes(self, job: str) -> list[int]:
        """All that runs in the pods of a job."""
        return [number for pod in self.pods(job) for number in _marked(pod["metadata"]["uid"])]

    def kill(self, job: str, *, reason: str = "Error") -> None:
        """SIGKILL for all in the containers that train, as for want of memory."""
        with self._lock:
            for pod in self.pods(job):
                pod["reason"] = reason
                self._end_all(pod, "trainer")

    def disrupt(self, job: str, index: int = 0) -> None:
        """Evict a pod, as the drain of its node does."""
        with self._lock:
            for pod in self.pods(job):
                if pod["metadata"]["annotations"][INDEX] == str(index) and pod["status"]["phase"] == "Running":
                    detail = {"reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting"}
                    pod["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", **detail})
                    self._delete_pod(pod)

    def delete(self, job: str, propagation: str = "Background") -> None:
        """Delete a Job, as a person does."""
        with self._lock:
            self._delete_job(job, propagation)

    # What comes in

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        url = urlsplit(handler.path)
        route = ROUTE.fullmatch(url.path)
        call = f"{handler.command} {route['kind'] if route else url.path}"
        with self._lock:
            self.calls[call] += 1
            waiting = self._faults.get(call)
            fault = waiting.popleft() if waiting else ""
        if fault in {"timeout", "cut"}:
            self._leave(handler, fault)
            return
        status, content = 200, b""
        try:
            if fault.isdigit():
                raise Answered(int(fault), _forbidden(call) if fault == "403" else "injected")
            if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
                raise Answered(401)
            if route is None:
                raise Answered(404)
            if route["namespace"] != "ml":
                raise Answered(404, f'namespaces "{route["namespace"]}" not found')
            asked = f"{VERBS[handler.command, route['name'] is not None]} {route['kind']}"
            if self.role is not None and asked not in self.role:
                raise Answered(403, _forbidden(asked))
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            with self._lock:
                found = self._answer(handler.command, route["kind"], route["name"], query, json.loads(body or b"null"))
            content = json.dumps(found).encode()
        except Answered as error:
            status, content = error.status, json.dumps(error.content).encode()
        if fault in {"late", "cut after"}:
            self._leave(handler, fault)
            return
        if fault == "garbage" or route is None:
            content = b"<html>proxy</html>"
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        with suppress(OSError):
            handler.wfile.write(content)

    def _leave(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        handler.close_connection = True
        if fault in {"timeout", "late"}:
            self._closing.wait(3.0)
        with suppress(OSError):
            handler.connection.shutdown(SHUT_RDWR)

    def _answer(self, verb: str, kind: str, name: str | None, query: Mapping[str, str], body: Any) -> Any:
        if kind == "events":
            detail = {"type": "Warning", "message": "exceeded quota: team, requested: pods=1", "lastTimestamp": _now()}
            return {"items": [detail] if self.quota else []}
        if verb == "POST":
            return self._make(kind, body)
        if name is None:
            key, _, value = query["labelSelector"].partition("=")
            found = [one for one in self._objects[kind].values() if one["metadata"]["labels"].get(key) == value]
            if verb == "DELETE":
                for pod in found:
                    self._delete_pod(pod)
            return {"items": found}
        if name not in self._objects[kind]:
            raise Answered(404, f'{kind} "{name}" not found')
        if verb == "DELETE":
            self._delete_job(name, body["propagationPolicy"])
            return {"kind": "Status", "status": "Success"}
        return self._objects[kind][name]

    def _make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        if name in self._objects[kind]:
            raise Answered(409, f'{kind} "{name}" already exists', reason="AlreadyExists")
        if kind == "jobs" and not all(one.get("image") for one in body["spec"]["template"]["spec"]["containers"]):
            raise Answered(422, "spec.template.spec.containers[0].image: Required value")
        self.made[kind] += 1
        metadata = {**body["metadata"], "uid": f"{kind}-{name}-{self.made[kind]}", "creationTimestamp": _now()}
        made = self._objects[kind][name] = {**body, "metadata": metadata, "status": {}}
        if kind == "jobs" and self.suspends:
            made["spec"]["suspend"] = True
        return made

    # What the controllers do

    def _control(self) -> None:
        while not self._closing.wait(TICK_SECONDS):
            with self._lock:
                for pod in list(self._objects["pods"].values()):
                    self._look_at_pod(pod)
                for job in list(self._objects["jobs"].values()):
                    self._look_at_job(job)

    def _look_at_job(self, job: dict[str, Any]) -> None:
        name, spec, said = job["metadata"]["name"], job["spec"], job["status"]
        pods = self.pods(name)
        if job["metadata"].get("deletionTimestamp"):
            if not pods:
                del self._objects["jobs"][name]
                for service in list(self._objects["services"].values()):
                    if any(owner["uid"] == job["metadata"]["uid"] for owner in service["metadata"]["ownerReferences"]):
                        del self._objects["services"][service["metadata"]["name"]]
            return
        if _has(job, "Complete") or _has(job, "Failed"):
            return
        if spec.get("suspend"):
            said["conditions"] = [{"type": "Suspended", "status": "True"}]
            return
        said["conditions"] = [one for one in said.get("conditions", []) if one["type"] != "Suspended"]
        succeeded = {pod["metadata"]["annotations"][INDEX] for pod in pods if pod["status"]["phase"] == "Succeeded"}
        living = {
            pod["metadata"]["annotations"][INDEX] for pod in pods if pod["status"]["phase"] in {"Pending", "Running"}
        }
        said["succeeded"] = len(succeeded)
        said["ready"] = sum(_has(pod, "Ready") for pod in pods)
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        action = spec["podFailurePolicy"]["rules"][0]["action"]
        counted = [pod for pod in failed if action == "FailJob" or not _has(pod, "DisruptionTarget")]
        if counted and not _has(job, "FailureTarget"):
            disrupted = _has(counted[0], "DisruptionTarget")
            reason = "PodFailurePolicy" if disrupted else "BackoffLimitExceeded"
            message = "Pod has condition DisruptionTarget" if disrupted else "Job has reached the backoff limit"
            detail = {"status": "True", "reason": reason, "message": message}
            said["conditions"].append({"type": "FailureTarget", **detail})
            for pod in pods:
                self._delete_pod(pod)
        if _has(job, "FailureTarget"):
            if not living:
                said["conditions"].append({**said["conditions"][-1], "type": "Failed"})
        elif len(succeeded) == spec["completions"]:
            said["conditions"].append({"type": "Complete", "status": "True"})
        elif not self.quota:
            for index in range(spec["completions"]):
                if str(index) not in succeeded | living:
                    self._make_pod(job, index)

    def _make_pod(self, job: dict[str, Any], index: int) -> None:
        self.made["pods"] += 1
        template = json.loads(json.dumps(job["spec"]["template"]))
        name, uid = f"{job['metadata']['name']}-{index}-{self.made['pods']:05d}", str(uuid4())
        metadata = template["metadata"]
        metadata |= {"name": name, "uid": uid}
        metadata["labels"][OF_JOB] = job["metadata"]["name"]
        metadata["annotations"][INDEX] = str(index)
        pod = {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending", "conditions": []}}
        self._objects["pods"][name] = pod
        containers = pod["spec"]["containers"]
        limits = [one.get("resources", {}).get("limits", {}) for one in containers]
        wanted = sum(int(limit.get("nvidia.com/gpu", 0)) for limit in limits)
        fits = wanted <= self.gpus
        detail = {} if fits else {"reason": "Unschedulable", "message": "0/4 nodes are available: 4 Insufficient GPUs."}
        scheduled = {"type": "PodScheduled", "status": str(fits), "lastTransitionTime": _now(), **detail}
        pod["status"]["conditions"].append(scheduled)
        if not fits:
            return
        pod["spec"]["nodeName"] = f"node-{self.made['pods']}"
        said = pod["status"]["containerStatuses"] = []
        self._processes[uid] = {}
        for container in containers:
            state: dict[str, Any] = {"running": {}}
            if container["image"] in self.missing_images:
                state = {"waiting": {"reason": "ImagePullBackOff", "message": f"no image {container['image']}"}}
            else:
                self._start(pod, container, index)
            said.append({"name": container["name"], "state": state})
        if len(self._processes[uid]) == len(containers):
            pod["status"]["phase"] = "Running"
            pod["status"]["conditions"].append({"type": "Ready", "status": "True"})

    def _start(self, pod: dict[str, Any], container: dict[str, Any], index: int) -> None:
        uid = pod["metadata"]["uid"]
        environment = {"JOB_COMPLETION_INDEX": str(index), POD_MARK: uid, CONTAINER_MARK: container["name"]}
        for source in container.get("envFrom", []):
            environment |= self.secrets[source["secretRef"]["name"]]
        for one in container.get("env", []):
            path = one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
            environment[one["name"]] = one["value"] if "value" in one else pod["metadata"]["annotations"][path[22:-2]]
        with (self.folder / f"{pod['metadata']['name']}-{container['name']}.log").open("wb") as log:
            self._processes[uid][container["name"]] = subprocess.Popen(
                container["command"],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _look_at_pod(self, pod: dict[str, Any]) -> None:
        uid, said = pod["metadata"]["uid"], pod["status"]
        leaves = pod["metadata"].get("deletionTimestamp") is not None
        for container in said.get("containerStatuses", []):
            self._look_at_container(pod, container)
        if said["phase"] == "Running":
            over = [container["state"].get("terminated") for container in said["containerStatuses"]]
            if any(over):
                said["conditions"] = [one for one in said["conditions"] if one["type"] != "Ready"]
            if not all(over):
                if time.monotonic() > self._kill_at.get(uid, float("inf")):
                    self._end_all(pod)
                return
            said["phase"] = "Failed" if any(one["exitCode"] for one in over) else "Succeeded"
        # The controller of Jobs holds a pod until it has counted it.
        job = self._objects["jobs"].get(pod["metadata"]["labels"][OF_JOB])
        counted = job is None or job["metadata"].get("deletionTimestamp")
        if leaves and (counted or said["phase"] == "Pending"):
            del self._objects["pods"][pod["metadata"]["name"]]

    def _look_at_container(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        process = self._processes[pod["metadata"]["uid"]].get(container["name"])
        if "running" not in container["state"] or process is None or process.poll() is None:
            return
        self._end_all(pod, container["name"])
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        reason = pod.pop("reason", "Error") if container["name"] == "trainer" else "Error"
        container["state"] = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": _now()}}

    def _delete_pod(self, pod: dict[str, Any]) -> None:
        if pod["metadata"].get("deletionTimestamp"):
            return
        pod["metadata"]["deletionTimestamp"] = _now()
        for process in self._processes.get(pod["metadata"]["uid"], {}).values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        grace = pod["spec"]["terminationGracePeriodSeconds"]
        self._kill_at[pod["metadata"]["uid"]] = time.monotonic() + grace

    def _delete_job(self, name: str, propagation: str) -> None:
        job = self._objects["jobs"][name]
        job["metadata"].setdefault("deletionTimestamp", _now())
        if propagation != "Foreground":
            del self._objects["jobs"][name]
        if propagation != "Orphan":
            for pod in self.pods(name):
                self._delete_pod(pod)

    def _end_all(self, pod: dict[str, Any], container: str | None = None) -> None:
        """A container ends with its first process, and nothing outlives it."""
        for number in _marked(pod["metadata"]["uid"], container):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


def _marked(uid: str, container: str | None = None) -> list[int]:
    marks = {f"{POD_MARK}={uid}".encode()}  # of this pod alone: other clusters have theirs on the same machine
    if container is not None:
        marks.add(f"{CONTAINER_MARK}={container}".encode())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if marks <= set((entry / "environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
    return found


def _has(thing: Mapping[str, Any], condition: str) -> bool:
    return any(one["type"] == condition for one in thing["status"].get("conditions", []))


def _forbidden(call: str) -> str:
    verb, kind = call.split()
    return f'{kind} is forbidden: User "worker" cannot {verb.lower()} resource "{kind}" in the namespace "ml"'


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
