"""``models``, ``versions``, ``show`` and ``history`` against a store that a real run published to."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench

MODEL = "tiny-status"


def table(text: str) -> list[dict[str, str]]:
    """A table as it is printed without a terminal."""
    head, *rows = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(head, row, strict=True)) for row in rows]


def another_readme(folder: Path) -> None:
    (folder / "README.md").write_text("another version\n")


def test_models_lists_what_each_channel_serves(cli: Cli, published: Published) -> None:
    (row,) = table(cli("models", published.store).stdout)
    assert row["model"] == MODEL
    assert row["channel"] == "production"
    assert row["version"] == published.version
    assert row["moves"] == "1"
    assert "accuracy" in row["metrics"]
    (same,) = json.loads(cli("models", published.store, "--json").stdout)
    assert same["version"] == published.version
    assert same["metrics"]["accuracy"] >= 0.8


def test_models_names_a_damaged_one_and_still_lists_it(cli: Cli, published: Published, store: Path) -> None:
    manifest = store / MODEL / "versions" / published.version / "manifest.json"
    manifest.write_text(manifest.read_text().replace("open", "nepo", 1))
    answer = cli("models", store)
    assert answer.returncode == 0, answer.stderr
    assert "damaged" in table(answer.stdout)[0]["metrics"]


def test_an_older_state_that_was_put_back(
    cli: Cli, bench: Workbench, store: Path, one_clear_error: Callable[..., None]
) -> None:
    """No command tells what it says as if it were so."""
    second = bench.variant(store, another_readme)
    (store / MODEL / "channels" / "production" / "0000000002.json").unlink()
    commands = [["history", store, MODEL], ["history", store, MODEL, "--at", "2099-01-01"], ["show", store, MODEL]]
    for command in commands:
        one_clear_error(cli(*command), "newest moves of the channel 'production' were deleted", "backup")
    (row,) = table(cli("models", store).stdout)
    assert "newest moves" in row["metrics"]
    assert row["version"] == "-"
    assert json.loads(cli("show", store, MODEL, "--version", second, "--json").stdout)["channels"] == []


def test_a_channel_that_was_deleted(cli: Cli, store: Path, one_clear_error: Callable[..., None]) -> None:
    """The only one of a model: it is not taken for a model that was never there."""
    (store / MODEL / "channels" / "production" / "0000000001.json").unlink()
    for command in ("history", "show", "versions"):
        one_clear_error(cli(command, store, MODEL), "'production' were deleted", "backup")
    one_clear_error(cli("rollback", store, MODEL, "--reason", "r"), "'production' were deleted", "backup")
    answer = cli("models", store)
    assert answer.returncode == 0, answer.stderr
    (row,) = table(answer.stdout)
    assert (row["model"], row["channel"], row["version"]) == (MODEL, "production", "-")
    assert "were deleted" in row["metrics"]
    (record,) = json.loads(cli("models", store, "--json").stdout)
    assert "were deleted" in record["problem"]


def test_a_time_that_cannot_be(cli: Cli, store: Path, one_clear_error: Callable[..., None]) -> None:
    move = store / MODEL / "channels" / "production" / "0000000001.json"
    move.write_text(move.read_text().replace('"at": "20', '"at": "2x'))
    assert "not a valid Move: at" in table(cli("models", store).stdout)[0]["metrics"]
    for command in ("history", "versions", "show"):
        one_clear_error(cli(command, store, MODEL), "not a valid Move: at")


def test_an_empty_store_lists_nothing(cli: Cli, tmp_path: Path) -> None:
    assert table(cli("models", tmp_path).stdout) == []
    assert json.loads(cli("models", tmp_path, "--json").stdout) == []


def test_show_tells_what_a_version_is_and_why(cli: Cli, published: Published) -> None:
    for arguments in ([], ["--version", published.version]):
        said = cli("show", published.store, MODEL, *arguments).stdout
        for words in (published.version, "production", "closed, open", "PROMOTE", "onnx/model.onnx"):
            assert words in said, said
    record = json.loads(cli("show", published.store, MODEL, "--json").stdout)
    assert record["version"] == published.version
    assert record["channels"] == ["production"]
    assert record["receipt"]["verdict"] == "promote"
    assert record["manifest"]["labels"] == ["closed", "open"]


def test_versions_lists_the_newest(cli: Cli, bench: Workbench, published: Published, store: Path) -> None:
    second = bench.variant(store, another_readme)
    newest, oldest = table(cli("versions", store, MODEL).stdout)
    assert (newest["version"], newest["channels"]) == (second, "production")
    assert (oldest["version"], oldest["channels"]) == (published.version, "-")
    assert "accuracy" in oldest["metrics"]
    (only,) = json.loads(cli("versions", store, MODEL, "--limit", "1", "--json").stdout)
    assert (only["version"], only["channels"], only["problem"]) == (second, ["production"], None)
    assert cli("versions", store, MODEL, "--limit", "0").returncode == 2


@pytest.fixture
def three_moves(cli: Cli, bench: Workbench, published: Published, store: Path) -> list[dict[str, Any]]:
    """A store whose production channel went one, two, one; its entries, oldest first."""
    bench.variant(store, another_readme)
    answer = cli("rollback", store, MODEL, "--reason", "customers complained", "--cause", "regression")
    assert answer.returncode == 0, answer.stderr
    entries: list[dict[str, Any]] = json.loads(cli("history", store, MODEL, "--json").stdout)
    assert len(entries) == 3
    return entries[::-1]


def test_history(cli: Cli, published: Published, store: Path, three_moves: list[dict[str, Any]]) -> None:
    second = three_moves[1]["to_version"]
    newest, middle, oldest = table(cli("history", store, MODEL).stdout)
    assert (newest["action"], newest["from"], newest["to"]) == ("rollback", second, published.version)
    assert (newest["by"], newest["cause"], newest["reason"]) == ("tester", "regression", "customers complained")
    assert (middle["to"], oldest["to"], oldest["from"]) == (second, published.version, "-")
    assert [row["move"] for row in (newest, middle, oldest)] == ["3", "2", "1"]
    assert [row["move"] for row in table(cli("history", store, MODEL, "--limit", "2").stdout)] == ["3", "2"]


def test_a_reason_does_not_steer_the_terminal(cli: Cli, bench: Workbench, published: Published, store: Path) -> None:
    """Who may write to a store must not be able to clear the screen of who looks at it."""
    from retrainer.store import Store

    bench.variant(store, another_readme)
    model = Store.open(store).model(MODEL)
    model.rollback("production", actor="ada", reason="\x1b[2Jfine \x9b31m\ttold\nhere")
    answer = cli("history", store, MODEL)
    assert (
        table(answer.stdout)[0]["reason"] == "\N{REPLACEMENT CHARACTER}[2Jfine \N{REPLACEMENT CHARACTER}31m told here"
    )
    assert "\x1b" not in cli("history", store, MODEL, "--at", "9000-01-01").stdout


def test_the_champion_of_a_moment(
    cli: Cli, published: Published, store: Path, three_moves: list[dict[str, Any]]
) -> None:
    times = [datetime.fromisoformat(move["at"]) for move in three_moves]
    just_before = times[1] - timedelta(microseconds=1)
    for text, move in (
        (just_before.isoformat(), 0),
        (times[1].isoformat().replace("+00:00", "Z"), 1),
        (times[1].astimezone(timezone(timedelta(hours=-9))).isoformat(), 1),
        (times[1].replace(tzinfo=None).isoformat(), 1),
        ("9000-01-01", 2),
    ):
        # A time without a zone is UTC, wherever the command is called.
        answer = json.loads(cli("history", store, MODEL, "--at", text, "--json", TZ="Asia/Tokyo").stdout)
        assert answer["move"] == three_moves[move], text
        assert answer["version"] == three_moves[move]["to_version"]
        assert answer["at"].endswith("+00:00")
    said = cli("history", store, MODEL, "--at", times[2].isoformat()).stdout
    for words in (published.version, "tester", "rollback", "regression", "customers complained", "move 3"):
        assert words in said, said


def test_no_champion_at_that_moment(cli: Cli, store: Path, three_moves: list[dict[str, Any]]) -> None:
    before = datetime.fromisoformat(three_moves[0]["at"]) - timedelta(microseconds=1)
    answer = cli("history", store, MODEL, "--at", before.isoformat())
    assert answer.returncode == 0, answer.stderr
    assert "had no champion" in answer.stdout
    record = json.loads(cli("history", store, MODEL, "--at", "2001-01-01", "--json").stdout)
    assert (record["version"], record["move"], record["at"]) == (None, None, "2001-01-01T00:00:00+00:00")


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "0001-01-01T00:00+23:00"])
def test_what_is_no_moment(cli: Cli, published: Published, text: str) -> None:
    answer = cli("history", published.store, MODEL, "--at", text)
    assert answer.returncode == 2
    assert "--at" in answer.stderr


def test_at_tells_one_move(cli: Cli, published: Published) -> None:
    answer = cli("history", published.store, MODEL, "--at", "2026-03-31", "--limit", "3")
    assert answer.returncode == 2
    assert "--limit" in answer.stderr


def test_an_edited_history_is_not_told(
    cli: Cli, store: Path, three_moves: list[dict[str, Any]], one_clear_error: Callable[..., None]
) -> None:
    channel = store / MODEL / "channels" / "production"
    (move,) = [path for path in channel.glob("0*.json") if "complained" in path.read_text()]
    move.chmod(0o644)
    move.write_text(move.read_text().replace("complained", "cheered"))
    for arguments in ([], ["--at", "2026-03-31"]):
        one_clear_error(cli("history", store, MODEL, *arguments), "was altered")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "tiny-statu"], ["no model 'tiny-statu'", "did you mean 'tiny-status'? it holds tiny-status"]),
        (["show", "another"], ["no model 'another'", "it holds tiny-status"]),
        (["show", MODEL, "--channel", "staging"], ["no channel 'staging'", "its channels: production"]),
        (["show", MODEL, "--channel", "prodution"], ["did you mean 'production'?"]),
        (["predict", "tiny-statu", "dry"], ["no model 'tiny-statu'", "did you mean 'tiny-status'? it holds"]),
        (["predict", "another", "dry"], ["no model 'another'", "it holds tiny-status"]),
        (["predict", MODEL, "dry", "--channel", "staging"], ["no channel 'staging'", "its channels: production"]),
        (["show", MODEL, "--version", "0123456789abcdef"], ["0123456789abcdef"]),
        (["show", MODEL, "--version", "newest"], ["newest"]),
        (["history", MODEL, "--channel", "staging"], ["no channel 'staging'"]),
        (["versions", "tiny-statu"], ["no model 'tiny-statu'"]),
        (["versions", "No Name"], ["no model 'No Name'"]),
    ],
)
def test_what_is_not_there_is_named(
    cli: Cli, published: Published, one_clear_error: Callable[..., None], arguments: list[str], words: list[str]
) -> None:
    command, *rest = arguments
    one_clear_error(cli(command, published.store, *rest), *words)


def test_a_store_in_a_bucket(cli: Cli, published: Published, s3_bucket: str, tmp_path: Path) -> None:
    """The same commands on S3: a published version is copied there, shown, and asked."""
    from retrainer.store import Store

    source = Store.open(str(published.store)).model(MODEL)
    folder = tmp_path / "copy"
    folder.mkdir()
    manifest = source.fetch(published.version, folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    url = f"s3://{s3_bucket}/models"
    Store.open(url).model(MODEL).publish(
        folder, manifest, channel="production", actor="tester", reason="copied", decision=None, expected=None
    )
    assert table(cli("models", url).stdout)[0]["version"] == published.version
    assert published.version in cli("show", url, MODEL).stdout
    assert table(cli("history", url, MODEL).stdout)[0]["reason"] == "copied"
