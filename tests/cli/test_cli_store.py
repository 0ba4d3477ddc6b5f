"""``models``, ``show``, ``history`` and ``rollback`` against a store that a real run published to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

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


def test_history_and_rollback(cli: Cli, bench: Workbench, published: Published, store: Path) -> None:
    second = bench.variant(store, another_readme)
    assert second != published.version
    answer = cli("rollback", store, MODEL, "--reason", "customers complained")
    assert answer.returncode == 0, answer.stderr
    assert f"serves {published.version} now, before {second}" in answer.stdout
    newest, middle, oldest = table(cli("history", store, MODEL).stdout)
    assert (newest["action"], newest["from"], newest["to"]) == ("rollback", second, published.version)
    assert (newest["by"], newest["reason"]) == ("tester", "customers complained")
    assert (middle["to"], oldest["to"], oldest["from"]) == (second, published.version, "-")
    assert [row["move"] for row in (newest, middle, oldest)] == ["3", "2", "1"]
    forward = cli("rollback", store, MODEL, "--to", second, "--reason", "it was the data")
    assert f"serves {second} now" in forward.stdout
    records = json.loads(cli("history", store, MODEL, "--json").stdout)
    assert [record["to_version"] for record in records] == [second, published.version, second, published.version]


def test_rollback_does_not_move_to_a_version_that_does_not_load(
    cli: Cli, bench: Workbench, published: Published, store: Path, one_clear_error: Callable[..., None]
) -> None:
    """Its files are the ones that were published, but its golden rows say other things than its graph."""

    def other_answers(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text().splitlines()]
        for row in rows:
            row["logits"] = {name: [5.0 - value for value in values] for name, values in row["logits"].items()}
        (folder / "golden.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    bad = bench.variant(store, other_answers)
    good = bench.variant(store, another_readme)
    answer = cli("rollback", store, MODEL, "--to", bad, "--reason", "back")
    one_clear_error(answer, "golden")
    assert table(cli("models", store).stdout)[0]["version"] == good


def test_rollback_does_not_move_to_a_damaged_version(
    cli: Cli, bench: Workbench, published: Published, store: Path, one_clear_error: Callable[..., None]
) -> None:
    second = bench.variant(store, another_readme)
    graph = store / MODEL / "versions" / published.version / "onnx" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.chmod(0o644)
    graph.write_bytes(data)
    one_clear_error(cli("rollback", store, MODEL, "--reason", "back"), "model.onnx")
    assert table(cli("models", store).stdout)[0]["version"] == second


def test_rollback_without_anything_before(cli: Cli, store: Path, one_clear_error: Callable[..., None]) -> None:
    one_clear_error(cli("rollback", store, MODEL, "--reason", "back"))
    empty = cli("rollback", store, MODEL, "--reason", " ")
    assert empty.returncode == 2
    assert "--reason" in empty.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "tiny-statu"], ["no model 'tiny-statu'", "it holds tiny-status"]),
        (["show", MODEL, "--channel", "staging"], ["no channel 'staging'", "production"]),
        (["show", MODEL, "--version", "0123456789abcdef"], ["0123456789abcdef"]),
        (["show", MODEL, "--version", "newest"], ["newest"]),
        (["history", MODEL, "--channel", "staging"], ["no channel 'staging'"]),
        (["rollback", MODEL, "--to", "0123456789abcdef", "--reason", "r"], ["0123456789abcdef"]),
        (["rollback", MODEL, "--channel", "staging", "--reason", "r"], ["staging"]),
    ],
)
def test_what_is_not_there_is_named(
    cli: Cli, published: Published, one_clear_error: Callable[..., None], arguments: list[str], words: list[str]
) -> None:
    command, *rest = arguments
    one_clear_error(cli(command, published.store, *rest), *words)


def test_a_store_in_a_bucket(cli: Cli, published: Published, s3_bucket: str) -> None:
    """The same commands on S3: a published version is copied there, shown, and asked."""
    from retrainer.store import Store

    source = Store.open(str(published.store)).model(MODEL)
    folder = published.folder / "bucket-copy"
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
