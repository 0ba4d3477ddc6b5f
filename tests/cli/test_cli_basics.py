"""The command itself: it starts lightly, says how it is used, and shows faults for what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

HEAVY = {"torch", "transformers", "airflow", "onnxruntime", "sklearn", "scipy", "numpy", "pandas", "boto3"}
COMMANDS = [
    "run",
    "check",
    "schema",
    "relabel",
    "models",
    "versions",
    "show",
    "history",
    "promote",
    "rollback",
    "predict",
    "serve",
    "verify",
    "fsck",
    "gc",
    "keygen",
    "sign",
]


def loaded_after(arguments: list[str], cwd: Path) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded when the command is over."""
    program = (
        "import sys\n"
        f"sys.argv = ['retrainer', *{arguments!r}]\n"
        "from retrainer.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\nloaded', *sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=cwd)
    names = answer.stdout.rpartition("\nloaded ")[2].split()
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["predict", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert loaded_after(arguments, tmp_path) & HEAVY == set()


@pytest.mark.parametrize("arguments", [["schema"], ["check", "absent.yaml"], ["run", "absent.yaml"]])
def test_commands_load_no_training_library(arguments: list[str], tmp_path: Path) -> None:
    assert loaded_after(arguments, tmp_path) & HEAVY == set()


def test_every_command_stands_in_the_help_and_has_its_own(cli: Cli) -> None:
    overview = cli("--help").stdout
    for command in COMMANDS:
        assert f"│ {command}" in overview
        answer = cli(command, "--help")
        assert answer.returncode == 0
        assert f"retrainer {command}" in answer.stdout


def test_wrong_usage_is_2(cli: Cli) -> None:
    for arguments in (
        ["run"],
        ["rum", "pipeline.yaml"],
        ["run", "pipeline.yaml", "--nonsense"],
        ["rollback", "a", "b"],
    ):
        answer = cli(*arguments)
        assert answer.returncode == 2, arguments
        assert "Usage: retrainer" in answer.stderr


def test_schema_is_json_schema(cli: Cli) -> None:
    schema = json.loads(cli("schema").stdout)
    assert "$schema" in schema
    assert "dataset" in schema["properties"]


def test_debug_shows_the_stack_trace_of_an_error(cli: Cli, tmp_path: Path) -> None:
    for answer in (
        cli("--debug", "run", "absent.yaml", cwd=tmp_path),
        cli("run", "absent.yaml", cwd=tmp_path, RETRAINER_DEBUG="1"),
    ):
        assert answer.returncode == 1
        assert "Traceback" in answer.stderr
        assert "error: absent.yaml: no such file" in answer.stderr
    assert "Traceback" not in cli("run", "absent.yaml", cwd=tmp_path, RETRAINER_DEBUG="0").stderr


def test_a_fault_of_ours_shows_its_stack_trace_and_asks_for_a_report(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from retrainer.cli import main\n"
        "import retrainer.spec\n"
        "def broken(path):\n    raise ZeroDivisionError('a fault')\n"
        "retrainer.spec.load_pipeline = broken\n"
        "sys.argv = ['retrainer', 'run', 'pipeline.yaml']\n"
        "main()\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ
    )
    assert answer.returncode == 1
    assert "ZeroDivisionError: a fault" in answer.stderr
    assert "Please report it" in answer.stderr
