"""``make`` sets up with whatever Python from 3.11 to 3.14 is there and works, and says what to do where none does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A checkout with nothing but what the set-up looks at, and a folder for interpreters."""
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / "bin").mkdir()
    return tmp_path


def interpreter(bench: Path, name: str, version: str, *, without: str = "") -> None:
    """One that says it is of that version, lacks a module, and does not make an environment: pip would need hours."""
    script = bench / "bin" / name
    pretend = f"import sys; sys.version_info = {tuple(map(int, version.split('.')))}; "
    pretend += f"sys.modules[{without!r}] = None" if without else ""
    script.write_text(
        f"""#!/bin/sh
case "$1" in
--version) echo Python {version};;
-m) echo "$0 makes $3"; exit 7;;
*) exec {sys.executable} -c "{pretend}
$2";;
esac
"""
    )
    script.chmod(0o755)


def install(bench: Path, *arguments: str) -> str:
    """What ``make install`` says when it fails, as it does here."""
    path = f"{bench / 'bin'}{os.pathsep}{bench / 'tools'}"
    (bench / "tools").mkdir(exist_ok=True)
    for tool in ("sh", "make"):
        link = bench / "tools" / tool
        if not link.exists():
            link.symlink_to(str(shutil.which(tool)))
    answer = subprocess.run(
        ["make", *arguments, "install"],
        cwd=bench,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode != 0
    return answer.stdout + answer.stderr


@pytest.mark.parametrize("name", ["python3.12", "python3.14", "python3"])
def test_any_that_works_is_taken_and_named(bench: Path, name: str) -> None:
    interpreter(bench, name, "3.13.2")
    said = install(bench)
    assert f"Setting up .venv with Python 3.13.2 ({name})" in said
    assert f"{name} makes .venv" in said


def test_one_that_does_not_work_is_passed_over(bench: Path) -> None:
    interpreter(bench, "python3.11", "3.11.7", without="ensurepip")
    interpreter(bench, "python3.12", "3.10.1")
    interpreter(bench, "python3", "3.12.1")
    assert "with Python 3.12.1 (python3)" in install(bench)


@pytest.mark.parametrize(("name", "version"), [("python3", "3.10.4"), ("python3", "3.15.0"), ("other", "3.12.0")])
def test_where_none_works_it_says_what_to_do(bench: Path, name: str, version: str) -> None:
    interpreter(bench, name, version)
    said = install(bench)
    assert "No Python from 3.11 to 3.14 that has venv is among: python3.11 python3.12" in said
    assert "make PYTHON=/path/to/python3" in said


def test_one_may_be_named(bench: Path) -> None:
    interpreter(bench, "python3.11", "3.11.7")
    interpreter(bench, "mine", "3.14.0")
    assert "with Python 3.14.0 (mine)" in install(bench, "PYTHON=mine")
    assert "is among: yours." in install(bench, "PYTHON=yours")
