"""The Ray cluster of an Airflow connection. There is no provider of Ray for Airflow 3, and none is needed.

Not here: what the cluster is asked for (``retrainer.run.engines.ray``).
"""

from __future__ import annotations

from typing import Any

from airflow.sdk.log import mask_secret

from retrainer.airflow.connections import connection_named
from retrainer.errors import PipelineError
from retrainer.run.engines.ray import RayAccess
from retrainer.spec.ray import complaint_about


def ray_access(conn_id: str | None) -> RayAccess | None:
    """How the cluster of a connection is reached; ``None`` leaves it to the pipeline and the environment.

    Host, port and schema are those of the dashboard; the host may be the whole address. The password is the token. Of
    the extra, ``headers`` is sent with each call, and ``verify`` is a bundle that the certificate is checked against.

    :raises PipelineError: the connection says something that cannot be used.
    :raises ResourceError: there is no such connection.
    """
    if not conn_id:
        return None
    connection, where = connection_named(conn_id, what="ray_conn_id"), f"connection '{conn_id}'"
    address = _address(connection)
    if complaint := complaint_about(address):
        raise PipelineError(complaint, where=where)
    extra = connection.extra_dejson
    headers, verify = extra.get("headers") or {}, extra.get("verify")
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise PipelineError("headers of its extra has to be a mapping of names to texts", where=where)
    if verify is not None and (not isinstance(verify, str) or not verify):
        raise PipelineError(
            "verify of its extra has to be the path of a bundle of certificates; the check is not turned off",
            where=where,
        )
    for secret in (connection.password, *headers.values()):
        if secret:
            mask_secret(secret)
    return RayAccess(address, connection.password or None, headers, verify)


def _address(connection: Any) -> str:
    host = (connection.host or "").rstrip("/")
    if "://" not in host:
        encrypted = "https" in {connection.schema, connection.conn_type}
        host = f"{'https' if encrypted else 'http'}://{host}"
    return f"{host}:{connection.port}" if connection.port else host
