"""Where the links beside a task lead."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_a_folder_here_is_a_file_address(tmp_path: Path) -> None:
    assert address(str(tmp_path), "runs", "one") == (tmp_path / "runs" / "one").as_uri()
