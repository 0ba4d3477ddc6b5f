"""``fsck`` and ``gc`` as people call them: exit codes, what is printed, and that nothing happens unasked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrainer.records import sha256_file
from retrainer.store import FileEntry, Manifest, PrecisionEntry, Store

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

DAMAGED = 4


def bundle(folder: Path, content: str) -> Manifest:
    for name in ("config.json", "onnx/model.onnx"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("shared" if name == "config.json" else f"{name} of {content}")
    return Manifest(
        model="news",
        task="text-classification",
        labels=("World", "Sports"),
        max_length=128,
        precisions={"fp32": PrecisionEntry(file="onnx/model.onnx", weight_types={"FLOAT": 3})},
        files={
            path.relative_to(folder).as_posix(): FileEntry(size=path.stat().st_size, sha256=sha256_file(path))
            for path in folder.rglob("*")
            if path.is_file()
        },
        metrics={"accuracy": 0.9},
        base_model="minilm",
        base_revision="abc",
        artifacts={"export": "0" * 64},
        libraries={"python": "3.11"},
        git_commit=None,
    )


def fill(url: str, folder: Path) -> list[str]:
    model = Store.open(url).model("news")
    versions: list[str] = []
    for content in ("one", "two", "three"):
        manifest = bundle(folder / content, content)
        expected = versions[-1] if versions else None
        model.publish(
            folder / content,
            manifest,
            channel="production",
            actor="ada",
            reason="a test",
            decision=None,
            expected=expected,
            anchor=True,  # as if each were shown to be better: else the first one stays, too
        )
        versions.append(manifest.version)
    return versions


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    return fill(str(tmp_path / "store"), tmp_path / "bundles")


def age(store: Path) -> None:
    days_ago = time.time() - 3 * 86_400
    for path in store.rglob("*"):
        if path.is_file():
            os.utime(path, (days_ago, days_ago))


def test_a_sound_store(cli: Cli, tmp_path: Path, versions: list[str]) -> None:
    answer = cli("fsck", tmp_path / "store")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("sound: 1 model, 1 channel, 3 versions, 6 files")
    document = json.loads(cli("fsck", tmp_path / "store", "news", "--quick", "--json").stdout)
    assert (document["sound"], document["quick"], document["findings"]) == (True, True, [])


def test_damage_is_named_and_repaired_only_when_asked(cli: Cli, tmp_path: Path, versions: list[str]) -> None:
    store = tmp_path / "store"
    hint = store / "news" / "channels" / "production" / "latest.json"
    first = hint.with_name("0000000001.json")
    config = store / "news" / "versions" / versions[2] / "config.json"
    graph = store / "news" / "versions" / versions[0] / "onnx" / "model.onnx"
    hint.unlink()
    sound = first.read_bytes()
    first.unlink()
    config.write_text("SHARED")
    graph.write_text("nothing")
    answer = cli("fsck", store)
    assert answer.returncode == DAMAGED
    for words in ("Damage", "move-missing", str(first), "file-altered", str(config), str(graph), "3 damaged"):
        assert words in answer.stdout
    assert "2 can be repaired: 'retrainer fsck" in answer.stdout
    assert not hint.exists()
    document = json.loads(cli("fsck", store, "--json").stdout)
    assert document["sound"] is False
    assert {finding["code"] for finding in document["findings"]} == {"move-missing", "file-altered", "hint-behind"}
    repaired = cli("fsck", store, "--repair")
    assert repaired.returncode == DAMAGED  # of the graph there is no other copy
    assert "done: write it for move 3" in repaired.stdout
    assert "2 damaged" in repaired.stdout.splitlines()[-1]
    assert config.read_text() == "shared"
    graph.write_text("onnx/model.onnx of one")
    first.write_bytes(sound)
    assert cli("fsck", store).returncode == 0


def test_leftovers_are_no_damage(cli: Cli, tmp_path: Path, versions: list[str]) -> None:
    store = tmp_path / "store"
    (store / "news" / "channels" / "production" / "latest.json").unlink()
    answer = cli("fsck", store)
    assert answer.returncode == 0
    assert "Left over" in answer.stdout
    assert "1 left over" in answer.stdout
    document = json.loads(cli("fsck", store, "--repair", "--json").stdout)
    assert [one["problem"] for one in document["repaired"]] == [None]
    assert (len(document["findings"]), document["remaining"]) == (1, [])


def test_signatures_are_checked_with_the_key(cli: Cli, tmp_path: Path, versions: list[str]) -> None:
    key = tmp_path / "release"
    assert cli("keygen", key).returncode == 0
    answer = cli("fsck", tmp_path / "store", "--public-key", key.with_suffix(".pub"))
    assert answer.returncode == DAMAGED
    assert "move-unsigned" in answer.stdout
    assert "version-unsigned" in answer.stdout
    same = cli("fsck", tmp_path / "store", RETRAINER_PUBLIC_KEYS=str(key.with_suffix(".pub")))
    assert same.stdout == answer.stdout


@pytest.mark.parametrize("command", ["fsck", "gc"])
def test_what_is_not_there(
    cli: Cli, tmp_path: Path, versions: list[str], one_clear_error: Callable[..., None], command: str
) -> None:
    one_clear_error(cli(command, tmp_path / "stroe"), "no such store")
    one_clear_error(cli(command, tmp_path / "store", "olds"), "no model 'olds'", "it holds news")


def test_gc_shows_first_and_deletes_when_told(cli: Cli, tmp_path: Path, versions: list[str]) -> None:
    store = tmp_path / "store"
    young = cli("gc", store, "--keep", "1")
    assert young.returncode == 0
    assert young.stdout == "nothing can go; 3 versions stay\n"
    age(store)
    plan = cli("gc", store, "--keep", "1")
    assert plan.returncode == 0
    head, row, total, how = plan.stdout.splitlines()
    assert head.split("\t") == ["model", "version", "size", "age", "why"]
    assert row.split("\t")[:2] == ["news", versions[0]]
    assert row.split("\t")[3] == "3 days"
    assert total.startswith("1 version, ")
    assert "--delete" in how
    assert (store / "news" / "versions" / versions[0] / "manifest.json").exists()
    done = cli("gc", store, "--keep", "1", "--delete")
    assert done.returncode == 0, done.stderr
    assert "deleted 1 version" in done.stdout
    assert not (store / "news" / "versions" / versions[0] / "manifest.json").exists()
    assert cli("fsck", store).returncode == 0
    document = json.loads(cli("gc", store, "--json").stdout)
    assert document["plans"][0]["delete"] == []
    assert {kept["version"] for kept in document["plans"][0]["kept"]} == set(versions[1:])


def test_gc_leaves_a_damaged_model_alone(
    cli: Cli, tmp_path: Path, versions: list[str], one_clear_error: Callable[..., None]
) -> None:
    store = tmp_path / "store"
    age(store)
    (store / "news" / "channels" / "production" / "0000000001.json").unlink()
    one_clear_error(cli("gc", store, "--keep", "1", "--delete"), "is missing", "retrainer fsck")
    assert (store / "news" / "versions" / versions[0] / "manifest.json").exists()


def test_gc_goes_on_where_a_model_cannot_be_done(cli: Cli, tmp_path: Path, versions: list[str]) -> None:
    store = tmp_path / "store"
    broken = store / "a-model" / "versions" / versions[0]
    broken.mkdir(parents=True)
    (store / "a-model" / "channels").write_text("not a folder")
    age(store)
    done = cli("gc", store, "--keep", "1", "--delete")
    assert done.returncode == 1
    assert "deleted 1 version" in done.stdout
    assert str(store / "a-model") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (store / "news" / "versions" / versions[0] / "manifest.json").exists()


@pytest.mark.parametrize("command", ["fsck", "gc"])
def test_a_place_without_models(
    cli: Cli, tmp_path: Path, s3_bucket: str, one_clear_error: Callable[..., None], command: str
) -> None:
    """Mistyped, or emptied: that must not look sound."""
    (tmp_path / "empty").mkdir()
    one_clear_error(cli(command, tmp_path / "empty"), "no models are there", "publish.store")
    one_clear_error(cli(command, f"s3://{s3_bucket}/mistyped"), "no models are there")
    one_clear_error(cli(command, "~nosuchuser/store"), "home directory")


@pytest.mark.parametrize(
    "option",
    [
        ("--keep", "0"),
        ("--min-age", "0.5"),
        ("--min-age", "inf"),
        ("--min-age", "nan"),
        ("--min-age", "1e12"),
        ("--min-age", "900000"),
    ],
)
def test_gc_refuses_to_be_careless(cli: Cli, tmp_path: Path, versions: list[str], option: tuple[str, str]) -> None:
    answer = cli("gc", tmp_path / "store", *option)
    assert answer.returncode == 2
    assert option[0] in answer.stderr


def test_a_store_in_a_bucket(cli: Cli, tmp_path: Path, s3_bucket: str) -> None:
    from retrainer.storage import open_storage

    url = f"s3://{s3_bucket}/models"
    versions = fill(url, tmp_path)
    assert cli("fsck", url).returncode == 0
    open_storage(url).delete("news/channels/production/latest.json")
    answer = cli("fsck", url, "--repair")
    assert answer.returncode == 0, answer.stdout
    assert f"{url}/news/channels/production/latest.json" in answer.stdout
    assert f"for move {len(versions)}" in answer.stdout
    assert cli("gc", url).returncode == 0


def test_a_store_of_an_earlier_version(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    pointer = tmp_path / "store" / "news" / "channels" / "production.json"
    pointer.parent.mkdir(parents=True)
    pointer.write_text("{}")
    for command in ("show", "history", "versions"):
        one_clear_error(cli(command, tmp_path / "store", "news"), "written by an earlier version of retrainer")
