"""What can be done from the pages: moves by a form, texts on trial, the way to what waits for a person."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from benchmarks.deployment import Deployment, FolderHost, dag_id_of, runs_of
from retrainer.chain.trial import MOST_CHARACTERS, Score, Trial, Tried
from retrainer.console import app as console
from retrainer.console.forms import MOST_BYTES
from retrainer.console.host import MOST_QUESTIONS, Everybody, Mover, Question
from retrainer.errors import Busy, IntegrityError, RetrainerError
from retrainer.store import Store

JSON = {"Accept": "application/json"}
OWN = {"Origin": "http://testserver"}
EVIL = "<script>alert('x')</script>"
MODEL = {"name": "trail-status"}
Ask = Callable[..., Any]


class Answering:
    """Who answers texts on trial."""

    def __init__(self, wrong: RetrainerError | None = None) -> None:
        self.asked: list[Trial] = []
        self._wrong = wrong

    def ask(self, trial: Trial) -> Tried:
        self.asked.append(trial)
        if self._wrong is not None:
            raise self._wrong
        scores = (Score(label=EVIL, score=0.9), Score(label="open", score=0.1))
        return Tried(version=trial.version, precision="fp32", scores=scores, loading_seconds=1.0, seconds=0.01)


@pytest.fixture
def host(made: Deployment, monkeypatch: pytest.MonkeyPatch) -> FolderHost:
    monkeypatch.setattr(console, "_now", lambda: made.now)
    return FolderHost(made, runs_of(made))


def client_of(host: FolderHost, visitor: Everybody | None = None) -> TestClient:
    app = console.console_app(host, lambda: visitor or Everybody())
    return TestClient(app, follow_redirects=False, headers=OWN)


def form_of(made: Deployment, **more: str) -> dict[str, str]:
    first = Store.open(made.store).model("trail-status").history("production")[-1]
    said = {"action": "rollback", "version": first.to_version, "cause": "regression", "reason": "worse after rain"}
    return {**said, **more}


# Moving a channel


def test_the_forms_offer_what_can_be_moved_to(host: FolderHost, made: Deployment) -> None:
    client = client_of(host)
    page = client.get("/move", params=MODEL, headers=JSON).json()
    moves = Store.open(made.store).model("trail-status").history("production")
    before = list(dict.fromkeys(move.to_version for move in moves if move.to_version != moves[0].to_version))
    assert (page["champion"], [one["version"] for one in page["back"]]) == (moves[0].to_version, before)
    # What another channel serves can be promoted, too, and what was live there.
    production = Store.open(made.store).model("ag-news").history("production")
    staging = client.get("/move", params={"name": "ag-news", "channel": "staging"}, headers=JSON).json()
    assert {one["version"] for one in staging["forward"]} == {move.to_version for move in production} - {
        staging["champion"]
    }
    assert all(one["metrics"]["accuracy"] > 0.8 for one in staging["forward"])
    other = client.get("/move", params={"name": "ag-news"}, headers=JSON).json()
    served = [one["version"] for one in other["forward"] if one["channel"] == "staging"]
    assert served == ([staging["champion"]] if staging["champion"] != other["champion"] else [])
    text = client.get("/model", params=MODEL).text
    assert text.count('<form class="move" method="post"') == 2
    assert all(f'value="{version}"' in text for version in before)
    assert 'value="unspecified"' not in text


def test_a_form_starts_the_run_and_leads_to_its_page(host: FolderHost, made: Deployment) -> None:
    client, form = client_of(host), form_of(made)
    answer = client.post("/move", params={**MODEL, "theme": "dark"}, data=form)
    assert answer.status_code == 303
    (started,) = host.started
    conf = {"pipeline": "trail-status", "channel": "production", **form}
    assert started == ("operate_models", conf, "worse after rain")
    where = urlsplit(answer.headers["location"])
    assert (where.path, parse_qs(where.query)) == (
        "run",
        {"dag_id": ["operate_models"], "run_id": ["manual__0"], "theme": ["dark"]},
    )
    page = client.get(answer.headers["location"]).text
    assert "production of trail-status is being rolled back" in page
    assert "worse after rain" in page
    assert 'http-equiv="refresh"' in page
    as_json = client.post("/move", params=MODEL, json=form, headers=JSON)
    assert (as_json.status_code, as_json.json()["run_id"]) == (201, "manual__1")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"action": "delete"}, "is one of rollback, promote"),
        ({"version": ""}, "choose the version"),
        ({"version": "../../x"}, "choose the version"),
        ({"cause": "gate"}, "choose a cause"),
        ({"reason": "  "}, "say why"),
        ({"reason": "x" * 1001}, "more than 1,000 characters"),
    ],
)
def test_what_makes_no_sense_is_not_started(
    host: FolderHost, made: Deployment, changed: dict[str, str], said: str
) -> None:
    answer = client_of(host).post("/move", params=MODEL, data=form_of(made, **changed))
    assert answer.status_code == 400
    assert said in answer.text
    assert host.started == []


def test_what_was_written_comes_back_as_text(host: FolderHost, made: Deployment) -> None:
    page = client_of(host).post("/move", params=MODEL, data=form_of(made, cause="", reason=EVIL)).text
    assert EVIL not in page
    assert "&lt;script&gt;alert(" in page


@pytest.mark.parametrize(
    ("mover", "said"),
    [
        (Mover("operate_models", problem="the DAG operate_models is paused"), "is paused"),
        (Mover("operate_models", frozenset({"ag-news"})), "does not know the pipeline trail-status"),
    ],
)
def test_what_cannot_be_moved_is_said_in_place_of_the_forms(
    host: FolderHost, made: Deployment, mover: Mover, said: str
) -> None:
    host.moving = mover
    client = client_of(host)
    page = client.get("/model", params=MODEL).text
    assert said in page
    assert '<form class="move"' not in page
    assert client.post("/move", params=MODEL, data=form_of(made)).status_code == 400
    assert host.started == []


def test_who_may_not_sees_no_form_and_starts_nothing(host: FolderHost, made: Deployment) -> None:
    client = client_of(host, Everybody(starts=False))
    assert "Roll back" not in client.get("/model", params=MODEL).text
    assert client.get("/move", params=MODEL).status_code == 403
    assert client.post("/move", params=MODEL, data=form_of(made)).status_code == 403
    hidden = client_of(host, Everybody(hidden=frozenset({dag_id_of("trail-status")})))
    assert hidden.post("/move", params=MODEL, data=form_of(made)).status_code == 404
    assert host.started == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example.com"},
        {"Origin": "null"},
        {"Origin": "http://testserver.evil.example.com"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": ""},
    ],
)
@pytest.mark.parametrize("page", ["/move", "/try"])
def test_what_another_site_sends_is_refused(
    host: FolderHost, made: Deployment, headers: dict[str, str], page: str
) -> None:
    host.answers = answering = Answering()
    answer = client_of(host).post(page, params=MODEL, data=form_of(made, text="x"), headers=headers)
    assert answer.status_code == 403
    assert (host.started, answering.asked) == ([], [])


def test_who_shows_a_token_needs_no_page(host: FolderHost, made: Deployment) -> None:
    script = {"Origin": "https://elsewhere.example.com", "Authorization": "Bearer x"}
    assert client_of(host).post("/move", params=MODEL, data=form_of(made), headers=script).status_code == 303


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"x" * (MOST_BYTES + 1), "application/x-www-form-urlencoded"),
        (b"a=%ff", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=b" for _ in range(100)), "application/x-www-form-urlencoded"),
        (b"[1]", "application/json"),
        (b'{"version": {"a": 1}}', "application/json"),
        (b"{", "application/json"),
        (rb'{"reason": "\ud800"}', "application/json"),
        (rb'{"reason": "\u0000"}', "application/json"),
        (b"reason=%00", "application/x-www-form-urlencoded"),
        (b"a=b", "text/plain"),
        (b"", ""),
    ],
)
def test_what_is_not_a_form_is_refused(host: FolderHost, content: bytes, kind: str) -> None:
    answer = client_of(host).post("/move", params=MODEL, content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert host.started == []


# Texts on trial


def test_a_text_is_asked_and_answered(host: FolderHost) -> None:
    host.answers = answering = Answering()
    client = client_of(host)
    assert 'action="try?name=trail-status' in client.get("/model", params=MODEL).text
    shown = client.get("/try", params=MODEL, headers=JSON).json()
    answer = client.post("/try", params=MODEL, data={"text": f"rain\r\n{EVIL}", "version": shown["versions"][-1]})
    assert answer.status_code == 200
    (trial,) = answering.asked
    assert (trial.text, trial.pair, trial.version) == (f"rain\n{EVIL}", None, shown["versions"][-1])
    assert EVIL not in answer.text
    assert "90.0 %" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "rain" not in repr(trial)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"text": " "}, "there is no text"),
        ({"text": "x" * (MOST_CHARACTERS + 1)}, "a text has more than 5,000 characters"),
        ({"text": "x", "version": "0" * 16}, "0000000000000000"),
        ({"text": "x", "version": "nonsense"}, "no version"),
    ],
)
def test_what_cannot_be_asked_is_not(host: FolderHost, given: dict[str, str], said: str) -> None:
    host.answers = answering = Answering()
    answer = client_of(host).post("/try", params=MODEL, data=given)
    assert answer.status_code >= 400
    assert said in answer.text
    assert answering.asked == []


def test_a_model_of_pairs_is_asked_both(copied: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    file = copied.pipelines / "paraphrases.yaml"
    reads = "task: text-pair-classification\ndataset:\n  train: rows.csv\n  text: [a, b]"
    file.write_text(file.read_text().replace("dataset:\n  train: rows.csv", reads))
    host = FolderHost(copied)
    host.answers = answering = Answering()
    client = client_of(host)
    assert "Second text" in client.get("/try", params={"name": "paraphrases"}).text
    assert "both texts are needed" in client.post("/try", params={"name": "paraphrases"}, data={"text": "a"}).text
    client.post("/try", params={"name": "paraphrases"}, data={"text": "a", "pair": "b"})
    assert [(one.text, one.pair) for one in answering.asked] == [("a", "b")]


@pytest.mark.parametrize(
    ("wrong", "status"), [(Busy("another text is being answered"), 503), (IntegrityError("a file was altered"), 500)]
)
def test_why_there_is_no_answer(host: FolderHost, wrong: RetrainerError, status: int) -> None:
    host.answers = Answering(wrong)
    answer = client_of(host).post("/try", params=MODEL, data={"text": "rain"})
    assert answer.status_code == status
    assert wrong.message in answer.text
    assert ">rain</textarea>" in answer.text


def test_who_may_not_read_texts_may_not_ask(host: FolderHost) -> None:
    client = client_of(host)
    assert client.get("/try", params=MODEL).status_code == 403  # not switched on
    host.answers = answering = Answering()
    client = client_of(host, Everybody(texts=False))
    assert "Try a text" not in client.get("/model", params=MODEL).text
    assert client.get("/try", params=MODEL).status_code == 403
    assert client.post("/try", params=MODEL, data={"text": "x"}).status_code == 403
    assert answering.asked == []


# What waits


def test_what_waits_is_on_its_page_the_list_and_the_model(host: FolderHost, made: Deployment) -> None:
    host.asked = [
        Question(
            dag_id_of("trail-status"),
            "r+1",
            "approval",
            f"Publish {EVIL}?",
            made.now - timedelta(hours=5),
            until=made.now + timedelta(hours=3),
            people=("Ada", EVIL),
            gate={"text": "PROMOTE it", "metrics": {"accuracy": 0.9}, "decision": "0" * 64},
        )
    ]
    client = client_of(host)
    (one,) = client.get("/approvals", headers=JSON).json()["waiting"]
    assert (one["model"], one["gate"], one["metrics"]) == ("trail-status", "PROMOTE it", {"accuracy": 0.9})
    page = client.get("/approvals").text
    assert EVIL not in page
    assert "(5 hours ago)" in page
    assert "run?dag_id=retrain__trail_status&amp;run_id=r%2B1" in page
    assert "1 waits for an approval" in client.get("/").text
    assert "waits for approval</a>" in client.get("/").text
    assert "/tasks/approval/required_actions" in client.get("/model", params=MODEL).text
    straight = re.search(r'<a class="badge warn out" href="([^"]+)">waits for approval', client.get("/").text)
    assert straight is not None, "one click, where there is one question and the visitor may answer it"
    assert straight[1].endswith("/tasks/approval/required_actions")
    host.asked *= 2
    assert '<a class="badge warn" href="approvals">waits for approval' in client.get("/").text
    host.asked = host.asked[:1]
    assert "It waits since" not in client.get("/model", params={"name": "ag-news"}).text
    hidden = client_of(host, Everybody(hidden=frozenset({dag_id_of("trail-status")})))
    assert "Nothing waits" in hidden.get("/approvals").text
    assert "You are not one of those" in client_of(host, Everybody(starts=False)).get("/approvals").text


def test_what_another_channel_serves_is_called_so_also_where_it_was_live_here(copied: Deployment) -> None:
    model = Store.open(copied.store).model("trail-status")
    serving = model.newest_move("production")
    assert serving is not None
    earlier = next(move for move in model.history("production") if move.to_version != serving.to_version)
    model.promote("staging", version=earlier.to_version, actor="grace", reason="a trial")
    page = client_of(FolderHost(copied, runs_of(copied))).get("/move", params=MODEL, headers=JSON).json()
    first = page["forward"][0]
    assert (first["version"], first["channel"]) == (earlier.to_version, "staging")
    page = client_of(FolderHost(copied, runs_of(copied))).get("/model", params=MODEL).text
    assert page.count(f"{earlier.to_version[:8]} on staging, accuracy ") == 1


def test_a_list_of_approvals_that_is_cut_says_so(host: FolderHost, made: Deployment) -> None:
    asked = [
        Question(dag_id_of("trail-status"), f"run-{at}", "approval", f"Publish {at}?", made.now)
        for at in range(MOST_QUESTIONS + 1)
    ]
    client = client_of(host)
    host.asked = asked[:-1]
    assert not client.get("/approvals", headers=JSON).json()["more"]
    assert "More than" not in client.get("/approvals").text + client.get("/").text
    host.asked = asked
    found = client.get("/approvals", headers=JSON).json()
    assert (len(found["waiting"]), found["more"]) == (MOST_QUESTIONS, True)
    assert f"only the oldest {MOST_QUESTIONS} are shown" in client.get("/approvals").text
    assert f"More than {MOST_QUESTIONS} wait for an approval" in client.get("/").text


def test_a_trial_is_a_record_that_hides_its_text() -> None:
    with pytest.raises(ValidationError):
        Trial.model_validate({"store": "s"})
