"""Ray as an engine: a job by its Jobs API, which is plain HTTP; Ray itself is not needed here.

A job's name is the ``submission_id``, of which a cluster has one at most. So each call may be repeated, and each is,
where the answer does not come or says that the server cannot for now. Not here: what the job runs (``ray_driver.py``).
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError, SSLError

from retrainer.chain.jobs import Job
from retrainer.errors import EngineError, EngineUnavailable, first_line
from retrainer.run.engines import JobState
from retrainer.spec.ray import Ray, complaint_about
from retrainer.spec.resources import Resources

# A call is repeated for so long, and one answer is waited for so long at most.
REPEAT_SECONDS = 30.0
ANSWER_SECONDS = 10.0
CONNECT_SECONDS = 5.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 4.0
# Ray gives a job 3 s after SIGTERM.
STOP_SECONDS = 20.0
STOP_LOOK_SECONDS = 0.3

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"

_ENTRYPOINT = {"CPU": "entrypoint_num_cpus", "GPU": "entrypoint_num_gpus", "memory": "entrypoint_memory"}
_GONE = frozenset({404, 410})
_LATER = frozenset({408, 425, 429})
_REFUSED_BY_NODE = "failed with status code 400"
_LET_IN = "give the token in the connection ray_conn_id, or in $RAY_AUTH_TOKEN"
_HINTS = {401: _LET_IN, 403: _LET_IN, 400: "see resources.ray of the pipeline"} | dict.fromkeys(
    (301, 302, 303, 307, 308, 405), "give the address of Ray's dashboard, usually on port 8265"
)


@dataclass(frozen=True, slots=True)
class RayAccess:
    """How a cluster is reached.

    :param address: of its dashboard, such as ``http://ray-head:8265``; ``None`` leaves it to the pipeline.
    :param token: sent as ``Authorization: Bearer``, to this address alone.
    :param headers: sent with each call, such as those that a proxy asks for.
    :param certificates: path of a bundle that the server's certificate is checked against; by default the system's.
    """

    address: str | None = None
    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificates: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    text: str

    def says_gone(self, job: Job) -> bool:
        """Whether the cluster knows no such job.

        In Ray's own words: a proxy that has lost the way to Ray also says 404, often with the path that was asked for.
        """
        return self.status in _GONE and f"{job.name} does not exist" in self.text

    @property
    def content(self) -> dict[str, Any] | None:
        """What was asked for; ``None`` where this is not it, but the page of something in between."""
        try:
            content = json.loads(self.text) if self.status == 200 else None
        except ValueError:
            return None
        return content if isinstance(content, dict) else None

    @property
    def is_refusal(self) -> bool:
        """Whether asking again gives the same. The head quotes what the node said that it has asked itself."""
        return (300 <= self.status < 500 and self.status not in _LATER | _GONE) or _REFUSED_BY_NODE in self.text

    def line(self) -> str:
        """It in a line: of a stack trace the last one."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        return f"HTTP {self.status}" + (f": {lines[-1][:300]}" if lines else "")


