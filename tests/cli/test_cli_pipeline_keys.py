"""A pipeline that signs, from the command line: a key that cannot be used is said before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retrainer.store import Keyring, Store
from retrainer.store.signing_keys import SIGNING_KEY, KeyPair, make_key_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Cli, Published, Workbench

MODEL = "tiny-status"


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return make_key_pair(tmp_path / "release")


@pytest.fixture
def project(tmp_path: Path, bench: Workbench, tiny_bert: Path) -> Callable[..., Path]:
    """A pipeline file with that ``publish`` section."""
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    bench.rows(tmp_path / "test.csv", 10, seed=2)

    def write(**publish: Any) -> Path:
        return bench.pipeline(tmp_path, tiny_bert, publish={"store": "store", **publish})

    return write


def test_check_names_the_key_that_would_sign(cli: Cli, project: Callable[..., Path], pair: KeyPair) -> None:
    answer = cli("check", project(sign_with="file:release.key", trusted_keys=["release.pub"]))
    assert answer.returncode == 0, answer.stdout
    assert f"file:{pair.private}, key {pair.key.key_id}" in answer.stdout


@pytest.mark.parametrize(
    ("publish", "words"),
    [
        ({"sign_with": "file:nowhere.key"}, "nowhere.key: the private key cannot be read"),
        ({"sign_with": "env:RELEASE_KEY_NOT_SET"}, "there is no private key"),
        ({"sign_with": "file:release.key", "trusted_keys": ["nowhere.pub"]}, "the public key cannot be read"),
        (
            {"sign_with": "file:release.key", "trusted_keys": ["ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]},
            "which is none of publish.trusted_keys",
        ),
    ],
)
def test_what_cannot_sign_is_found_by_check_and_before_a_run_reads_anything(
    cli: Cli,
    project: Callable[..., Path],
    pair: KeyPair,
    publish: dict[str, Any],
    words: str,
    one_clear_error: Callable[..., None],
) -> None:
    pipeline = project(**publish)
    checked = cli("check", pipeline)
    assert checked.returncode == 1
    assert words in checked.stdout
    run = cli("run", pipeline)
    one_clear_error(run, words)
    assert not (pipeline.parent / ".retrainer" / "artifacts" / "ingest").exists()
    secret = pair.private.read_text().splitlines()[1]
    assert secret not in checked.stdout + checked.stderr + run.stdout + run.stderr


def test_a_key_in_airflow_is_a_note_to_check_and_an_error_to_run(
    cli: Cli, project: Callable[..., Path], pair: KeyPair, one_clear_error: Callable[..., None]
) -> None:
    pipeline = project(sign_with="airflow:release_key")
    checked = cli("check", pipeline)
    assert checked.returncode == 0
    assert "only Airflow's tasks can read" in checked.stdout
    one_clear_error(cli("run", pipeline), "airflow:release_key", "only Airflow can read its connections")
    given = cli("check", pipeline, **{SIGNING_KEY: pair.private.read_text()})
    assert f"airflow:release_key, key {pair.key.key_id}" in given.stdout


def test_a_run_signs_what_it_publishes_and_leaves_a_signed_channel_to_those_with_a_key(
    cli: Cli,
    published: Published,
    pair: KeyPair,
    tmp_path: Path,
    bench: Workbench,
    tiny_bert: Path,
    one_clear_error: Callable[..., None],
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(published.folder, folder, symlinks=True)  # its artifacts are used again
    shutil.rmtree(folder / "store")
    publish = {"store": "store", "sign_with": "env:RELEASE_KEY", "trusted_keys": [str(pair.public)]}
    pipeline = bench.pipeline(folder, tiny_bert, publish=publish)
    run = cli("run", pipeline, RELEASE_KEY=pair.private.read_text())
    assert run.returncode == 0, run.stderr + run.stdout
    assert f"key {pair.key.key_id}" in run.stdout
    assert str(pair.public) in run.stdout  # how to load it
    model = Store.open(folder / "store", trusted=Keyring.of(pair.public)).model(MODEL)
    champion = model.champion("production")
    assert champion is not None
    assert model.history("production")[0].cause == "gate"
    secret = pair.private.read_text().splitlines()[1].encode()
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if secret in path.read_bytes()]

    unsigned = bench.pipeline(folder, tiny_bert)
    assert "is signed by the key" in cli("check", unsigned).stdout
    one_clear_error(cli("run", unsigned), "publish.sign_with", "nothing unsigned takes the place of what is signed")
