"""Where the console is within Airflow: for the plugin that puts it there, and for links that lead to it. Light."""

from __future__ import annotations

from threading import Event
from urllib.parse import urlsplit

from airflow.sdk import conf

PREFIX = "/retrainer"
"""Where it is mounted."""
ROUTE = "models"
"""Of its page in Airflow's navigation."""

PLUGIN_LOADED = Event()
"""Set where Airflow loaded the plugin in this process, and so has the console."""


def base_path() -> str:
    """The path below which Airflow answers, without a slash at its end; empty for the root."""
    return urlsplit(str(conf.get("api", "base_url", fallback=""))).path.rstrip("/")