class RayJobs:
    """The ``Engine`` of a Ray cluster."""

    def __init__(self, access: RayAccess, ray: Ray) -> None:
        assert access.address is not None
        self._ray = ray
        self._url = f"{access.address.rstrip('/')}/api/jobs/"
        token = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._headers = {**access.headers, **token}
        self._http = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=ANSWER_SECONDS),
            ca_certs=access.certificates,
        )

    def submit(self, job: Job) -> None:
        """Start it, unless a job of its name is there, whatever became of that."""

        def settled(answer: Answer) -> bool:
            is_there = answer.status == 409 or (job.name in answer.text and "already exists" in answer.text)
            return answer.content is not None or is_there

        try:
            self._ask("POST", "", self._described(job), settled=settled)
        except EngineUnavailable:
            raise
        except EngineError:
            # What refuses new jobs says nothing against one that is there.
            if self.state(job).phase == "gone":
                raise

    def state(self, job: Job) -> JobState:
        """What became of it."""
        content = self._ask_about(job, "GET", quote(job.name))
        if content is None:
            return JobState("gone", "the cluster knows no such job: it was started anew, or the job was deleted")
        status, message = str(content.get("status")), str(content.get("message") or "").strip()
        match status:
            case "PENDING":
                return JobState("waiting", message.partition("\n")[0])
            case "RUNNING":
                return JobState("running")
            case "SUCCEEDED":
                return JobState("succeeded")
            case "FAILED":
                return JobState("failed", message.rpartition("\n")[2][:300])
            case "STOPPED":
                return JobState("failed", "it was stopped")
        raise EngineError(f"Ray says of the job that it is '{status}'", where=self._url)

    def stop(self, job: Job) -> None:
        """End it with all its processes, and return when they have ended or certainly will. Nothing if it is gone."""
        if self._ask_about(job, "POST", f"{quote(job.name)}/stop") is None:
            return
        until = time.monotonic() + STOP_SECONDS
        # One that waits for its resources ends before it begins.
        while self.state(job).phase == "running":
            if time.monotonic() > until:
                raise EngineUnavailable(f"the job {job.name} still runs after it was told to stop", where=self._url)
            time.sleep(STOP_LOOK_SECONDS)

    def _ask_about(self, job: Job, method: str, path: str) -> dict[str, Any] | None:
        """What is said about a job; ``None`` if it is gone."""
        answer = self._ask(method, path, settled=lambda answer: answer.content is not None or answer.says_gone(job))
        return answer.content

    def _described(self, job: Job) -> dict[str, Any]:
        """The job as Ray's API takes it."""
        environment = dict(self._ray.runtime_env)
        environment["env_vars"] = {**environment.get("env_vars", {}), **job.environment}
        content: dict[str, Any] = {
            "submission_id": job.name,
            # Ray runs it with its own interpreter, whose version has to be that of the cluster.
            "entrypoint": shlex.join(["python", "-m", "retrainer.run.engines.ray_driver", job.folder]),
            "runtime_env": environment,
            "metadata": {"retrainer_step": job.step, "retrainer_artifact": job.digest, "retrainer_root": job.root},
        }
        more = {}
        for name, amount in self._ray.entrypoint_resources.items():
            if name in _ENTRYPOINT:
                content[_ENTRYPOINT[name]] = int(amount) if name == "memory" else amount
            else:
                more[name] = amount
        return {**content, "entrypoint_resources": more} if more else content

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, settled: Callable[[Answer], bool]
    ) -> Answer:
        """The answer that settles the matter; the call is repeated until there is one.

        :raises EngineError: the cluster refuses, or lets nobody in who asks like that.
        :raises EngineUnavailable: there was none in time.
        """
        until = time.monotonic() + REPEAT_SECONDS
        pause = FIRST_PAUSE
        while True:
            answer = self._try(method, path, body, left=until - time.monotonic())
            if isinstance(answer, Answer):
                if settled(answer):
                    return answer
                if answer.is_refusal:
                    raise EngineError(f"Ray refuses: {answer.line()}", where=self._url, hint=_HINTS.get(answer.status))
            if time.monotonic() + pause >= until:
                why = answer.line() if isinstance(answer, Answer) else answer
                raise EngineUnavailable(
                    f"Ray gave no answer for {REPEAT_SECONDS:.0f} s, at last: {why}",
                    where=f"{method} {self._url}{path}",
                )
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _try(self, method: str, path: str, body: Mapping[str, Any] | None, *, left: float) -> Answer | str:
        """One call: an answer, or why there is none."""
        wait = max(1.0, min(ANSWER_SECONDS, left))
        try:
            response = self._http.request(
                method,
                self._url + path,
                json=body,
                headers=self._headers | ({"Content-Type": "application/json"} if body is not None else {}),
                timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, wait), read=wait),
                retries=False,
                redirect=False,
            )
        except SSLError as error:
            raise EngineError(f"its certificate is not trusted: {first_line(error)}", where=self._url) from None
        except HTTPError as error:
            return f"{type(error).__name__}: {first_line(error)}"
        return Answer(response.status, response.data.decode(errors="replace"))


def connect(resources: Resources, connection: Any = None) -> RayJobs:
    """The cluster of a pipeline.

    :param connection: a ``RayAccess``; by default what ``$RAY_API_SERVER_ADDRESS`` and ``$RAY_AUTH_TOKEN`` say.
    :raises EngineError: nothing says where it is, or a token would be sent elsewhere than it belongs.
    """
    ray = resources.ray or Ray()
    access = connection if isinstance(connection, RayAccess) else _from_environment()
    known = access.address.rstrip("/") if access.address else None
    address = ray.address or known
    if address is None:
        raise EngineError(
            "nothing says where the Ray cluster is",
            where="resources.ray.address",
            hint=f"give it there, in the connection ray_conn_id, or in ${ADDRESS_VARIABLE}",
        )
    if complaint := complaint_about(address):
        raise EngineError(complaint, where="the address of Ray")
    if address != known and (access.token or access.headers):
        raise EngineError(
            f"the pipeline leads to {address}, and the token belongs to {known or 'no address'}",
            where="resources.ray.address",
            hint="leave it out of the pipeline, or name the address together with the token",
        )
    return RayJobs(RayAccess(address, access.token, access.headers, access.certificates), ray)


def _from_environment() -> RayAccess:
    return RayAccess(os.environ.get(ADDRESS_VARIABLE) or None, os.environ.get(TOKEN_VARIABLE) or None)
