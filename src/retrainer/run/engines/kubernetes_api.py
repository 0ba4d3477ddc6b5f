"""The few calls to Kubernetes' API that a job needs, each repeated until a deadline where what failed may pass.

Answers are plain JSON, as the server sends it: the client's typed models refuse what a newer server adds. What a call
means for a job is in ``kubernetes.py``; what a status says, in ``kubernetes_status.py``.
"""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from retrainer.errors import EngineError, EngineUnavailable, first_line

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
# What a repeated call may well get past, 409 unless it says that something is there already.
_PASSING = frozenset({408, 409, 410, 425, 429})
_NAMESPACE_OF_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
DEFAULT_NAMESPACE = "default"
_ROLE = "deploy/kubernetes/role.yaml is the Role that is needed"
_HINTS = {
    401: "renew the credentials",
    403: _ROLE,
    422: "what is wrong is in resources.kubernetes, or its pod_template",
}

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cluster:
    """How a cluster is reached.

    :ivar configuration: of the client, with its credentials and how they are renewed.
    :ivar namespace: where Jobs are made unless a pipeline says otherwise.
    """

    configuration: client.Configuration
    namespace: str | None = None


Connect = Callable[[], Cluster]
"""Reads the credentials anew each time: they may have been replaced since."""

_Call = Callable[[dict[str, Any]], urllib3.BaseHTTPResponse]


def from_environment() -> Cluster:
    """As ``kubectl`` finds a cluster, but inside of one that cluster first; ``$KUBECONFIG`` goes before both.

    :raises EngineError: there is none.
    """
    configuration, file = client.Configuration(), os.environ.get("KUBECONFIG")
    try:
        if not file and os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=configuration)
            return Cluster(configuration, _NAMESPACE_OF_POD.read_text().strip())
        config.load_kube_config(config_file=file, client_configuration=configuration)
        context = config.list_kube_config_contexts(config_file=file)[1]["context"]
    except (ConfigException, OSError) as error:
        raise EngineError(
            f"no cluster of Kubernetes is known here: {first_line(error)}",
            where="resources.engine",
            hint="set $KUBECONFIG, or in Airflow name a connection with kubernetes_conn_id",
        ) from None
    return Cluster(configuration, context.get("namespace"))


class _Said(Exception):
    """An answer that is not the one that was asked for, or none.

    :ivar status: of HTTP; 0 without an answer.
    :ivar reason: as Kubernetes names it; empty if it was not Kubernetes that answered.
    """

    def __init__(self, error: Exception) -> None:
        self.status, self.reason, self.text, self.retry_after = 0, "", first_line(error), 0.0
        if isinstance(error, ApiException):
            self.status = error.status or 0
            content = _parsed(error.body)
            self.reason = str(content.get("reason") or "")
            self.text = str(content.get("message") or f"HTTP {error.status} {error.reason}")
            after = str((error.headers or {}).get("Retry-After", ""))
            self.retry_after = float(after) if after.isdecimal() else 0.0
        super().__init__(self.text)

    @property
    def may_pass(self) -> bool:
        """Whether the same call may be answered otherwise in a while. A proxy that finds nobody says 404, too."""
        unknown = self.status == 404 and not self.reason
        return self.status == 0 or self.status >= 500 or self.status in _PASSING or unknown


