"""Runs that are asked to do something otherwise than their file says, and what is told of them; with ``dag.test()``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retrainer.artifacts.repository import Artifacts
from retrainer.audit.check import check_receipt
from retrainer.audit.locate import find_receipt
from retrainer.store import Store
from tests.airflow.harness import DagRunResult, Project

RunDag = Callable[..., DagRunResult]
NOTIFIER = "tests.airflow.file_notifier"


def told(file: Path, kind: str = "FileNotifier") -> dict[str, Any]:
    return {"notifier": f"{NOTIFIER}.{kind}", "arguments": {"file": str(file)}}


def test_what_a_run_changes_is_done_and_stands_everywhere(
    project: Project, run_dag: RunDag, small_artifacts: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_artifacts, project.artifacts)
    heard = tmp_path / "heard.txt"
    project.write(notify={"on_published": [told(heard, "Broken"), told(heard)]})
    asked = {"epochs": 1, "train_rows": 60, "channel": "staging", "note": "half\nof it | <b>"}

    # Everything but publishing.
    dry = run_dag(project, params={**asked, "dry_run": True})

    assert dry.states()["publish"] == "skipped", dry.output
    assert "the gate promotes it, and nothing is published: this is a dry run" in dry.output
    assert Store.open(str(project.store)).models() == []
    assert not heard.exists()
    (decision,) = dry.events
    assert decision["name"] == f"retrainer/{project.content['name']}/decisions"
    assert (decision["extra"]["verdict"], decision["extra"]["dry_run"]) == ("promote", True)
    assert dry.xcoms["train"]["return_value"]["reused"] is False
    assert dry.xcoms["train"]["return_value"]["output"]["epochs"] == 1
    assert dry.xcoms["ingest"]["return_value"]["output"]["rows"]["train"] == 60

    # What it did is used by the run that means it.
    result = run_dag(project, params=asked)

    assert result.states()["publish"] == "success", result.output
    ids = {dry.xcoms["gate"]["return_value"]["digest"], result.xcoms["gate"]["return_value"]["digest"]}
    assert len(ids) == 1
    model = Store.open(str(project.store)).model(project.content["name"])
    assert model.newest_move("production") is None
    (move,) = model.history("staging")
    words = (
        "training.num_train_epochs 1 instead of 2; dataset.train_rows 60 instead of all; "
        "publish.channel staging instead of production"
    )
    assert move.reason.endswith(f"; {words}; note: half of it | <b>")
    # Of the channel that moved, and not of the one that did not.
    assert [event["name"] for event in result.events] == [f"retrainer/{project.content['name']}/staging"]
    assert result.events[0]["extra"]["changes"] == move.reason.split("; ")[1:]
    # Who fails to tell undoes nothing, and is in the log.
    assert heard.read_text().startswith("published: ")
    assert "nobody listens" in result.output

    newest = max((project.artifacts / "runs").iterdir())
    record = json.loads((newest / "run.json").read_text())["changes"]
    assert [one["key"] for one in record["values"]] == [
        "training.num_train_epochs",
        "dataset.train_rows",
        "publish.channel",
    ]
    digest = ids.pop()
    folder = Artifacts(project.artifacts).fetch("decide", digest)
    receipt = json.loads((folder / "receipt.json").read_text())
    assert [one["now"] for one in receipt["changes"]["values"]] == [1, 60, "staging"]
    assert receipt["changes"]["note"] == ""
    assert "training.num_train_epochs 1 instead of 2" in (folder / "report.html").read_text()
    checked = check_receipt(find_receipt(str(folder / "receipt.json")), ledger=model.ledger, decision=digest)
    assert checked.holds, checked.problems


def test_a_refusal_is_told_once_and_a_run_can_be_forced(
    project: Project, run_dag: RunDag, small_artifacts: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_artifacts, project.artifacts)
    heard = tmp_path / "heard.txt"
    project.write(
        # Forty rows prove no such accuracy, whatever they say.
        gate={"floors": {"accuracy": 1.0}, "confident": True, "baseline": "report"},
        notify={"on_refused": [told(heard)], "on_published": [told(heard)]},
    )

    first = run_dag(project)

    assert first.states()["publish"] == "skipped", first.output
    (event,) = first.events
    assert event["name"] == f"retrainer/{project.content['name']}/decisions"
    assert event["uri"] == f"{project.store.as_uri()}/{project.content['name']}/decisions"
    (reason,) = event["extra"]["reasons"]
    assert event["extra"]["verdict"] == "refuse"
    assert reason["code"] in {"floor_missed", "floor_not_confident"}
    assert reason["detail"] in event["extra"]["text"]
    assert first.xcoms["gate"]["decision"] == event["extra"]
    assert heard.read_text().splitlines() == [f"refused: {event['extra']['text']}"]

    # The same again is no news,
    second = run_dag(project)
    assert second.events == []
    assert second.xcoms["gate"]["decision"]["reasons"] == event["extra"]["reasons"]
    # but for whoever wants everything done again.
    forced = run_dag(project, params={"force": True})
    assert len(forced.events) == 1, forced.output
    assert len(heard.read_text().splitlines()) == 2
    for step in ("ingest", "train", "export", "evaluate", "gate"):
        assert second.xcoms[step]["return_value"]["reused"] is True
        assert forced.xcoms[step]["return_value"]["reused"] is False
        assert forced.xcoms[step]["return_value"]["digest"] != second.xcoms[step]["return_value"]["digest"]


def test_a_dag_made_by_hand_has_the_form_and_makes_the_events(
    project: Project, run_dag: RunDag, small_artifacts: Path
) -> None:
    shutil.copytree(small_artifacts, project.artifacts)
    result = run_dag(project, dag_id="by_hand", params={"note": "by hand", "channel": "staging"})

    assert result.state == "success", result.output
    name = project.content["name"]
    assert sorted(event["name"] for event in result.events) == [
        f"retrainer/{name}/decisions",
        f"retrainer/{name}/staging",
    ]
    (move,) = Store.open(str(project.store)).model(name).history("staging")
    assert move.reason.endswith("publish.channel staging instead of production; note: by hand")
