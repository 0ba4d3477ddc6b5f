"""What the pages say, of a store as publishers and deciders leave it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from benchmarks.deployment import Deployment
from retrainer.chain.accounts import write_answer
from retrainer.console.host import Everybody
from retrainer.console.stores import Stores
from retrainer.gate.receipt import Receipt
from retrainer.storage import open_storage
from retrainer.store import Cause, Store
from retrainer.store.summary import DecayNote, Figure, read_summary
from tests.console.asking import EVIL, TEXT, content, shown

ClientOf = Callable[..., TestClient]


def decision_of(client: TestClient, model: str, number: int = 0) -> str:
    return str(content(client, "/model", name=model)["challengers"][number]["decision"])


def test_the_worst_comes_first(client: TestClient) -> None:
    rows = content(client, "/")["rows"]
    assert [(row["model"], row["channel"], row["health"]["level"]) for row in rows] == [
        ("film-reviews", "production", "bad"),
        ("support-tickets", "production", "warn"),
        ("trail-status", "production", "warn"),
        ("ag-news", "production", "note"),
        ("first-steps", "production", "note"),
        ("ag-news", "staging", "good"),
        ("paraphrases", "production", "good"),
    ]
    signs = {
        row["model"]: [sign["text"] for sign in row["health"]["signs"]] for row in rows if row["model"] != "ag-news"
    }
    assert "the last run failed 2 hours ago; last success 4 days ago" in signs["film-reviews"]
    assert "the last 4 challengers were refused" in signs["support-tickets"]
    assert any("paused" in text for text in signs["trail-status"])
    page = shown(client, "/")
    assert page.index("film-reviews") < page.index("support-tickets") < page.index("ag-news")


def test_a_row_says_who_is_champion_since_when_and_why_the_last_was_refused(
    client: TestClient, made: Deployment
) -> None:
    rows = {row["model"]: row for row in content(client, "/")["rows"] if row["channel"] == "production"}
    newest = Store.open(made.store).model("trail-status").newest_move("production")
    assert newest is not None
    row = rows["trail-status"]
    assert (row["champion"], row["since"], row["by"], row["cause"], row["action"]) == (
        newest.to_version,
        newest.at,
        "linus",
        "regression",
        "rollback",
    )
    refused = rows["support-tickets"]["refusal"]
    assert refused["codes"] == ["worse_than_champion", "slice_worse"]
    assert refused["texts"][0].startswith("accuracy differs by -0.1083")
    points = rows["support-tickets"]["points"]
    assert [point["live"] for point in points] == [True, True, False, False, False, False]
    assert all(point["figure"]["low"] < point["figure"]["value"] < point["figure"]["high"] for point in points)


def test_a_search_keeps_what_is_called_so(client: TestClient) -> None:
    assert {row["model"] for row in content(client, "/", q="NEWS")["rows"]} == {"ag-news"}
    assert "No model is called like" in shown(client, "/", q="nothing of that name")


def test_without_a_summary_the_log_and_the_ledger_say_the_same(copied: Deployment, client_of: ClientOf) -> None:
    def rows() -> Any:
        found = content(client_of(copied), "/")["rows"]
        return {(row["model"], row["channel"]): row for row in found}

    written = rows()
    for file in copied.store.glob("*/summary.json"):
        file.unlink()
    made_anew = rows()
    assert made_anew.keys() == written.keys()
    for key, row in written.items():
        same = ("champion", "since", "by", "cause", "metric")
        assert {name: made_anew[key][name] for name in same} == {name: row[name] for name in same}
    assert made_anew["support-tickets", "production"]["refusal"]["codes"] == ["worse_than_champion", "slice_worse"]
    assert not list(copied.store.glob("*/summary.json"))  # who looks writes nothing


def test_a_model_has_its_moves_and_challengers(client: TestClient, made: Deployment) -> None:
    page = content(client, "/model", name="trail-status")
    moves = Store.open(made.store).model("trail-status").history("production")
    assert [move["sequence"] for move in page["moves"]] == [move.sequence for move in moves]
    assert page["moves"][0]["reason"] == "says OPEN for every trail after rain"
    versions = [stretch["version"] for stretch in page["stretches"]]
    assert versions == [move.to_version for move in reversed(moves)]
    assert [stretch["until"] for stretch in page["stretches"]] == [*[move.at for move in reversed(moves)][1:], None]
    assert [one["live_as"] for one in page["challengers"]] == [move.to_version for move in moves[1:]]
    assert page["origin"]["version"] == moves[0].to_version
    text = shown(client, "/model", name="trail-status")
    assert "says OPEN for every trail after rain" in text
    assert text.count("<title>") > 6  # of the page, of each band and dot


@pytest.mark.parametrize(("day", "number"), [("2026-10-20", 0), ("2026-10-28", 1), ("2026-11-26", 3)])
def test_who_was_live_on_that_day(client: TestClient, made: Deployment, day: str, number: int) -> None:
    moves = Store.open(made.store).model("trail-status").history("production")[::-1]
    found = content(client, "/model", name="trail-status", on=day)["live_on"]
    assert found["move"]["sequence"] == moves[number].sequence
    assert f"At the end of {day} <code>{moves[number].to_version}</code> was live" in shown(
        client, "/model", name="trail-status", on=day
    )


def test_before_the_first_publication_nothing_was_live(client: TestClient) -> None:
    assert content(client, "/model", name="trail-status", on="2020-01-01")["live_on"]["move"] is None
    assert client.get("/model", params={"name": "trail-status", "on": "yesterday"}).status_code == 422


def test_a_decision_is_its_receipt(client: TestClient, made: Deployment) -> None:
    digest = decision_of(client, "support-tickets")
    page = content(client, "/decision", name="support-tickets", decision=digest)
    written = client.get("/receipt.json", params={"name": "support-tickets", "decision": digest})
    receipt = Receipt.from_json(written.content, where="receipt")
    assert Receipt.model_validate(page["receipt"]) == receipt
    text = shown(client, "/decision", name="support-tickets", decision=digest)
    for reason in receipt.reasons:
        assert reason.detail.replace("'", "&#39;") in text
    assert f"retrainer verify {made.root}/decide/{digest} --ledger {made.store}" in text
    assert page["receipt_sha256"] in text
    for piece in ("Slices", "Rows that flipped", "Budgets", "challenger minus champion", "by Holm"):
        assert piece in text


def test_the_command_of_a_decision_verifies_it(client: TestClient) -> None:
    from typer.testing import CliRunner

    from retrainer.cli import app

    digest = decision_of(client, "support-tickets")
    (command,) = content(client, "/decision", name="support-tickets", decision=digest)["verify"]
    result = CliRunner().invoke(app, command.split()[1:])
    assert result.exit_code == 0, result.output


def test_a_decision_that_went_live_names_the_version(client: TestClient) -> None:
    page = content(client, "/model", name="paraphrases")
    (one,) = page["challengers"]
    decision = content(client, "/decision", name="paraphrases", decision=one["decision"])
    assert decision["place"]["live_as"] == page["champion"] == one["live_as"]


# Who may see texts


def test_texts_are_for_those_who_may_read_logs(made: Deployment, client_of: ClientOf) -> None:
    allowed, others = client_of(made), client_of(made, Everybody(texts=False))
    query = {"name": "support-tickets", "decision": decision_of(allowed, "support-tickets")}
    assert TEXT.search(shown(allowed, "/decision", **query))
    assert TEXT.search(str(content(allowed, "/decision", **query)))
    assert not TEXT.search(shown(others, "/decision", **query))
    assert not TEXT.search(str(content(others, "/decision", **query)))
    assert "task logs of retrain__support_tickets" in shown(others, "/decision", **query)
    assert content(others, "/decision", **query)["flips"]["counts"]["harmful"] == 130  # numbers are for all
    assert allowed.get("/report.html", params=query).status_code == 200
    assert others.get("/report.html", params=query).status_code == 403
    assert others.get("/decision", params={**query, "view": "report"}).status_code == 403


def test_a_pipeline_that_shows_no_texts_shows_none(copied: Deployment, client_of: ClientOf) -> None:
    from benchmarks.deployment import GATE

    quiet = copied.add("quiet", {**GATE, "report_texts": False})
    quiet.at(copied.now, "one", 100, seed=1)
    quiet.at(copied.now, "two", 200, seed=1)
    client = client_of(copied)
    query = {"name": "quiet", "decision": decision_of(client, "quiet")}
    page = content(client, "/decision", **query)
    assert page["flips"]["counts"]["harmful"] == 100
    assert not page["texts"]
    assert not TEXT.search(str(page) + shown(client, "/decision", **query))
    assert client.get("/report.html", params=query).status_code == 200  # the decide step left texts out of it


def test_a_model_of_a_dag_that_may_not_be_read_is_not_there(made: Deployment, client_of: ClientOf) -> None:
    hidden = client_of(made, Everybody(hidden=frozenset({"retrain__ag_news"})))
    page = content(hidden, "/")
    assert page["hidden"] == 1
    assert "ag-news" not in {row["model"] for row in page["rows"]}
    digest = decision_of(client_of(made), "ag-news")
    for address in ("/model", "/decision", "/report.html", "/receipt.json"):
        assert hidden.get(address, params={"name": "ag-news", "decision": digest}).status_code == 404
    assert hidden.get("/dag", params={"dag_id": "retrain__ag_news"}).status_code == 404


# What comes from people and data


def test_what_people_wrote_is_shown_as_they_wrote_it(copied: Deployment, client_of: ClientOf) -> None:
    model = Store.open(copied.store).model("ag-news")
    model.rollback("production", actor=EVIL, reason=f"{EVIL} & more", cause=Cause.OTHER)
    client = client_of(copied)
    for page in (shown(client, "/"), shown(client, "/model", name="ag-news", on=f"{copied.now:%Y-%m-%d}")):
        assert EVIL not in page
        assert "&lt;script&gt;alert(" in page
    assert EVIL not in shown(client, "/", q=EVIL)
    error = client.get("/model", params={"name": EVIL})
    assert error.status_code == 404
    assert EVIL not in error.text


def test_what_the_data_says_is_shown_as_it_is(copied: Deployment, client_of: ClientOf) -> None:
    from benchmarks.deployment import History

    class Evil(History):
        names = (EVIL, 'Sports" onload="x')

    evil = Evil(copied.folder, "film-reviews", copied.add("film-reviews").gate, store=copied.store, root=copied.root)
    evil.at(copied.now, "evil", 300, seed=5)
    client = client_of(copied)
    digest = decision_of(client, "film-reviews")
    text = shown(client, "/decision", name="film-reviews", decision=digest)
    assert EVIL not in text
    assert 'Sports" onload' not in text
    assert "&lt;script&gt;" in text
    for page in (text, shown(client, "/model", name="film-reviews"), shown(client, "/")):
        assert re.findall(r"<script[^>]*>", page) == ['<script src="console.js">']


@pytest.mark.parametrize(
    "decision", ["../../../etc/passwd", "..", "0" * 63, "0" * 64, f"{'0' * 64}/../..", "\x00", EVIL, "%2e%2e"]
)
def test_no_address_leads_out_of_the_artifacts(client: TestClient, decision: str) -> None:
    for page in ("/decision", "/report.html", "/receipt.json"):
        assert client.get(page, params={"name": "ag-news", "decision": decision}).status_code == 404


def test_what_a_person_said_stands_in_the_decision(copied: Deployment, client_of: ClientOf) -> None:
    client = client_of(copied)
    digest = decision_of(client, "ag-news")
    assert content(client, "/decision", name="ag-news", decision=digest)["answer"] is None
    ledger = Store.open(copied.store).model("ag-news").ledger
    write_answer(ledger, digest, answer="reject", reason=f"sports look odd {EVIL}", actor="ada", run="manual__1")
    again = client_of(copied)
    said = content(again, "/decision", name="ag-news", decision=digest)["answer"]
    assert (said["actor"], said["event"]["answer"], said["run"]) == ("ada", "reject", "manual__1")
    page = shown(again, "/decision", name="ag-news", decision=digest)
    assert "ada rejected it" in page
    assert "sports look odd" in page
    assert EVIL not in page


def test_a_decision_of_another_model_is_not_there(client: TestClient) -> None:
    digest = decision_of(client, "support-tickets")
    for page in ("/decision", "/report.html", "/receipt.json"):
        assert client.get(page, params={"name": "ag-news", "decision": digest}).status_code == 404


@pytest.mark.parametrize("channel", ["../production", "nope", "", "A"])
def test_a_channel_that_is_not_there(client: TestClient, channel: str) -> None:
    assert client.get("/model", params={"name": "ag-news", "channel": channel}).status_code == 404


def test_the_report_may_do_nothing_but_show_itself(client: TestClient) -> None:
    query = {"name": "support-tickets", "decision": decision_of(client, "support-tickets")}
    answer = client.get("/report.html", params=query)
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    policy = client.get("/").headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


# Links


def test_every_link_is_relative_and_leads_somewhere(client: TestClient) -> None:
    seen, todo = set(), {"./"}
    while todo:
        page = todo.pop()
        seen.add(page)
        answer = client.get(f"/{page.removeprefix('./')}")
        assert answer.status_code == 200, page
        links = set(re.findall(r'(?:href|src|action)="([^"#]*)(?:#[^"]*)?"', answer.text)) - {""}
        links = {link.replace("&amp;", "&") for link in links} - {
            "model",
            "compare",
        }  # where a form goes, with what was filled in
        assert not {link for link in links if link.startswith(("http", "//"))}
        outside = {link for link in links if link.startswith("/")}
        assert all(link.startswith("/dags/") for link in outside)  # Airflow's own pages
        if answer.headers["content-type"].startswith("text/html"):
            todo |= {link for link in links - outside - seen if not link.startswith("data:")}
    assert len(seen) > 20


def test_a_dag_leads_to_its_model_and_a_run_to_what_happened(client: TestClient) -> None:
    answer = client.get("/dag", params={"dag_id": "retrain__ag_news", "theme": "dark"})
    assert (answer.status_code, answer.headers["location"]) == (303, "model?name=ag-news&theme=dark")
    assert client.get("/dag", params={"dag_id": "operate_models"}).status_code == 404
    run = client.get("/dag", params={"dag_id": "retrain__ag_news", "run_id": "a+b"})
    assert run.headers["location"] == "run?dag_id=retrain__ag_news&run_id=a%2Bb"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,*/*", "text/html"),
        ("application/json, text/html", "application/json"),
        ("text/html, application/json", "text/html"),
    ],
)
def test_what_is_asked_for_first_is_given(client: TestClient, accept: str, kind: str) -> None:
    assert client.get("/", headers={"Accept": accept}).headers["content-type"].startswith(kind)


# Sick stores


def test_a_store_that_does_not_answer_takes_only_its_own_rows(
    copied: Deployment, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        copied.add("far-away", publish={"store": "s3://far/away"})
        client = client_of(copied)
        open_storage("s3://far/away")
        started = time.monotonic()
        rows = {row["model"]: row for row in content(client, "/")["rows"]}
        assert time.monotonic() - started < 3
        assert rows["far-away"]["health"]["level"] == "bad"
        assert "did not answer within 2.5 s" in rows["far-away"]["problem"]
        assert rows["paraphrases"]["champion"]
        started = time.monotonic()
        page = client.get("/model", params={"name": "far-away"})
        assert time.monotonic() - started < 3
        assert "did not answer" in page.text


def test_damage_is_said_where_it_is(copied: Deployment, client_of: ClientOf) -> None:
    log = copied.store / "trail-status" / "channels" / "production"
    newest = sorted(log.glob("0*.json"))[-1]
    newest.write_text(newest.read_text().replace("linus", "mallory"))
    client = client_of(copied)
    rows = {row["model"]: row for row in content(client, "/")["rows"]}
    assert rows["trail-status"]["health"]["level"] == "bad"
    assert "is another one than was made" in rows["trail-status"]["health"]["signs"][0]["text"]
    assert rows["paraphrases"]["health"]["level"] == "good"
    assert "is another one than was made" in shown(client, "/model", name="trail-status")


def test_a_decision_without_its_artifact_says_so(copied: Deployment, client_of: ClientOf) -> None:
    client = client_of(copied)
    digest = decision_of(client, "paraphrases")
    (copied.folder / "artifacts" / "decide" / digest / "manifest.json").unlink()
    answer = client.get("/decision", params={"name": "paraphrases", "decision": digest})
    assert answer.status_code == 404
    assert "was removed" in answer.text or "cannot be read" in answer.text


def test_a_summary_is_never_needed_to_serve(copied: Deployment) -> None:
    assert read_summary(open_storage(copied.store), "ag-news") is not None
    champion = Store.open(copied.store).model("ag-news").champion("production")
    (copied.store / "ag-news" / "summary.json").write_text("{}")
    assert Store.open(copied.store).model("ag-news").champion("production") == champion


def test_the_catalogue_follows_the_files(copied: Deployment, client_of: ClientOf) -> None:
    client = client_of(copied)
    content_of = yaml.safe_load((copied.pipelines / "paraphrases.yaml").read_text())
    (copied.pipelines / "another.yaml").write_text(yaml.safe_dump({**content_of, "name": "another"}))
    assert "another" in {row["model"] for row in content(client, "/")["rows"]}


def test_decay_is_a_sign_of_what_is_live_and_costs_no_request(copied: Deployment, client_of: ClientOf) -> None:
    file = copied.pipelines / "ag-news.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "decay": {"cron": "@daily"}}))
    model = Store.open(str(copied.store)).model("ag-news")
    champion = model.champion("production")
    assert champion is not None

    def sign(page: str, **query: str) -> dict[str, str] | None:
        found = content(client_of(copied), page, **query)
        health = found["health"] if query else next(row for row in found["rows"] if row["model"] == "ag-news")["health"]
        return next((sign for sign in health["signs"] if sign["name"] == "decay"), None)

    unknown = sign("/")
    assert unknown is not None
    assert (unknown["level"], unknown["text"]) == ("unknown", "whether it still answers as well was not checked yet")

    def note(version: str, verdict: Any, text: str) -> None:
        figure = Figure(value=0.08, low=0.06, high=0.1)
        values = {"check": "0" * 64, "metric": "accuracy", "drop": figure, "rows": 900, "at": copied.now.isoformat()}
        model.note_decay("production", DecayNote(version=version, verdict=verdict, text=text, **values))

    note(champion.version, "decayed", f"accuracy fell {EVIL}")
    for found in (sign("/"), sign("/model", name="ag-news")):
        assert found == {"name": "decay", "level": "bad", "text": f"it has decayed: accuracy fell {EVIL}"}
    page = shown(client_of(copied), "/")
    assert "it has decayed: accuracy fell" in page
    assert EVIL not in page
    note(champion.version, "holds", "accuracy 0.9")
    assert (sign("/") or {})["level"] == "good"
    # Of a model that is not live any more it says nothing.
    note("0" * 16, "decayed", "an older one")
    assert sign("/") == unknown
    # Where nobody asks for checks there is no sign of them.
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "decay": None}))
    assert sign("/") is None


def test_no_more_questions_wait_than_threads_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrainer.console.stores.MOST_ASKED", 3)
    monkeypatch.setattr("retrainer.console.stores.SECONDS", 0.2)
    release, stores = threading.Event(), Stores()
    try:
        answers = stores.ask_several([("s3://models", dict.fromkeys(range(5), release.wait))])
        assert sorted(answer.text.partition(" ")[0] for answer in answers.values()) == ["did"] * 3 + ["too"] * 2
    finally:
        release.set()
