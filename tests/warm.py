"""The command in processes that are forked from one which has loaded its libraries: most of its time goes into that.

Each call is still a process of its own, with its arguments, environment, folder and streams, and ``multiprocessing``
ends it as the interpreter would. Not for what a start itself does: imports, the locale, signals while it loads.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(["tests.warm_modules"])


def run_warm(
    arguments: Sequence[str], *, stdin: str | None, cwd: Path | None, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """What ``python -m retrainer.cli`` with these arguments says."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(stdin or "", encoding="utf-8")
        process = _forking.Process(target=_main, args=(list(arguments), cwd or Path.cwd(), dict(environment), files))
        process.start()
        process.join()
        said, errors = (file.read_text(encoding="utf-8") for file in files[1:])
        assert process.exitcode is not None
        return subprocess.CompletedProcess(list(arguments), process.exitcode, said, errors)


def _main(arguments: list[str], cwd: Path, environment: dict[str, str], files: list[Path]) -> None:
    from retrainer.cli import main

    for number, file in enumerate(files):
        opened = os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["retrainer", *arguments]
    main()
