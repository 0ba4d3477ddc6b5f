"""Bad input gives one clear error that says what and where; never a stack trace, never half a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Workbench


@pytest.fixture
def folder(tmp_path: Path, bench: Workbench) -> Path:
    bench.rows(tmp_path / "train.csv", 60, seed=1)
    bench.rows(tmp_path / "test.csv", 30, seed=2)
    return tmp_path


# What is wrong, and the words that must name it. Each is found before anything is trained.
WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "wrong key": ({"modell": {"base": "x"}}, ["pipeline.yaml:", "modell", "model"]),
    "wrong type": ({"metrics": 3}, ["pipeline.yaml:", "metrics"]),
    "missing data": (
        {"dataset": {"train": "trian.csv", "test": "test.csv"}},
        ["trian.csv", "no such file", "train.csv"],
    ),
    "unreadable base model": ({"model": {"base": "./no-model"}}, ["no-model", "model.base"]),
    "renamed argument": ({"training": {"evaluation_strategy": "epoch"}}, ["pipeline.yaml:", "eval_strategy"]),
    "columns of another task": (
        {"task": "text-generation", "dataset": {"train": "train.csv"}, "gate": {"floors": {"chrf": 0.1}}},
        ["train.csv", "model_input"],
    ),
    "s3 without bucket": ({"publish": {"store": "s3://"}}, ["s3://"]),
}


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_mistake_is_one_clear_error(
    cli: Cli, bench: Workbench, folder: Path, tiny_bert: Path, mistake: str, command: str
) -> None:
    changes, words = WRONG[mistake]
    pipeline = bench.pipeline(folder, tiny_bert, **changes)
    answer = cli(command, pipeline)
    assert answer.returncode == 1
    said = answer.stderr + answer.stdout
    assert "Traceback" not in said
    for word in words:
        assert word in said, said
    assert not (folder / "store").exists()
    assert not list(folder.rglob("train.parquet"))


def test_a_missing_file_names_what_lies_beside_it(
    cli: Cli, bench: Workbench, folder: Path, tiny_bert: Path, one_clear_error: Callable[..., None]
) -> None:
    bench.pipeline(folder, tiny_bert)
    one_clear_error(cli("run", folder / "pipelin.yaml"), "no such file", "did you mean pipeline.yaml?")


def test_a_column_that_the_data_lacks(
    cli: Cli, bench: Workbench, folder: Path, tiny_bert: Path, one_clear_error: Callable[..., None]
) -> None:
    pipeline = bench.pipeline(folder, tiny_bert, dataset={"train": "train.csv", "test": "test.csv", "label": "labell"})
    one_clear_error(cli("run", pipeline), "train.csv", "labell")
    checked = cli("check", pipeline)
    assert checked.returncode == 1
    assert "no column 'labell'; did you mean 'label'?" in checked.stdout


def test_several_mistakes_are_one_error_with_a_line_each(
    cli: Cli, bench: Workbench, folder: Path, tiny_bert: Path, one_clear_error: Callable[..., None]
) -> None:
    pipeline = bench.pipeline(folder, tiny_bert, metrics=3, gate={"flors": {}})
    answer = cli("run", pipeline)
    one_clear_error(answer, "metrics: ", "flors")
    assert answer.stderr.count("error: ") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(
    cli: Cli, bench: Workbench, folder: Path, tiny_bert: Path, one_clear_error: Callable[..., None]
) -> None:
    pipeline = bench.pipeline(folder, tiny_bert)
    (folder / "train.csv").chmod(0)
    one_clear_error(cli("run", pipeline), "train.csv", "permission")


def test_artifacts_where_a_file_stands(
    cli: Cli, bench: Workbench, folder: Path, tiny_bert: Path, one_clear_error: Callable[..., None]
) -> None:
    pipeline = bench.pipeline(folder, tiny_bert)
    (folder / ".retrainer").write_text("a file")
    one_clear_error(cli("run", pipeline), ".retrainer")


def test_an_interpreter_that_is_not_there(
    cli: Cli, bench: Workbench, folder: Path, tiny_bert: Path, one_clear_error: Callable[..., None]
) -> None:
    pipeline = bench.pipeline(folder, tiny_bert)
    one_clear_error(cli("run", pipeline, "--python", "/nowhere/python"), "/nowhere/python", "interpreter")


def test_a_store_that_is_not_there(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    for command in (
        ["models", tmp_path / "store"],
        ["show", tmp_path / "store", "m"],
        ["history", tmp_path / "store", "m"],
        ["rollback", tmp_path / "store", "m", "--reason", "r"],
        ["predict", tmp_path / "store", "m", "text"],
    ):
        one_clear_error(cli(*command), "no such store", str(tmp_path / "store"))


def test_a_name_that_no_file_system_takes(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    name = tmp_path / ("x" * 300)
    for command in (["models", name], ["show", name, "m"], ["init", name], ["fsck", name]):
        one_clear_error(cli(*command), str(name), "File name too long")


def test_a_bucket_that_does_not_exist(
    cli: Cli, s3_endpoint: str, bench: Workbench, folder: Path, tiny_bert: Path, one_clear_error: Callable[..., None]
) -> None:
    one_clear_error(cli("models", "s3://no-such-bucket/models"), "no-such-bucket")
    checked = cli("check", bench.pipeline(folder, tiny_bert, publish={"store": "s3://no-such-bucket/models"}))
    assert checked.returncode == 1
    assert "Traceback" not in checked.stderr
    assert "no-such-bucket" in checked.stdout


def test_a_bucket_without_credentials(cli: Cli, s3_endpoint: str, one_clear_error: Callable[..., None]) -> None:
    nothing = {
        "AWS_ACCESS_KEY_ID": "",
        "AWS_SECRET_ACCESS_KEY": "",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    one_clear_error(cli("models", "s3://some-bucket/models", **nothing), "some-bucket", "credentials")
