"""``retrainer doctor``: every check in one go, exit status, JSON; nothing that it tries stays."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from retrainer.store.signing_keys import make_key_pair

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench


@pytest.fixture
def no_airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of Airflow's in which nobody has set it up."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "no_airflow"))
    for name in [name for name in os.environ if name.startswith("RETRAINER_")]:
        monkeypatch.delenv(name)


def findings(output: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(found["check"], found["what"]): found for found in json.loads(output)["findings"]}


@pytest.mark.usefixtures("no_airflow")
def test_a_deployment_in_order(cli: Cli, published: Published, tmp_path: Path) -> None:
    root, home = published.pipeline.parent, tmp_path / "no_airflow"
    before = sorted(root.rglob("*"))
    answer = cli("doctor", published.pipeline, "--artifacts", tmp_path / "artifacts")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for title in ("Pipeline files", "Interpreter that trains", "GPUs", "Disks", "Stores"):
        assert title in answer.stdout.splitlines()
    assert f"production serves version {published.version}" in answer.stdout
    assert answer.stdout.splitlines()[-1].endswith("0 broken")
    assert sorted(root.rglob("*")) == before
    assert not home.exists()
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.usefixtures("no_airflow")
def test_what_is_broken_is_named_with_a_remedy(cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path) -> None:
    folder = tmp_path / "pipelines"
    for name in ("one", "two", "signed"):
        (folder / name).mkdir(parents=True)
    keys = make_key_pair(tmp_path / "release")
    keys.private.chmod(0o644)
    publish = {"store": str(tmp_path / "store"), "sign_with": f"file:{keys.private}"}
    one = bench.pipeline(folder / "one", tiny_bert, name="same")
    two = bench.pipeline(folder / "two", tmp_path / "nothing", name="same")
    two = two.rename(two.with_name("two.yaml"))
    signed = bench.pipeline(folder / "signed", tiny_bert, name="signed", publish=publish)
    (folder / "wrong.yaml").write_text("nmae: wrong\n")
    (tmp_path / "root").write_text("a file")
    answer = cli(
        *("doctor", one, two, signed, folder, "--json"),
        *("--artifacts", tmp_path / "root", "--python", tmp_path / "python"),
    )
    assert answer.returncode == 1, answer.stderr
    found = findings(answer.stdout)
    broken = {key for key, finding in found.items() if finding["state"] == "broken"}
    assert broken == {
        ("Pipeline files", "two.yaml"),
        ("Pipeline files", "wrong.yaml"),
        ("Base models", str(tmp_path / "nothing")),
        ("Interpreter that trains", "interpreter that trains"),
        ("Artifact root", "artifact root"),
        ("Signing keys", "key of signed"),
    }
    assert all(found[key]["hint"] for key in broken), [found[key] for key in broken]
    assert json.loads(answer.stdout)["summary"]["broken"] == len(broken)
    assert keys.private.read_text().splitlines()[1] not in answer.stdout


@pytest.mark.usefixtures("no_airflow")
def test_a_folder_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    answer = cli("doctor", tmp_path / "nowhere", "--json")
    assert answer.returncode == 1
    assert "no such folder" in findings(answer.stdout)["Pipeline files", "pipeline files"]["text"]