class KubernetesApi:
    """One namespace of a cluster. All calls take the time, on the monotonic clock, after which they are not repeated.

    All raise ``EngineUnavailable`` where there was no answer by then, and ``EngineError`` where the answer is no.

    :param connect: says how the cluster is reached; asked again when the credentials are refused.
    :param namespace: by default that of the cluster.
    """

    def __init__(self, connect: Connect, namespace: str | None = None) -> None:
        self._connect = connect
        self._wanted = namespace
        self._open()

    def _open(self) -> None:
        cluster = self._connect()
        configuration = copy.deepcopy(cluster.configuration)
        # Repeating is done here, where it is known what may be repeated.
        configuration.retries = False
        opened = client.ApiClient(configuration)
        self._batch, self._core = client.BatchV1Api(opened), client.CoreV1Api(opened)
        self.namespace = self._wanted or cluster.namespace or DEFAULT_NAMESPACE
        self._host = str(configuration.host)

    def create_job(self, manifest: Mapping[str, Any], ends: float) -> tuple[Answer, bool]:
        """The Job of that name, and whether this call has made it; one that is there stays as it is."""
        name = manifest["metadata"]["name"]
        return self._create(
            f"create job {name}",
            lambda options: self._batch.create_namespaced_job(self.namespace, manifest, **options),
            lambda: self.job(name, ends),
            ends,
        )

    def create_service(self, manifest: Mapping[str, Any], ends: float) -> None:
        """Make a Service, unless one of that name is there."""
        name = manifest["metadata"]["name"]
        self._create(
            f"create service {name}",
            lambda options: self._core.create_namespaced_service(self.namespace, manifest, **options),
            lambda: self._read(
                f"get service {name}",
                lambda options: self._core.read_namespaced_service(name, self.namespace, **options),
                ends,
            ),
            ends,
        )

    def job(self, name: str, ends: float) -> Answer | None:
        """A Job; ``None`` where there is none of that name."""
        return self._read(
            f"get job {name}", lambda options: self._batch.read_namespaced_job(name, self.namespace, **options), ends
        )

    def pods(self, selector: str, ends: float) -> list[Answer]:
        """The pods with a label."""
        answer = self._asked(
            "list pods",
            lambda options: self._core.list_namespaced_pod(self.namespace, label_selector=selector, **options),
            ends,
        )
        return list(answer.get("items") or [])

    def events(self, uid: str, ends: float) -> list[Answer]:
        """What was said about an object; nothing where the Role does not allow to ask."""
        try:
            answer = self._asked(
                "list events",
                lambda options: self._core.list_namespaced_event(
                    self.namespace, field_selector=f"involvedObject.uid={uid}", **options
                ),
                ends,
                told=frozenset({403}),
            )
        except _Said:
            return []
        return list(answer.get("items") or [])

    def delete_pods(self, selector: str, ends: float) -> None:
        """Delete the pods with a label, each with the time that it has to end."""
        self._asked(
            "delete pods",
            lambda options: self._core.delete_collection_namespaced_pod(
                self.namespace, label_selector=selector, **options
            ),
            ends,
        )

    def delete_job(self, name: str, ends: float) -> None:
        """Delete a Job once its pods have ended; until then its name is taken. Nothing if it is gone."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        self._read(
            f"delete job {name}",
            lambda options: self._batch.delete_namespaced_job(name, self.namespace, body=body, **options),
            ends,
        )

    def _create(self, what: str, call: _Call, read: Callable[[], Answer | None], ends: float) -> tuple[Answer, bool]:
        for tried in count(1):
            try:
                return self._asked(what, call, ends, told=frozenset({404, 409})), True
            except _Said as said:
                if said.status == 404:
                    hint = f"is there a namespace '{self.namespace}'?"
                    raise EngineError(said.text, where=self._where(what), hint=hint) from None
                # It is there; or it was and is gone; or somebody else wrote at the same moment, to a quota for example.
                found = read()
                if found is not None:
                    return found, False
                self._pause(what, said, tried, ends)
            except EngineUnavailable:
                raise
            except EngineError:
                # A quota that is full with the object itself, or a webhook that has changed since: asked first.
                found = read()
                if found is not None:
                    return found, False
                raise
        raise AssertionError("the pauses end it")

    def _read(self, what: str, call: _Call, ends: float) -> Answer | None:
        try:
            return self._asked(what, call, ends, told=frozenset({404}))
        except _Said:
            return None

    def _asked(self, what: str, call: _Call, ends: float, *, told: frozenset[int] = frozenset()) -> Answer:
        """The answer to a call.

        :param told: statuses that are raised as they are, where Kubernetes itself has given them.
        :raises _Said: it is one of these.
        """
        renewed = False
        for tried in count(1):
            left = max(0.1, ends - time.monotonic())
            timeout = (min(CONNECT_SECONDS, left), min(ANSWER_SECONDS, left))
            try:
                answer = call({"_preload_content": False, "_request_timeout": timeout})
                return _parsed(answer.data, strict=True)
            except (ApiException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                said = _Said(error)
            if said.status in told and said.reason:
                raise said
            if said.status == 401 and not renewed:
                renewed = True
                self._open()
            elif said.may_pass:
                self._pause(what, said, tried, ends)
            else:
                raise EngineError(said.text, where=self._where(what), hint=_HINTS.get(said.status)) from None
        raise AssertionError("the pauses end it")

    def _pause(self, what: str, said: _Said, tried: int, ends: float) -> None:
        """Wait before another try, longer each time.

        :raises EngineUnavailable: there is no time for another.
        """
        pause = min(FIRST_PAUSE_SECONDS * 2 ** (tried - 1), LONGEST_PAUSE_SECONDS)
        # Many tasks may ask at once, and would do so again at once.
        pause = max(pause * random.uniform(0.5, 1.0), said.retry_after)
        if time.monotonic() + pause >= ends:
            raise EngineUnavailable(f"no answer after {tried} tries: {said.text}", where=self._where(what))
        time.sleep(pause)

    def _where(self, what: str) -> str:
        return f"{self._host}, namespace {self.namespace}, {what}"


def _parsed(body: bytes | str | None, *, strict: bool = False) -> Answer:
    """A JSON object; an empty one for anything else.

    :raises ValueError: it is something else, and that matters.
    """
    try:
        content = json.loads(body or b"")
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    if strict:
        raise ValueError("the answer is not of Kubernetes")
    return {}
