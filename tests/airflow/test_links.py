"""Where the links beside a task lead."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.serialization.serialized_objects import DagSerialization

from retrainer.airflow import PublishModelOperator, Settings, links, retrain_dag
from retrainer.airflow.links import ReceiptLink, address
from retrainer.chain import StepRef


@pytest.fixture(autouse=True)
def no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)


def test_a_folder_in_a_bucket_is_a_folder_whatever_it_is_called() -> None:
    link = address("s3://bucket/root", "runs", "2026-01-01_00-00-00_news_bge-small-en-v1.5")
    assert link == (
        "https://s3.console.aws.amazon.com/s3/buckets/bucket?prefix=root/runs/2026-01-01_00-00-00_news_bge-small-en-v1.5/"
    )


def test_a_receipt_is_an_object() -> None:
    decision = StepRef(step="decide", digest="0" * 64, root="s3://bucket/root", reused=False, output={})
    link = ReceiptLink.target(decision)
    assert link.startswith("https://s3.console.aws.amazon.com/s3/object/bucket?prefix=root/decide/")
    assert link.endswith("/receipt.json")
    assert ReceiptLink.target(decision.model_copy(update={"digest": ""})) == ""


def test_a_folder_has_no_address_that_a_browser_follows(tmp_path: Path) -> None:
    assert address(str(tmp_path), "runs", "one") == ""


@pytest.fixture
def no_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment without the plugin."""
    monkeypatch.setattr(links, "has_console", lambda: False)


@pytest.mark.usefixtures("no_console")
@pytest.mark.parametrize(
    ("root", "store", "shown"),
    [
        ("/artifacts", "/store", set()),
        ("s3://bucket/root", "s3://models", {"Run folder", "Decision receipt", "Published version"}),
        ("/artifacts", "s3://models", {"Published version"}),
        ("s3://bucket/root", "/store", {"Run folder", "Decision receipt"}),
    ],
)
@pytest.mark.parametrize("bases", ["one", ["one", "two"]])
def test_airflow_shows_the_links_that_lead_somewhere_and_no_heading_without(
    root: str, store: str, shown: set[str], bases: str | list[str], tmp_path: Path
) -> None:
    """As the API server reads them in the serialized DAG, of mapped tasks too."""
    content = {"name": "news", "dataset": {"train": "rows.csv"}, "model": {"base": bases}, "publish": {"store": store}}
    dag = retrain_dag(content, settings={"artifact_root": root})
    copy = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    links = {task.task_id: set(task.extra_links) for task in copy.tasks}
    assert set().union(*links.values()) == shown
    assert links["train"] == shown & {"Run folder"}


@pytest.mark.usefixtures("no_console")
def test_the_link_of_a_hand_made_task_follows_the_artifact_root() -> None:
    def names(root: str) -> list[str]:
        task = PublishModelOperator(
            task_id="publish", pipeline="/p.yaml", decision={}, settings=Settings(artifact_root=root)
        )
        return [link.name for link in task.operator_extra_links]

    assert names("s3://bucket") == ["Run folder", "Published version"]
    assert names("/artifacts") == []
