"""The page that compares two models."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from benchmarks.deployment import Deployment, History
from retrainer.cli import app
from retrainer.console import compare as page_module
from retrainer.console import stores
from retrainer.console.host import Everybody
from retrainer.storage import Transfer, open_storage
from tests.console.asking import EVIL, TEXT, content, shown

ClientOf = Callable[..., TestClient]


def versions_of(client: TestClient, model: str) -> list[str]:
    """The newest first."""
    return [one["version"] for one in reversed(content(client, "/model", name=model)["stretches"])]


def test_without_names_it_is_the_champion_and_the_version_before_it(client: TestClient) -> None:
    live, before, *_ = versions_of(client, "trail-status")  # rolled back
    page = content(client, "/compare", name="trail-status")
    assert page["a"] == live
    assert page["b"] == before
    assert page["compared"]["on_rows"]["rows"] == 1200
    one = content(client, "/compare", name="trail-status", a=before)
    assert (one["a"], one["b"]) == (before, live)


def test_page_and_command_give_the_same(client: TestClient, made: Deployment) -> None:
    decision = content(client, "/model", name="support-tickets")["challengers"][0]["decision"]
    live = versions_of(client, "support-tickets")[0]
    page = content(client, "/compare", name="support-tickets", a=decision, b=live)
    arguments = page["command"].split()
    result = CliRunner().invoke(app, [*arguments[1:], "--texts", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == page["compared"]
    receipt = client.get("/receipt.json", params={"name": "support-tickets", "decision": decision}).json()
    assert page["compared"]["on_rows"]["scores"][0]["difference"] == receipt["single"]
    text = shown(client, "/compare", name="support-tickets", a=decision, b=live)
    for piece in ("B is better: accuracy differs by -0.1083", "only B is right", "learning_rate", "source = agency"):
        assert piece in text
    assert 'href="data?name=support-tickets&amp;channel=production&amp;snapshot=' in text


def test_what_was_fetched_from_a_bucket_does_not_stay(
    made: Deployment, client_of: ClientOf, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(client_of(made), "/compare", name="trail-status")["compared"]["on_rows"]
    local = Path(made.root)
    files = [file for step in ("decide", "evaluate", "ingest") for file in (local / step).rglob("*") if file.is_file()]
    assert files
    open_storage(f"s3://{s3_bucket}").upload_all([Transfer(file, str(file.relative_to(local))) for file in files])
    monkeypatch.setattr(Deployment, "root", f"s3://{s3_bucket}")
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    client = client_of(made)
    for _ in range(200):
        page = content(client, "/compare", name="trail-status")
        if not page["pending"]:
            break
        time.sleep(0.1)
    assert page["compared"]["on_rows"] == expected
    assert list(tmp_path.rglob("*")) == []


def test_texts_are_for_those_who_may_read_logs(made: Deployment, client_of: ClientOf) -> None:
    allowed, others = client_of(made), client_of(made, Everybody(texts=False))
    decision = content(allowed, "/model", name="support-tickets")["challengers"][0]["decision"]
    query = {"name": "support-tickets", "a": decision}
    assert TEXT.search(shown(allowed, "/compare", **query))
    for asked in (shown(others, "/compare", **query), json.dumps(content(others, "/compare", **query))):
        assert not TEXT.search(asked)
    assert content(others, "/compare", **query)["compared"]["on_rows"]["right"]["b"] == 130
    assert "task logs of retrain__support_tickets" in shown(others, "/compare", **query)


def test_a_pipeline_that_shows_no_texts_shows_none(copied: Deployment, client_of: ClientOf) -> None:
    from benchmarks.deployment import GATE

    quiet = copied.add("quiet", {**GATE, "report_texts": False})
    quiet.at(copied.now, "one", 100, seed=1)
    quiet.at(copied.now, "two", 200, seed=1)
    client = client_of(copied)
    for page in ("/compare", "/data"):
        asked = shown(client, page, name="quiet") + json.dumps(content(client, page, name="quiet"))
        assert not TEXT.search(asked)
        assert "gate.report_texts" in asked


@pytest.mark.parametrize("kind", ["a", "b", "neither"])
def test_only_the_rows_of_one_kind(client: TestClient, kind: str) -> None:
    page = content(client, "/compare", name="support-tickets")
    rows = [one["row_id"] for one in page["compared"]["on_rows"]["differing"]]
    kinds = {one["row_id"]: one["right"] for one in page["compared"]["on_rows"]["differing"]}
    text = shown(client, "/compare", name="support-tickets", rows=kind)
    assert [row for row in rows if row in text] == [row for row in rows if kinds[row] == kind]
    assert client.get("/compare", params={"name": "support-tickets", "rows": "x"}).status_code == 422


def test_the_same_twice(client: TestClient) -> None:
    live = versions_of(client, "ag-news")[0]
    page = content(client, "/compare", name="ag-news", a=live, b=live)
    assert page["compared"]["why_not"] == "It is the same model twice."
    assert "It is the same model twice." in shown(client, "/compare", name="ag-news", a=live, b=live)
    decision = next(
        one["decision"] for one in content(client, "/model", name="ag-news")["challengers"] if one["live_as"] == live
    )
    both = content(client, "/compare", name="ag-news", a=decision, b=live)
    assert both["compared"]["why_not"].startswith("Both are the same model")


def test_one_version_alone(client: TestClient) -> None:
    page = content(client, "/compare", name="paraphrases")
    assert page["compared"] is None
    assert "there is one version" in shown(client, "/compare", name="paraphrases")
    assert "there is no version" in shown(client, "/compare", name="first-steps")


def test_an_evaluation_that_was_removed(copied: Deployment, client_of: ClientOf) -> None:
    versions = versions_of(client_of(copied), "ag-news")
    query = {"name": "ag-news", "a": versions[0], "b": versions[-1]}
    evaluation = content(client_of(copied), "/compare", **query)["compared"]["b"]["artifacts"]["evaluate"]
    shutil.rmtree(f"{copied.root}/evaluate/{evaluation}")
    page = content(client_of(copied), "/compare", **query)
    assert page["compared"]["on_rows"] is None
    assert f"The evaluation {evaluation[:12]} was removed" in page["compared"]["why_not"]
    text = shown(client_of(copied), "/compare", **query)
    assert "was removed" in text
    assert "learning_rate" in text  # what they were made of is still known
    # The next champion's evaluation asked it, too.
    query["a"] = versions[-2]
    assert content(client_of(copied), "/compare", **query)["compared"]["on_rows"]["rows"] == 1200


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "..", "0" * 15, "0" * 63, f"{'0' * 64}/..", "\x00", EVIL, "é" * 16]
)
def test_no_address_leads_out_of_the_artifacts(client: TestClient, name: str) -> None:
    live = versions_of(client, "ag-news")[0]
    for query in ({"a": name, "b": live}, {"a": live, "b": name}, {"b": name}):
        answer = client.get("/compare", params={"name": "ag-news", **query})
        assert answer.status_code == 404
        assert EVIL not in answer.text


def test_what_is_not_there_or_of_another_model(client: TestClient) -> None:
    live = versions_of(client, "ag-news")[0]
    decision = content(client, "/model", name="support-tickets")["challengers"][0]["decision"]
    other = versions_of(client, "support-tickets")[0]
    for name in ("0" * 16, "0" * 64, decision, other):
        answer = client.get("/compare", params={"name": "ag-news", "a": live, "b": name})
        assert answer.status_code == 404, name
        assert "There is nothing by that name" in answer.text
        assert "<select" in answer.text


def test_of_a_dag_that_may_not_be_read(made: Deployment, client_of: ClientOf) -> None:
    hidden = client_of(made, Everybody(hidden=frozenset({"retrain__ag_news"})))
    for page in ("/compare", "/data"):
        assert hidden.get(page, params={"name": "ag-news"}).status_code == 404


def test_what_the_data_says_is_shown_as_it_is(copied: Deployment, client_of: ClientOf) -> None:
    class Evil(History):
        names = (EVIL, 'Sports" onload="x')

    evil = Evil(copied.folder, "evil", copied.add("evil").gate, store=copied.store, root=copied.root)
    evil.at(copied.now, "one", 300, seed=5)
    evil.at(copied.now, "two", 100, seed=5)
    client = client_of(copied)
    for page in ("/compare", "/data"):
        text = shown(client, page, name="evil")
        assert EVIL not in text
        assert 'Sports" onload' not in text
        assert "&lt;script&gt;" in text
        assert text.count("<script") == 1


def test_where_libraries_are_missing_the_rest_is_shown(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "LIBRARIES", ("numpy", "no_such_library"))
    text = shown(client, "/compare", name="ag-news")
    assert "no_such_library is not installed" in text
    assert "train rows" in text  # what they were made of
    monkeypatch.setattr(page_module, "LIBRARIES", ("numpy",))
    monkeypatch.setattr(page_module, "MOST_BYTES", 10)
    assert "too much for a page" in shown(client, "/compare", name="trail-status")


def test_what_takes_long_is_looked_at_again(
    made: Deployment, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, wait = page_module._compare_two, 1.0

    def slowly(*arguments: Any, **more: Any) -> Any:
        time.sleep(wait)
        return compare(*arguments, **more)

    monkeypatch.setattr(page_module, "_compare_two", slowly)
    monkeypatch.setattr(stores, "SECONDS", 0.4)
    client = client_of(made)
    text = shown(client, "/compare", name="ag-news")
    assert '<meta http-equiv="refresh" content="2">' in text
    assert "being compared" in text
    ends = time.monotonic() + 20
    while "refresh" in text:
        assert time.monotonic() < ends
        text = shown(client, "/compare", name="ag-news")
    assert "Who is right where" in text


def test_a_store_that_does_not_answer(copied: Deployment, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        copied.add("far-away", publish={"store": "s3://far/away"})
        client = client_of(copied)
        for page in ("/compare", "/data"):
            started = time.monotonic()
            answer = client.get(page, params={"name": "far-away"})
            assert time.monotonic() - started < 3
            assert "did not answer" in answer.text
            assert "refresh" not in answer.text


def test_artifacts_that_do_not_answer(copied: Deployment, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page looks again, and says so when it is known that nothing comes."""
    monkeypatch.setattr(stores, "SECONDS", 0.3)
    monkeypatch.setattr(stores, "LATE_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setattr(Deployment, "root", "s3://far/artifacts")
        client = client_of(copied)
        text = shown(client, "/compare", name="ag-news")
        assert "refresh" in text
        ends = time.monotonic() + 20
        while "refresh" in text:
            assert time.monotonic() < ends
            time.sleep(0.2)
            text = shown(client, "/compare", name="ag-news")
        assert "Not all of it can be read" in text
