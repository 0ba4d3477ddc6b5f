"""``promote`` and ``rollback``: a channel moves once its target was verified and tried, and the history says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrainer.records import sha256_file
from retrainer.store import FileEntry, Store
from retrainer.store.causes import Cause

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench

MODEL = "tiny-status"


def another_readme(folder: Path) -> None:
    (folder / "README.md").write_text("another version\n")


def other_answers(folder: Path) -> None:
    """Golden rows that say other things than the graph: whole as files, and bad as a model."""
    rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
    for row in rows:
        row["logits"] = {name: [5.0 - value for value in values] for name, values in row["logits"].items()}
    (folder / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def served(store: Path, channel: str = "production") -> str | None:
    newest = Store.open(store).model(MODEL).newest_move(channel)
    return newest.to_version if newest else None


def moves_of(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / MODEL / "channels" / "production").glob("*.json")}


def damage(store: Path, version: str) -> None:
    graph = store / MODEL / "versions" / version / "onnx" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.chmod(0o644)
    graph.write_bytes(data)


def test_a_person_may_give_each_cause_but_those_of_the_pipeline(cli: Cli) -> None:
    refused = cli("rollback", "store", MODEL, "--reason", "r", "--cause", "gate")
    assert refused.returncode == 2
    for cause in Cause:
        offered = " ".join(refused.stderr.partition("is not one of")[2].replace("│", " ").split())
        assert (cause.value in offered) is cause.for_people


def test_rollback(cli: Cli, bench: Workbench, published: Published, store: Path) -> None:
    second = bench.variant(store, another_readme)
    assert second != published.version
    answer = cli("rollback", store, MODEL, "--reason", "customers complained")
    assert answer.returncode == 0, answer.stderr
    assert f"production of {MODEL} serves {published.version} now, before {second}" in answer.stdout
    forward = cli("rollback", store, MODEL, "--to", second, "--reason", " it was the data ", "--cause", "other")
    assert f"serves {second} now" in forward.stdout
    newest, middle, *_ = Store.open(store).model(MODEL).history("production")
    assert (newest.action, newest.cause, newest.reason) == ("rollback", "other", "it was the data")
    assert (middle.action, middle.cause, middle.reason) == ("rollback", "unspecified", "customers complained")
    assert (newest.actor, newest.from_version, newest.to_version) == ("tester", published.version, second)


def test_promotion_from_channel_to_channel(cli: Cli, bench: Workbench, published: Published, store: Path) -> None:
    before = {path for path in (store / MODEL / "versions").rglob("*") if path.is_file()}
    answer = cli("promote", store, MODEL, "--from", "production", "--to", "staging", "--reason", "for the tests")
    assert answer.returncode == 0, answer.stderr
    assert f"staging of {MODEL} serves {published.version} now, before nothing" in answer.stdout
    again = cli("promote", store, MODEL, "--from", "production", "--to", "staging", "--reason", "for the tests")
    assert f"serves {published.version} already; nothing moved" in again.stdout
    # The channel moves, not the bytes.
    assert {path for path in (store / MODEL / "versions").rglob("*") if path.is_file()} == before
    second = bench.variant(store, another_readme)
    assert (served(store), served(store, "staging")) == (second, published.version)
    named = cli(
        "promote", store, MODEL, "--version", second, "--to", "staging", "--reason", "ok", "--cause", "approval"
    )
    assert named.returncode == 0, named.stderr
    newest, first = Store.open(store).model(MODEL).history("staging")
    assert (newest.action, newest.cause, newest.to_version) == ("promote", "approval", second)
    assert (first.action, first.cause, first.reason) == ("promote", "release", "for the tests")


def test_a_reason_that_is_no_text(cli: Cli, published: Published, one_clear_error: Callable[..., None]) -> None:
    for arguments in (
        ["rollback", "--to", published.version],
        ["promote", "--version", published.version, "--to", "x"],
    ):
        command, *options = arguments
        answer = cli(command, published.store, MODEL, *options, "--reason", "bad \udcff byte")
        one_clear_error(answer, "the reason of the move is not text", "UTF-8")


def test_a_planted_version_is_not_signed(
    cli: Cli, bench: Workbench, store: Path, tmp_path: Path, one_clear_error: Callable[..., None]
) -> None:
    """Somebody without a key writes a channel of a signed store; its owner promotes it, and pins no key."""
    cli("keygen", tmp_path / "release")
    source = f"file:{tmp_path / 'release.key'}"
    assert cli("sign", store, MODEL, "--key", source, "--all", "--trust-unsigned").returncode == 0
    sound = moves_of(store)
    cli("promote", store, MODEL, "--from", "production", "--to", "staging", "--reason", "r", "--key", source)
    planted = served(store)
    assert planted is not None
    unsigned = tmp_path / "unsigned"
    shutil.copytree(store, unsigned)
    shutil.rmtree(unsigned / MODEL / "channels")
    manifest = Store.open(store).model(MODEL).manifest(planted)
    folder = tmp_path / "evil"
    Store.open(store).model(MODEL).fetch(planted, folder)
    (folder / "README.md").write_text("evil\n")
    entry = FileEntry(size=5, sha256=sha256_file(folder / "README.md"))
    evil = manifest.model_copy(update={"files": manifest.files | {"README.md": entry}})
    Store.open(unsigned).model(MODEL).publish(
        folder, evil, channel="staging", actor="eve", reason="", decision=None, expected=None
    )
    shutil.copytree(unsigned, store, dirs_exist_ok=True)  # over the move that was signed
    promotion = ["promote", store, MODEL, "--from", "staging", "--to", "production", "--reason", "r", "--key", source]
    one_clear_error(cli(*promotion), "move 1 is not signed", "--public-key", "--trust-unsigned")
    assert moves_of(store) == sound


MOVES: dict[str, list[str]] = {
    "rollback": ["rollback", "--to"],
    "promote": ["promote", "--to", "production", "--version"],
}


@pytest.mark.parametrize("move", MOVES)
def test_no_move_to_a_version_that_answers_otherwise(
    cli: Cli, bench: Workbench, store: Path, one_clear_error: Callable[..., None], move: str
) -> None:
    bad = bench.variant(store, other_answers)
    good = bench.variant(store, another_readme)
    command, *options = MOVES[move]
    one_clear_error(cli(command, store, MODEL, *options, bad, "--reason", "back"), "golden")
    assert served(store) == good


@pytest.mark.parametrize("move", MOVES)
def test_no_move_to_a_damaged_version(
    cli: Cli, bench: Workbench, published: Published, store: Path, one_clear_error: Callable[..., None], move: str
) -> None:
    second = bench.variant(store, another_readme)
    damage(store, published.version)
    command, *options = MOVES[move]
    one_clear_error(cli(command, store, MODEL, *options, published.version, "--reason", "back"), "model.onnx")
    assert served(store) == second


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["rollback", "--reason", " "], "--reason"),
        (["rollback"], "--reason"),
        (["rollback", "--reason", "r", "--cause", "boredom"], "--cause"),
        (["promote", "--to", "staging", "--reason", "r"], "--from"),
        (["promote", "--to", "staging", "--reason", "r", "--from", "production", "--version", "0" * 16], "--from"),
        (["promote", "--from", "production", "--reason", "r"], "--to"),
        (["promote", "--from", "production", "--to", "staging", "--reason", ""], "--reason"),
    ],
)
def test_wrong_usage(cli: Cli, published: Published, arguments: list[str], option: str) -> None:
    command, *options = arguments
    answer = cli(command, published.store, MODEL, *options)
    assert answer.returncode == 2
    assert option in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rollback"], ["no champion before"]),
        (["rollback", "--to", "0123456789abcdef"], ["0123456789abcdef"]),
        (["rollback", "--channel", "staging"], ["staging"]),
        (["promote", "--from", "staging", "--to", "production"], ["the channel 'staging' has no champion"]),
        (["promote", "--from", "production", "--to", "No Name"], ["'No Name' cannot name a channel"]),
        (["promote", "--version", "0123456789abcdef", "--to", "staging"], ["no version '0123456789abcdef'"]),
    ],
)
def test_what_is_not_there_is_named(
    cli: Cli, published: Published, one_clear_error: Callable[..., None], arguments: list[str], words: list[str]
) -> None:
    command, *options = arguments
    one_clear_error(cli(command, published.store, MODEL, *options, "--reason", "r"), *words)


def test_a_signed_channel_moves_with_its_key_alone(
    cli: Cli, bench: Workbench, published: Published, store: Path, tmp_path: Path, one_clear_error: Callable[..., None]
) -> None:
    second = bench.variant(store, another_readme)
    assert cli("keygen", tmp_path / "release").returncode == 0
    source, public = f"file:{tmp_path / 'release.key'}", str(tmp_path / "release.pub")
    assert cli("sign", store, MODEL, "--key", source, "--all", "--trust-unsigned").returncode == 0
    one_clear_error(cli("rollback", store, MODEL, "--reason", "back"), "is signed", "key")
    promotion = ["promote", store, MODEL, "--version", published.version, "--to", "production", "--reason", "back"]
    one_clear_error(cli(*promotion), "is signed", "key")
    one_clear_error(cli(*promotion, "--key", f"file:{tmp_path / 'lost.key'}"), "lost.key", "No such file")
    assert served(store) == second
    # The source by option or by environment; the newest move is checked where a key is pinned.
    answer = cli("rollback", store, MODEL, "--reason", "back", "--public-key", public, RETRAINER_SIGN_WITH=source)
    assert answer.returncode == 0, answer.stderr
    answer = cli("rollback", store, MODEL, "--to", second, "--reason", "forth", "--key", source)
    assert answer.returncode == 0, answer.stderr
    assert f" {second} " in cli("show", store, MODEL, "--public-key", public).stdout.replace("\n", " ")
    cli("keygen", tmp_path / "other")
    stranger = cli(
        "rollback", store, MODEL, "--reason", "back", "--key", source, "--public-key", tmp_path / "other.pub"
    )
    one_clear_error(stranger, "which is not trusted here")
    assert served(store) == second
