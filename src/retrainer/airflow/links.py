"""Links beside a task in Airflow's UI: the run's folder, the decision's receipt, the published version.

The worker knows where they lead and leaves them in XCom; the API server reads them there. On a bucket they lead to
the AWS console. On a folder they are ``file://`` addresses: browsers copy them but do not open them from a web page.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import attrs
from airflow.sdk import BaseOperatorLink

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import CHAIN, Published, Step, StepRef, StepRequest
from retrainer.run.folders import RunFolder
from retrainer.storage import is_s3, join_url, open_storage
from retrainer.storage.access import current_access

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


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

    @property
    def operators(self) -> list[type[BaseOperator]]:
        """The operators that show this link, for the plugin."""
        return [kind for kind in map(operator_of, CHAIN) if self in kind.operator_extra_links]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The address; empty when the task did not get that far."""
        found = getattr(operator, "link", None)
        if callable(found):
            return str(found(self.xcom_key))
        # In the API server the operator is a description, and the plugin's link is asked instead of Airflow's own.
        from airflow.serialization.definitions.operatorlink import XComOperatorLink

        return str(XComOperatorLink(name=self.name, xcom_key=self.xcom_key).get_link(operator, ti_key=ti_key))


class RunFolderLink(StepLink):
    """The dated folder of the run: what ran, logs, links to artifacts."""

    label = "Run folder"
    xcom_key_of_link = "retrainer_run_folder"

    @staticmethod
    def target(request: StepRequest) -> str:
        """The address of the request's run folder."""
        name = RunFolder(Artifacts(request.root), request).name
        return address(request.root, "runs", name)


class ReceiptLink(StepLink):
    """The receipt of the decision."""

    label = "Decision receipt"
    xcom_key_of_link = "retrainer_receipt"

    @staticmethod
    def target(decision: StepRef) -> str:
        """The address of ``receipt.json``; empty where nothing was decided."""
        if not decision.digest:
            return ""
        return address(decision.root, "decide", decision.digest, "receipt.json", is_file=True)


class PublishedVersionLink(StepLink):
    """The version in the store."""

    label = "Published version"
    xcom_key_of_link = "retrainer_published_version"

    @staticmethod
    def target(published: Published) -> str:
        """The address of the version's folder."""
        return address(published.store, published.model, "versions", published.version)


def operator_of(step: Step[Any]) -> type[BaseOperator]:
    """The operator of a step, by the name in its definition: it imports this module, not the other way round."""
    module, _, name = step.operator.rpartition(".")
    kind: type[BaseOperator] = getattr(importlib.import_module(module), name)
    return kind


def address(root: str, *parts: str, is_file: bool = False) -> str:
    """A URL for people: of the AWS console for a bucket of AWS, else of the object or the file itself."""
    if not is_s3(root):
        path = open_storage(root).local_path("/".join(parts))
        assert path is not None, "a storage that is no bucket is a folder"
        return path.absolute().as_uri()
    bucket, _, key = join_url(root, *parts).removeprefix("s3://").partition("/")
    variables = (os.environ.get("AWS_ENDPOINT_URL_S3"), os.environ.get("AWS_ENDPOINT_URL"))
    endpoint = next(filter(None, (current_access().endpoint_url, *variables)), None)
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{quote(key)}"
    if is_file:
        return f"https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"
    return f"https://s3.console.aws.amazon.com/s3/buckets/{bucket}?prefix={quote(key)}/"
