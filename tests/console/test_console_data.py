"""The page of what a model learnt from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from benchmarks.deployment import Deployment, History
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.chain import INGEST
from retrainer.chain.steps.ingest import Ingested
from retrainer.console.host import Everybody
from retrainer.records import digest_of
from retrainer.spec.model import Pipeline
from retrainer.work.ingest import ingest
from retrainer.work.reporter import Reporter
from tests.console.asking import EVIL, TEXT, content, shown

ClientOf = Callable[..., TestClient]


class Learnt(History):
    """Nights on a snapshot that is there already."""

    snapshot = ""

    def _made_of(self, name: str) -> dict[str, str]:
        return {"ingest": self.snapshot}


def ingested(deployment: Deployment, task: str, content: str, **dataset: Any) -> str:
    """A snapshot of these rows, by the ingest step's own code."""
    file = deployment.folder / f"{task}.csv"
    file.write_text(content)
    spec = Pipeline.model_validate(
        {
            "name": "real",
            "task": task,
            "dataset": {
                "train": str(file),
                "checks": {"min_rows": 5, "min_rows_per_label": 1, "max_null_fraction": 0.5},
                **dataset,
            },
            "model": {"base": "a-base"},
            "publish": {"store": str(deployment.store)},
        }
    )
    artifacts, identity = Artifacts(deployment.root), INGEST.identity({"rows": content})
    digest = digest_of(identity)
    with artifacts.staging("ingest", digest) as staging:
        statistics = ingest(spec, staging, Reporter())
        output = Ingested.of(statistics).model_dump(mode="json")
        artifacts.commit(
            staging,
            step="ingest",
            digest=digest,
            identity=identity,
            inputs={},
            output=output,
            created_at="2026-11-01T00:00:00+00:00",
        )
    return digest


def learnt(deployment: Deployment, snapshot: str, name: str = "real") -> None:
    """A model that was decided about on a snapshot."""
    gate = deployment.add(name).gate
    made = Learnt(deployment.folder, name, gate, store=deployment.store, root=deployment.root)
    made.snapshot = snapshot
    made.at(deployment.now, "one", 100, seed=1)


def test_the_newest_is_shown_and_all_are_listed(client: TestClient, made: Deployment) -> None:
    page = content(client, "/data", name="ag-news")
    challengers = content(client, "/model", name="ag-news")["challengers"]
    assert [one["uses"][0]["decision"] for one in page["snapshots"]] == [one["decision"] for one in challengers]
    assert page["shown"]["digest"] == page["snapshots"][0]["digest"]
    file = Path(made.root, "ingest", page["shown"]["digest"], "statistics.json")
    statistics = SnapshotStatistics.model_validate_json(file.read_bytes())
    assert SnapshotStatistics.model_validate(page["shown"]["statistics"]) == statistics
    text = shown(client, "/data", name="ag-news")
    for label in statistics.labels:
        train = statistics.splits["train"]
        assert f"{100 * train.label_counts[label] / train.rows:.1f} %" in text
    for piece in ("Over time", "the same text also has another label", "train in test", "not counted", "articles.csv"):
        assert piece in text


def test_one_of_them_by_its_digest_and_how_it_moved(client: TestClient) -> None:
    page = content(client, "/data", name="film-reviews")
    oldest = page["snapshots"][-1]["digest"]
    text = shown(client, "/data", name="film-reviews", snapshot=oldest)
    champion = page["champion"]["digest"]
    assert f'The champion learnt from <a href="data?snapshot={champion}' in text
    assert re.search(r"champion&#39;s train|champion's train", text)
    assert "+5.0" in text  # of World: 66 % then, 61 % of the champion's rows
    newest = shown(client, "/data", name="film-reviews")
    assert "Sports 0.2 -&gt; 0.5" in newest
    assert "The champion learnt from it." in newest


def test_texts_are_for_those_who_may_read_logs(made: Deployment, client_of: ClientOf) -> None:
    allowed, others = client_of(made), client_of(made, Everybody(texts=False))
    assert TEXT.search(shown(allowed, "/data", name="ag-news"))
    for asked in (shown(others, "/data", name="ag-news"), json.dumps(content(others, "/data", name="ag-news"))):
        assert not TEXT.search(asked)
        assert "task logs of retrain__ag_news" in asked
    assert content(others, "/data", name="ag-news")["shown"]["statistics"]["quarantined"]


