"""``retrainer decisions`` and ``retrainer anchor``: what was decided, refused too; and the version that is pinned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from retrainer.cli import app
from retrainer.errors import NotFoundError
from retrainer.store import Store
from retrainer.store.entry import Look, Spent, Verdict
from retrainer.store.ledger import RowSet
from tests.chain.made import publish_bundle

if TYPE_CHECKING:
    from typer.testing import Result

A, B = "a" * 64, "b" * 64


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two decisions, of which the first was refused and the second has no verdict yet."""
    ledger = Store.open(tmp_path).model("trails").ledger
    rows = RowSet(bytes(16))
    ledger.put_rows(rows)
    for number in (1, 4):
        look = Look(channel="production", challenger=f"{number:064x}", evaluation=A, rows=rows.sha256, row_count=2)
        spent = Spent(
            channel="production",
            look=number,
            evaluation=A,
            champion="0" * 16,
            anchor=None,
            metric="accuracy",
            standing=A,
            level=0.00123,
        )
        verdict = Verdict(
            channel="production", spent=2, decision=A, receipt=B, verdict="refuse", reasons=("insufficient_rows",)
        )
        for event in (look, spent, verdict)[: 3 if number == 1 else 2]:
            assert ledger.append(ledger.entries(), event, actor="ada", run=f"run {number}")
    return tmp_path


def test_refused_decisions_are_listed_also_of_a_model_that_was_never_published(store: Path) -> None:
    said = command("decisions", store, "trails")
    assert said.exit_code == 0, said.output
    assert "2 decisions; test rows of trails were looked at 2 times" in said.stdout
    lines = json.loads(command("decisions", store, "trails", "--json").stdout)
    assert [(line["entry"], line["verdict"], line["reasons"], line["level"]) for line in lines] == [
        (5, None, [], 0.00123),
        (3, "refuse", ["insufficient_rows"], 0.00123),
    ]
    assert [line["entry"] for line in json.loads(command("decisions", store, "trails", "--limit", 1, "--json").stdout)]
    assert json.loads(command("decisions", store, "trails", "--channel", "staging", "--json").stdout) == []
    checked = command("fsck", store)
    assert checked.exit_code == 0, checked.output


def test_a_model_that_is_not_there(store: Path) -> None:
    answer = command("decisions", store, "trials")
    assert isinstance(answer.exception, NotFoundError)
    assert isinstance(command("history", store, "trails").exception, NotFoundError)


def test_an_anchor_is_pinned_and_stands_in_the_history(store: Path, tmp_path: Path) -> None:
    model = Store.open(store).model("trails")
    first = publish_bundle(model, tmp_path / "1", A)
    second = publish_bundle(model, tmp_path / "2", B, expected=first)
    pinned = ("anchor", store, "trails", second, "--reason", "the labels changed")
    said = command(*pinned)
    assert said.exit_code == 0, said.output
    assert said.stdout == f"{second} is the anchor of production of trails now, before {first}; it serves {second}\n"
    assert "already; nothing changed" in command(*pinned).stdout
    newest, before = json.loads(command("history", store, "trails", "--json").stdout)[:2]
    assert (newest["action"], newest["anchor"], newest["reason"]) == ("anchor", second, "the labels changed")
    assert before["anchor"] == first
    assert newest["to_version"] == before["to_version"] == second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("f" * 16, "--reason", "x"), "nothing is there|no version"),
        (("what", "--reason", "x"), "no version 'what'"),
    ],
)
def test_what_cannot_be_pinned(store: Path, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    publish_bundle(Store.open(store).model("trails"), tmp_path / "1", A)
    answer = command("anchor", store, "trails", *arguments)
    assert isinstance(answer.exception, NotFoundError)
    assert any(word in str(answer.exception) for word in words.split("|")), answer.exception
    assert command("anchor", store, "trails", "f" * 16, "--reason", " ").exit_code == 2
