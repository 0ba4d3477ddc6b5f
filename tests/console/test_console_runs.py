"""What the page of a run says happened in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from benchmarks.deployment import Deployment, FolderHost
from retrainer.chain import DECIDE, StepRef
from retrainer.chain.requests import Unchanged
from retrainer.console import app as console
from retrainer.console.host import Answer, Everybody, Question, RunSeen, TaskSeen
from retrainer.console.run import RunPage, move_page, retrain_page
from retrainer.gate.receipt import Receipt
from retrainer.spec.changes import Changes

NOW = datetime(2026, 11, 27, 9, 30, tzinfo=UTC)
DAG = "retrain__ag_news"
PUBLISHED = {
    "version": "a" * 16,
    "channel": "production",
    "moved": True,
    "previous": "b" * 16,
    "sequence": 2,
    "store": "/models",
    "model": "ag-news",
    "precisions": ["fp32"],
    "metrics": {"accuracy": 0.9},
    "decision": "d" * 64,
    "move": "e" * 64,
    "sent_bytes": 1,
    "copied_bytes": 0,
    "signed_by": None,
}


def task(name: str, state: str | None, **more: Any) -> TaskSeen:
    began = NOW - timedelta(minutes=5) if state not in (None, "skipped", "upstream_failed", "scheduled") else None
    tries = more.pop("tries", 1 if began else 0)
    return TaskSeen(name, name, state, began=began, ended=NOW if state == "success" else None, tries=tries, **more)


def run_of(state: str, *tasks: TaskSeen, **more: Any) -> RunSeen:
    return RunSeen(DAG, "r1", state, began=NOW - timedelta(minutes=6), tasks=tasks, **more)


def page_of(seen: RunSeen, **more: Any) -> RunPage:
    options = {"may_read_logs": True, **more}
    return retrain_page("ag-news", "production", seen, options.pop("waiting", ()), NOW, **options)


def ref(step: str, output: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    made = StepRef(step=step, digest="d" * 64, root="/artifacts", reused=False, output=dict(output), **more)
    return made.model_dump(mode="json")


@pytest.fixture(scope="module")
def decided(made: Deployment) -> dict[str, dict[str, Any]]:
    """Of a refusal and of a promotion, what the gate hands on."""
    found = {}
    for folder in (made.folder / "artifacts" / "decide").iterdir():
        receipt = Receipt.from_json((folder / "receipt.json").read_bytes(), where=str(folder))
        found[str(receipt.verdict)] = DECIDE.output.of(receipt).model_dump(mode="json")
    return found


def test_a_refusal_says_why(decided: dict[str, dict[str, Any]]) -> None:
    gate = task("gate", "success", returned=ref("decide", decided["refuse"]))
    page = page_of(run_of("success", task("train", "success"), gate, task("publish", "skipped")))
    reasons = decided["refuse"]["reasons"]
    assert page.told.level == "warn"
    assert f"for {len(reasons)} reason" in page.told.headline
    assert [reason.detail for reason in page.told.reasons] == [reason["detail"] for reason in reasons]
    assert page.decision == "d" * 64
    assert not page.goes_on


def test_a_publication_says_what_is_served_and_who_approved() -> None:
    answer = Answer(("Approve",), NOW, "ada", "seen by two")
    asked = Question(DAG, "r1", "approval", "Publish?", NOW, answer=answer)
    publish = task("publish", "success", returned=ref("publish", PUBLISHED))
    page = page_of(run_of("success", publish, questions=(asked,)))
    assert page.told.headline == f"Published: production serves version {'a' * 16}"
    assert page.told.sentences == ("It served bbbbbbbb before. ada approved it: “seen by two”.",)
    assert page.version == "a" * 16
    again = page_of(
        run_of("success", task("publish", "success", returned=ref("publish", {**PUBLISHED, "moved": False})))
    )
    assert again.told.headline == f"production already serves version {'a' * 16}"


@pytest.mark.parametrize(
    ("answer", "changes", "said"),
    [
        (None, Changes(dry_run=True), "a dry run"),
        (None, Changes(), "Somebody rejected this very decision in a run before"),
        (Answer(("Reject",), NOW, "ada", "sports look odd"), Changes(), "ada rejected it: “sports look odd”"),
        (Answer(("Reject",), NOW, None), Changes(), "Nobody answered in time"),
    ],
)
def test_why_a_promoted_challenger_was_not_published(
    decided: dict[str, dict[str, Any]], answer: Answer | None, changes: Changes, said: str
) -> None:
    gate = task("gate", "success", returned=ref("decide", decided["promote"], changes=changes))
    asked = (Question(DAG, "r1", "approval", "Publish?", NOW, answer=answer),) if answer else ()
    page = page_of(run_of("success", gate, task("publish", "skipped"), questions=asked))
    assert said in page.told.sentences[0]
    assert page.told.level == "note"


def test_an_unchanged_run_says_so() -> None:
    unchanged = Unchanged(version="a" * 16, channel="production", metrics={})
    gate = task("gate", "success", returned={**ref("decide", {}, unchanged=unchanged), "digest": ""})
    page = page_of(run_of("success", gate, task("publish", "skipped")))
    assert page.told.headline == f"Nothing changed: version {'a' * 16}"
    assert page.decision is None


def test_a_failure_says_why_to_those_who_may_read_logs() -> None:
    kept = {"problem": {"text": "train.csv: no such column 'label'", "try": 2}}
    seen = run_of("failed", task("ingest", "failed", tries=2, kept=kept), task("train", "upstream_failed"))
    page = page_of(seen)
    assert (page.told.level, page.told.headline) == ("bad", "Failed in ingest")
    assert page.told.sentences == ("train.csv: no such column 'label'",)
    assert [part.words for part in page.parts] == ["failed", "did not begin: a task before it failed"]
    hidden = page_of(seen, may_read_logs=False)
    assert "label" not in hidden.to_json().decode()
    assert "you may not read that" in hidden.told.sentences[0]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({}, "It ended without a word: it was stopped, or its machine was. Its log is what is left."),
        ({"problem": {"text": "disk full", "try": 1}}, "What try 1 failed with: disk full"),
        ({"problem": "of another version"}, "It ended without a word"),
    ],
)
def test_a_task_that_was_killed_left_no_word(kept: dict[str, Any], said: str) -> None:
    page = page_of(run_of("failed", task("train", "failed", tries=2, kept=kept)))
    assert said in page.told.sentences[0]


def test_a_run_that_took_too_long() -> None:
    page = page_of(run_of("failed", task("train", "skipped")))
    assert "dag.run_timeout" in page.told.sentences[0]


def test_a_running_training_says_how_far_it_is() -> None:
    progress = {"text": "training: step 30/40, 12 s left, loss 0.2", "done": 30, "total": 40}
    kept = {"progress": progress, "checkpoint": "checkpoint-20", "run_folder": "/artifacts/runs/one"}
    page = page_of(run_of("running", task("train", "running", kept=kept), task("export", None)))
    assert (page.told.level, page.told.sentences) == ("note", ("training: step 30/40, 12 s left, loss 0.2",))
    train, export = page.parts
    assert train.how_far is not None
    assert (train.how_far.fraction, train.checkpoint, export.words) == (0.75, "checkpoint-20", "to come")
    assert (page.run_folder, page.goes_on) == ("/artifacts/runs/one", True)


@pytest.mark.parametrize(
    "progress", [None, "text", {"text": "x", "done": 1, "total": 0}, {"text": "x", "done": "1"}, {"done": 1}]
)
def test_progress_that_cannot_be_read_is_not_drawn(progress: Any) -> None:
    page = page_of(run_of("running", task("train", "running", kept={"progress": progress})))
    (part,) = page.parts
    assert part.how_far is None or part.how_far.fraction is None


def test_what_a_run_waits_for() -> None:
    waits = page_of(run_of("running", task("train", "scheduled", pool="gpu_pool")))
    assert waits.told.headline == "train waits for a worker, or for a place in the pool gpu_pool"
    retried = page_of(
        run_of("running", task("train", "up_for_retry", kept={"problem": {"text": "no answer", "try": 1}}))
    )
    assert (retried.told.headline, retried.told.sentences) == ("train failed, and is tried again", ("no answer",))
    queued = page_of(replace(run_of("queued"), queued=NOW))
    assert queued.told.headline == "Waits to begin since 27 Nov 2026, 09:30 UTC"


def test_what_another_version_left_is_no_error() -> None:
    returned = {"step": "decide", "digest": "d" * 64, "root": "/", "reused": False, "output": {"old": 1}}
    page = page_of(run_of("success", task("gate", "success", returned=returned), task("x", "success", returned=[1])))
    assert page.told.headline == "The run succeeded, and nothing was decided in it"


def moved(state: str, task_seen: TaskSeen) -> RunPage:
    conf = {"pipeline": "ag-news", "action": "rollback", "channel": "production", "cause": "incident", "reason": "odd"}
    return move_page(replace(run_of(state, task_seen), dag_id="operate_models", conf=conf), NOW, may_read_logs=True)


def test_a_move_by_hand_says_what_is_served() -> None:
    returned = {"version": "a" * 16, "previous": "b" * 16, "moved": True}
    page = moved("success", task("move_channel", "success", returned=returned))
    assert page.told.headline == f"production of ag-news now serves version {'a' * 16}"
    assert page.asked == ("rollback production", "cause: incident", "reason: odd")
    kept = {"problem": {"text": "the version cannot be loaded", "try": 1}}
    failed = moved("failed", task("move_channel", "failed", kept=kept))
    assert failed.told.headline == "production of ag-news was not moved"
    assert failed.told.sentences == ("the version cannot be loaded",)


# As pages


def client_of(made: Deployment, *several: RunSeen, visitor: Everybody | None = None) -> TestClient:
    host = FolderHost(made)
    host.seen = {one.run_id: one for one in several}
    return TestClient(console.console_app(host, lambda: visitor or Everybody()), follow_redirects=False)


def test_a_run_is_shown_to_those_who_see_its_model(made: Deployment, decided: dict[str, dict[str, Any]]) -> None:
    text = "<script>alert('x')</script>"
    kept = {"problem": {"text": text, "try": 1}}
    seen = run_of("failed", task("train", "failed", kept=kept), note=text)
    query = {"dag_id": DAG, "run_id": "r1"}
    page = client_of(made, seen).get("/run", params=query)
    assert page.status_code == 200
    assert text not in page.text
    assert 'http-equiv="refresh"' not in page.text
    hidden = Everybody(hidden=frozenset({DAG, "operate_models"}))
    assert client_of(made, seen, visitor=hidden).get("/run", params=query).status_code == 404
    assert client_of(made).get("/run", params=query).status_code == 404
    move = replace(seen, dag_id="operate_models", conf={"pipeline": "ag-news"})
    at = {"dag_id": "operate_models", "run_id": "r1"}
    assert client_of(made, move).get("/run", params=at).status_code == 200
    for kept_from in ({DAG}, {"operate_models"}):  # neither the model nor the DAG alone is enough
        visitor = Everybody(hidden=frozenset(kept_from))
        assert client_of(made, move, visitor=visitor).get("/run", params=at).status_code == 404