def test_what_was_removed_is_said(copied: Deployment, client_of: ClientOf) -> None:
    page = content(client_of(copied), "/data", name="ag-news")
    newest, second = (one["digest"] for one in page["snapshots"][:2])
    shutil.rmtree(f"{copied.root}/ingest/{second}")
    shutil.rmtree(f"{copied.root}/train/{page['receipt']['digests']['train']}")
    client = client_of(copied)
    again = content(client, "/data", name="ag-news")
    assert again["shown"]["digest"] == newest
    assert again["cut"] == {}
    assert f"no ingest artifact {second[:12]}" in again["snapshots"][1]["problem"]
    assert f"no ingest artifact {second[:12]}" in shown(client, "/data", name="ag-news", snapshot=second)


def test_damage_is_said(copied: Deployment, client_of: ClientOf) -> None:
    newest = content(client_of(copied), "/data", name="ag-news")["shown"]["digest"]
    file = Path(copied.root, "ingest", newest, "statistics.json")
    file.write_text(file.read_text().replace("articles", "articels"))
    page = content(client_of(copied), "/data", name="ag-news")
    assert page["shown"]["statistics"] is None
    assert "damaged" in page["shown"]["problem"]


def test_nothing_yet(client: TestClient) -> None:
    assert content(client, "/data", name="first-steps")["snapshots"] == []
    assert "No decision about first-steps" in shown(client, "/data", name="first-steps")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "..", "0" * 63, "0" * 64, f"{'0' * 64}/..", "\x00", EVIL])
def test_no_address_leads_out_of_the_artifacts(client: TestClient, name: str) -> None:
    for query in ({"snapshot": name}, {"decision": name, "snapshot": "0" * 64}):
        answer = client.get("/data", params={"name": "ag-news", **query})
        assert answer.status_code == 404
        assert EVIL not in answer.text


def test_a_snapshot_of_another_model_is_not_there(client: TestClient) -> None:
    theirs = content(client, "/data", name="support-tickets")["shown"]
    query = {"name": "ag-news", "snapshot": theirs["digest"]}
    assert client.get("/data", params=query).status_code == 404
    assert client.get("/data", params={**query, "decision": theirs["uses"][0]["decision"]}).status_code == 404


def test_a_receipt_that_names_no_artifact_leads_nowhere(copied: Deployment, client_of: ClientOf) -> None:
    learnt(copied, "../../../../etc")
    client = client_of(copied)
    assert content(client, "/data", name="real")["snapshots"] == []
    assert "No decision about real" in shown(client, "/data", name="real")


# Snapshots as the step leaves them


def test_a_real_snapshot(copied: Deployment, client_of: ClientOf) -> None:
    rows = [f"trail number {number} is {'open' if number % 3 else 'closed'},{number % 3 > 0}" for number in range(60)]
    rows += [rows[0], ",True", f'"{EVIL}",False', f'"{EVIL}",True', "no label at all,"]
    learnt(copied, ingested(copied, "text-classification", "\n".join(["text,label", *rows])))
    client = client_of(copied)
    page = content(client, "/data", name="real")
    assert page["shown"]["statistics"]["quarantined"] == {
        "missing_text": 1,
        "missing_label": 1,
        "conflicting_labels": 2,
    }
    assert {one["text"] for one in page["set_aside"] if one["reason"] == "conflicting_labels"} == {EVIL}
    text = shown(client, "/data", name="real")
    assert EVIL not in text
    assert "&lt;script&gt;" in text
    assert "(none)" in text
    # The test rows of this deployment are others, so their texts are gone from the comparison's point of view.
    assert shown(client, "/compare", name="real")


def test_any_number_of_labels(copied: Deployment, client_of: ClientOf) -> None:
    choices = ("mud", "mud;trees", "", "trees;ice")
    rows = [f"trail report number {number},{choices[number % 4]}" for number in range(80)]
    content_of = "\n".join(["text,label", *rows])
    learnt(copied, ingested(copied, "multi-label-classification", content_of, label_separator=";"))
    text = shown(client_of(copied), "/data", name="real")
    assert "labels on average" in text
    assert "training rows have none" in text


def test_models_that_write_text_have_no_labels(copied: Deployment, client_of: ClientOf) -> None:
    rows = [f"what comes after {number},{number + 1} it is" for number in range(60)]
    columns = {"text": "model_input", "label": "model_output"}
    content_of = "\n".join(["model_input,model_output", *rows])
    learnt(copied, ingested(copied, "text2text-generation", content_of, **columns))
    page = content(client_of(copied), "/data", name="real")
    assert page["shown"]["statistics"]["labels"] == []
    text = shown(client_of(copied), "/data", name="real")
    assert 'id="labels"' not in text
    assert "Over time" in text
