"""The Airflow plugin: the console's pages in Airflow's navigation and beside a DAG, a run and a task.

Loaded in every task process of a deployment, so that what it offers is made when the API server asks for it, and
nothing is imported before. Airflow finds operators by their modules, and their links in the serialized DAG.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from retrainer.airflow.console_place import PLUGIN_LOADED, PREFIX, ROUTE, base_path

# Airflow's UI shows an icon as an image, which takes no colour from around it.
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24' fill='none' stroke='{colour}' "
    "stroke-width='1.8' stroke-linecap='round' stroke-linejoin='round'%3E%3Cpath d='M3 19h18'/%3E%3Cpath d='M4 15l5-6 "
    "4 4 7-9'/%3E%3Ccircle cx='9' cy='9' r='1.6'/%3E%3Ccircle cx='13' cy='13' r='1.6'/%3E%3C/svg%3E"
)
_ICONS = {"icon": _ICON.format(colour="%236f94c4"), "icon_dark_mode": _ICON.format(colour="%23cbd5e1")}
# Of a DAG that retrains no model it says so; Airflow has no views for some DAGs only.
_RUN = ("What happened", "run?dag_id={DAG_ID}&run_id={RUN_ID}")
_BESIDE: dict[str, tuple[str, str]] = {
    "dag": ("Model", "dag?dag_id={DAG_ID}"),
    "dag_run": _RUN,
    "task_instance": _RUN,
}


class RetrainerPlugin(AirflowPlugin):  # type: ignore[misc]
    """The pages."""

    name: ClassVar[str] = "retrainer"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Airflow has loaded it, not only imported its module."""
        PLUGIN_LOADED.set()

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The console, made once for each process that serves it."""
        return [{"name": "retrainer", "url_prefix": PREFIX, "app": self._console}]

    @cached_property
    def _console(self) -> Any:
        from retrainer.airflow.console import airflow_console

        return airflow_console()

    @property
    def external_views(self) -> list[dict[str, Any]]:
        """The page in the navigation, and those beside what it is about."""
        base = f"{base_path()}{PREFIX}/"
        nav = {
            "name": "Models",
            "destination": "nav",
            "href": base,
            "url_route": ROUTE,
            "nav_top_level": True,
            **_ICONS,
        }
        beside = [
            {
                "name": name,
                "destination": destination,
                "href": base + page,
                "url_route": f"{ROUTE}-{destination.replace('_', '-')}",
                **_ICONS,
            }
            for destination, (name, page) in _BESIDE.items()
        ]
        return [nav, *beside]
