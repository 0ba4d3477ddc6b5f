"""The cluster of a connection of Airflow's type ``kubernetes``, by the hook of the cncf.kubernetes provider.

Not here: what the cluster is asked for (``retrainer.run.engines.kubernetes``).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from retrainer.errors import EngineError, ResourceError, first_line

if TYPE_CHECKING:
    from retrainer.run.engines.kubernetes_api import Cluster

# The hook leaves its configuration in a variable of the client's, from which it then reads it.
_ONE_AT_A_TIME = threading.Lock()


def cluster_of(conn_id: str) -> Cluster:
    """How the cluster of a connection is reached, with the connection's namespace.

    :raises EngineError: the connection cannot be used.
    :raises ResourceError: there is no such connection, or the provider is not installed.
    """
    where = f"connection '{conn_id}'"
    try:
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    except ModuleNotFoundError:
        raise ResourceError(
            "is one of Airflow's cncf.kubernetes provider, which is not installed",
            where=where,
            hint="pip install 'airflow-retrainer[kubernetes]'",
        ) from None
    from kubernetes.config.config_exception import ConfigException

    from retrainer.run.engines.kubernetes_api import Cluster

    hook = KubernetesHook(conn_id=conn_id)
    try:
        with _ONE_AT_A_TIME:
            configuration = hook.get_conn().configuration
        namespace = hook.get_namespace()
    except AirflowNotFoundException:
        # Not final: Airflow says the same of a backend of secrets that did not answer.
        raise ResourceError(
            f"Airflow has no connection '{conn_id}', or could not read it",
            where="kubernetes_conn_id",
            hint="create it, or name another",
        ) from None
    except (AirflowException, ConfigException, OSError, ValueError) as error:
        raise EngineError(f"cannot be used: {first_line(error)}", where=where) from None
    return Cluster(configuration, namespace)
