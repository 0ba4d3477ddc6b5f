"""``retrainer check``: a line a check, from the file's keys to the store; writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench


def states(output: str) -> dict[str, str]:
    """Check to state."""
    return {
        line[11:27].strip(): line[2:10].strip()
        for line in output.splitlines()
        if line[:2] == "  " and line[2:3].strip()
    }


def test_everything_in_order(cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    bench.rows(tmp_path / "test.csv", 10, seed=2)
    before = sorted(tmp_path.rglob("*"))
    pipeline = bench.pipeline(tmp_path, tiny_bert)
    answer = cli("check", pipeline)
    assert answer.returncode == 0, answer.stdout
    assert states(answer.stdout) == dict.fromkeys(["pipeline", "train data", "test data", "base model", "store"], "ok")
    assert "production serves nothing yet" in answer.stdout
    assert sorted(tmp_path.rglob("*")) == sorted([*before, pipeline])


def test_names_the_champion(cli: Cli, published: Published) -> None:
    assert f"production serves version {published.version}" in cli("check", published.pipeline).stdout


def test_all_problems_of_all_files_are_found_in_one_go(
    cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path
) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    (tmp_path / "test.csv").write_text("text\nwithout label\n")
    (tmp_path / "store").write_text("a file")
    pipeline = bench.pipeline(tmp_path, tmp_path / "nothing")
    answer = cli("check", pipeline, tmp_path / "absent.yaml")
    assert answer.returncode == 1
    assert "4 problems found" in answer.stderr
    found = answer.stdout
    assert "no column 'label'" in found
    assert "no such folder" in found
    assert "absent.yaml" in found
    assert "Traceback" not in answer.stderr


def test_columns_of_slices_are_wanted_where_rows_are_judged(
    cli: Cli, bench: Workbench, tmp_path: Path, tiny_bert: Path
) -> None:
    bench.rows(tmp_path / "train.csv", 10, seed=1)
    (tmp_path / "test.csv").write_text("text,label,region\na,open,north\n")
    gate = {"floors": {"accuracy": 0.5}, "slices": {"by": ["label", "length", "region"]}}
    assert cli("check", bench.pipeline(tmp_path, tiny_bert, gate=gate)).returncode == 0
    gate["slices"] = {"by": ["county"]}
    answer = cli("check", bench.pipeline(tmp_path, tiny_bert, gate=gate))
    assert answer.returncode == 1
    assert states(answer.stdout) | {"train data": "ok", "test data": "problem"} == states(answer.stdout)
