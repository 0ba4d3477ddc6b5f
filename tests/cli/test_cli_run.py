"""``retrainer run``: promoted, refused, unchanged, interrupted, and what it says about each."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from retrainer.artifacts.repository import ArtifactManifest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench

STEPS = ["ingest", "train", "export", "evaluate", "decide", "publish"]
# Starting any process would fail: proof that none is started.
NO_PYTHON = ("--python", "/nowhere/python")


@pytest.fixture
def again(published: Published, tmp_path: Path) -> Path:
    """The published folder copied, with its artifacts and its store: another run starts where that one ended."""
    copy = tmp_path / "again"
    shutil.copytree(published.folder, copy, symlinks=True)
    return copy / "pipeline.yaml"


def newest_move(store: Path) -> dict[str, Any]:
    moves = (store / "tiny-status" / "channels" / "production").glob("[0-9]*.json")
    loaded: dict[str, Any] = json.loads(max(moves).read_text())
    return loaded


def test_promoted(published: Published) -> None:
    move = newest_move(published.store)
    assert (move["to_version"], move["actor"], move["sequence"]) == (published.version, "tester", 1)


def test_progress_is_lines_on_the_error_stream_where_there_is_no_terminal(published: Published) -> None:
    said = published.output.stderr
    for step in STEPS:
        assert any(line.startswith(step) and "done in" in line for line in said.splitlines()), said
    assert "epoch" in said
    assert "\x1b" not in said


def test_artifacts_lie_beside_the_pipeline_file_out_of_sight_of_git(published: Published) -> None:
    assert (published.folder / ".retrainer" / ".gitignore").read_text() == "*\n"
    assert {note.stem for note in (published.run / "steps").iterdir()} == set(STEPS)
    assert (published.run / "logs" / "train.log").is_file()
    assert str(published.run) in published.output.stdout


def test_what_is_in_an_artifact_is_in_its_digest(published: Published, tiny_bert: Path) -> None:
    """Artifacts are shared by content: what belongs to one pipeline, or to one machine, is in none unless its name says
    so, or that of an artifact that it was made from."""
    root = published.folder / ".retrainer" / "artifacts"
    run = json.loads((published.run / "run.json").read_text())
    belonging = {str(published.folder), str(tiny_bert), run["pipeline"], run["run_id"]}
    identities: dict[str, str] = {}
    looked_at = 0
    for step in STEPS:
        (folder,) = (root / step).iterdir()
        manifest = ArtifactManifest.load(folder)
        identities[step] = json.dumps(manifest.identity)
        known = "".join(identities[name] for name in (step, *manifest.inputs))
        foreign = [text for text in belonging if text not in known]
        if step == "publish":  # named by its run, and so by all that the run is of
            assert run["run_id"] in identities[step]
            continue
        assert foreign, step
        for file in [path for path in folder.rglob("*") if path.is_file()]:
            looked_at += 1
            found = [text for text in foreign if text.encode() in file.read_bytes()]
            assert not found, f"{file.relative_to(root)} holds {found}"
    assert looked_at > 20


def test_the_report_says_what_happened_and_how_to_load_it(published: Published) -> None:
    said = published.output.stdout
    for title in ("Data", "Training", "Export", "Evaluation", "Decision", "Published", "Where", "How to load it"):
        assert f"\n{title}\n" in f"\n{said}", said
    for words in ("train 3", "closed, open", "accuracy", "promote", "rows/s on", "quarantined", "leakage", "within"):
        assert words in said, said
    assert said.splitlines()[-1] == f"promoted: version {published.version} of tiny-status is live on production"
    code = said.partition("How to load it\n")[2].splitlines()[:3]
    program = "\n".join(line.strip() for line in code)
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "'label'" in loaded.stdout


def test_unchanged_starts_no_process_and_says_so(cli: Cli, again: Path, published: Published) -> None:
    answer = cli("run", again, *NO_PYTHON)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1].startswith("unchanged: production already serves this model")
    assert published.version in answer.stdout
    assert "done before" in answer.stderr


def test_the_result_as_json(cli: Cli, again: Path, published: Published) -> None:
    root = again.parent / ".retrainer" / "artifacts"
    answer = cli("run", again, *NO_PYTHON, "--json", RETRAINER_ARTIFACT_ROOT=root.as_uri())
    result = json.loads(answer.stdout)
    assert result["outcome"] == "unchanged"
    assert result["artifacts"] == root.as_uri()
    assert list(result["steps"]) == STEPS[:5]
    assert result["steps"]["evaluate"]["unchanged"]["version"] == published.version


def test_a_worse_model_is_refused_and_production_does_not_move(cli: Cli, bench: Workbench, again: Path) -> None:
    store = again.parent / "store"
    before = newest_move(store)
    bench.rows(again.parent / "train.csv", 400, seed=3, flipped=True)
    answer = cli("run", again)
    assert answer.returncode == 3, answer.stderr + answer.stdout
    assert answer.stdout.splitlines()[-1].startswith("refused: ")
    assert "floor_missed" in answer.stdout
    assert "worse_than_champion" in answer.stdout
    assert f"production stays at version {before['to_version']}" in answer.stdout
    assert "Traceback" not in answer.stderr
    assert newest_move(store) == before
    # The reason stays: asked again, the answer comes from the artifacts.
    repeated = cli("run", again, *NO_PYTHON)
    assert repeated.returncode == 3
    assert "floor_missed" in repeated.stdout


def test_a_model_that_needs_approval_waits_for_it(cli: Cli, again: Path) -> None:
    document = yaml.safe_load(again.read_text())
    document["publish"] = {"store": "careful", "approval": "required"}
    again.write_text(yaml.safe_dump(document))
    waiting = cli("run", again)
    assert waiting.returncode == 3, waiting.stderr
    assert waiting.stdout.splitlines()[-1].startswith("not approved: ")
    assert "--approve" in waiting.stderr
    assert not (again.parent / "careful" / document["name"] / "channels").exists()
    approved = cli("run", again, "--approve")
    assert approved.returncode == 0, approved.stderr
    assert newest_move(again.parent / "careful")["sequence"] == 1


def test_an_interrupt_ends_the_step_with_it(bench: Workbench, tmp_path: Path, tiny_bert: Path) -> None:
    """Ctrl-C, and after that SIGTERM, while it trains: nothing of it is left, and the run says it in one line."""
    bench.rows(tmp_path / "train.csv", 400, seed=1)
    bench.rows(tmp_path / "test.csv", 40, seed=2)
    pipeline = bench.pipeline(tmp_path, tiny_bert, training={"num_train_epochs": 500, "learning_rate": 0.001})
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        errors = tmp_path / f"{number.name}.txt"
        with errors.open("wb") as stream:
            command = [sys.executable, "-m", "retrainer.cli", "run", str(pipeline)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream)
        try:
            wait_for(lambda: "training:" in errors.read_text() or process.poll() is not None)  # noqa: B023
            children = descendants(process.pid)
            assert children, errors.read_text()
            process.send_signal(number)
            assert process.wait(60) == code
        finally:
            process.kill()
        wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))  # noqa: B023
        assert "Traceback" not in errors.read_text()
        assert "interrupted; run it again" in errors.read_text()


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """The process ids below a process."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def test_a_terminal_shows_the_steps_as_a_list(again: Path) -> None:
    """A pseudo terminal of 100 columns: the live list is redrawn, the report is coloured, the exit code the same."""
    command = [sys.executable, "-m", "retrainer.cli", "run", str(again)]
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 65536):
            said += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    finally:
        os.close(leader)
    assert process.wait(60) == 0
    text = said.decode()
    assert "\x1b[" in text
    assert "✓" in text
    for step in STEPS:
        assert step in text
    assert "unchanged: production already serves this model" in text
