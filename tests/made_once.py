"""What takes long to make and many tests read: made once a session, by whichever test process asks for it first.

Not a cache: it lies in the temporary folder of the session and is made anew in the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that every test may read and none may change: who would change it copies it.

    As pytest-xdist's documentation has it, "Making session-scoped fixtures execute only once".

    :param name: of the folder; the same name is the same folder in all test processes.
    :param make: fills the empty folder. Where it fails, the next who asks tries again.
    """
    session = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each process has a folder of its own in that of the session
        session = session.parent
    shared = session / "made_once"
    shared.mkdir(exist_ok=True)
    folder, whole = shared / name, shared / f"{name}.whole"
    with FileLock(shared / f"{name}.lock"):
        if not whole.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            whole.touch()
    return folder
