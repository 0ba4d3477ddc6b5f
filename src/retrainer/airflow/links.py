"""Links beside a task in Airflow's UI: the run's folder, the decision's receipt, the published version.

The worker knows where they lead and leaves them in XCom; the API server reads them there. Decision and version lead to
the console's pages, where the plugin is installed; else, as the run's folder does, to the AWS console, or to the object
of another S3 server. A task has them only where a browser can follow them: none follows an address on the worker's disk
from a web page, and Airflow's UI would show a heading with nothing below.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import attrs
from airflow.sdk import Asset, BaseOperator, BaseOperatorLink, conf

from retrainer.airflow.console_place import PLUGIN_LOADED, PREFIX, ROUTE, base_path
from retrainer.airflow.settings import Settings
from retrainer.chain import Published, StepRef
from retrainer.storage import is_s3, join_url
from retrainer.storage.access import current_access


@attrs.define()
class StepLink(BaseOperatorLink):  # type: ignore[misc]
    """A link whose target the operator found out while it ran. Use its subclasses."""

    label: ClassVar[str]
    xcom_key_of_link: ClassVar[str]

    @property
    def name(self) -> str:
        """The text of the link."""
        return self.label

    @property
    def xcom_key(self) -> str:
        """Where the worker leaves the address for the API server."""
        return self.xcom_key_of_link

    def can_be_followed(self, settings: Mapping[str, Any], outlets: Sequence[Any]) -> bool:
        """Whether a browser can, as far as is known when Airflow parses the DAG.

        :param settings: of the task; so are ``outlets``.
        """
        return is_s3(str(settings.get("artifact_root") or Settings().resolved().artifact_root))

    def get_link(self, operator: BaseOperator, **_: Any) -> str:
        """The address, in the process that ran the task; empty when it did not get that far."""
        return str(operator.link(self.xcom_key))


class RunFolderLink(StepLink):
    """The dated folder of the run: what ran, logs, links to artifacts."""

    label = "Run folder"
    xcom_key_of_link = "retrainer_run_folder"

    @staticmethod
    def target(root: str, folder: str) -> str:
        """The address of a run's folder."""
        return address(root, "runs", folder)


class ReceiptLink(StepLink):
    """The decision: its page in the console, or its receipt."""

    label = "Decision receipt"
    xcom_key_of_link = "retrainer_receipt"

    def can_be_followed(self, settings: Mapping[str, Any], outlets: Sequence[Any]) -> bool:
        """To the console from anywhere."""
        return has_console() or super().can_be_followed(settings, outlets)

    @staticmethod
    def target(decision: StepRef) -> str:
        """Empty where nothing was decided."""
        if not decision.digest:
            return ""
        if decision.pipeline is not None and has_console():
            return console_address("decision", name=decision.pipeline.name, decision=decision.digest)
        return address(decision.root, "decide", decision.digest, "receipt.json", is_file=True)


class PublishedVersionLink(StepLink):
    """The version: the page of its model in the console, or its folder in the store."""

    label = "Published version"
    xcom_key_of_link = "retrainer_published_version"

    def can_be_followed(self, settings: Mapping[str, Any], outlets: Sequence[Any]) -> bool:
        """The store may be another place than the artifacts'; it is known where the model's asset is."""
        if has_console():
            return True
        models = [outlet.uri for outlet in outlets if isinstance(outlet, Asset)]
        return any(map(is_s3, models)) if models else super().can_be_followed(settings, outlets)

    @staticmethod
    def target(published: Published) -> str:
        """The page of the model, or the version's folder."""
        if has_console():
            return console_address("model", name=published.model, channel=published.channel)
        return address(published.store, published.model, "versions", published.version)


def has_console() -> bool:
    """Whether this deployment has the plugin, and with it the console: whether Airflow loaded it in this process."""
    from airflow.sdk.plugins_manager import integrate_macros_plugins

    integrate_macros_plugins()  # loads all plugins, once a process
    return PLUGIN_LOADED.is_set()


def console_address(page: str, **query: str) -> str:
    """A page of the console within Airflow's UI."""
    base = base_path()
    return f"{base}/plugin/{ROUTE}{base}{PREFIX}/{page}?{urlencode(query)}"


def page_of(context: Any, task_id: str = "", tab: str = "") -> str:
    """The page of a task in Airflow's UI; that of the run without one.

    :param context: of a task of that run.
    :param tab: of the task's page.
    """
    run = context["dag_run"]
    task = f"/tasks/{task_id}" if task_id else ""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/dags/{run.dag_id}/runs/{quote(run.run_id, safe='')}{task}" + (f"/{tab}" if tab else "")


def address(root: str, *parts: str, is_file: bool = False) -> str:
    """A URL for people: of the AWS console for a bucket of AWS, else of the object itself; none for a folder."""
    if not is_s3(root):
        return ""
    bucket, _, key = join_url(root, *parts).removeprefix("s3://").partition("/")
    variables = (os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_ENDPOINT_URL"))
    endpoint = next(filter(None, (current_access().endpoint_url, *variables)), None)
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{quote(key)}"
    if is_file:
        return f"https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"
    return f"https://s3.console.aws.amazon.com/s3/buckets/{bucket}?prefix={quote(key)}/"
