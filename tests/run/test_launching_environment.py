"""What the process of a step finds in its environment: what it was given, and no key that is not for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from retrainer.chain import RunContext, StepRequest
from retrainer.chain.messages import Log
from retrainer.errors import StorageError, StoragePermissionError
from retrainer.run.processes import StepProcess
from retrainer.spec import parse_pipeline
from retrainer.store.signing_keys import SIGNING_KEY

TELLS = """
import json, os, sys
from pathlib import Path
from retrainer.chain.messages import Log
from retrainer.work.reporter import Reporter
reporter = Reporter.from_environment()
wanted = ("GIVEN", "INHERITED", "MY_KEY", "RETRAINER_SIGNING_KEY")
seen = {name: os.environ.get(name) for name in wanted}
whole = Path(sys.argv[-1]).read_text() + " ".join(sys.argv) + Path("/proc/self/cmdline").read_text()
reporter.log(json.dumps([seen, "in the environment" in whole]))
"""
REFUSED = """
from retrainer.errors import StoragePermissionError
from retrainer.work.reporter import Reporter
Reporter.from_environment().failed(StoragePermissionError("access denied", where="s3://b/k", hint="ask"))
raise SystemExit(1)
"""


def request(folder: Path, step: str, sign_with: str | None) -> StepRequest:
    pipeline = parse_pipeline(
        {
            "name": "process",
            "dataset": {"train": "rows.csv"},
            "model": {"base": "somewhere"},
            "publish": {"store": "store", "sign_with": sign_with},
        },
        base_folder=folder,
    )
    context = RunContext(root="/artifacts", run_id="r", actor="a", started_at="2026-01-01T00:00:00+00:00")
    return StepRequest(
        step=step, digest="0" * 64, identity={}, pipeline=pipeline, inputs={}, root=str(folder), context=context
    )


def interpreter(folder: Path, body: str) -> str:
    script = folder / "body.py"
    script.write_text(body)
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("step", "sign_with", "key", "variable"),
    [
        ("publish", "env:MY_KEY", "of MY_KEY", "of both"),
        ("publish", "airflow:key", "of MY_KEY", "of both"),
        ("train", "env:MY_KEY", None, None),
        ("train", "airflow:key", "of MY_KEY", None),
        ("evaluate", None, "of MY_KEY", None),
    ],
)
def test_only_the_step_that_signs_inherits_a_private_key(
    step: str,
    sign_with: str | None,
    key: str | None,
    variable: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("INHERITED", "from the parent")
    monkeypatch.setenv("GIVEN", "from the parent")
    monkeypatch.setenv("MY_KEY", "of MY_KEY")
    monkeypatch.setenv(SIGNING_KEY, "of both")
    python = interpreter(tmp_path, TELLS)
    given = {"GIVEN": "in the environment"}
    with (
        pytest.raises(Exception, match="exit code 0"),  # it says nothing of a result
        StepProcess(
            request(tmp_path, step, sign_with), log_file=tmp_path / "log", python=python, environment=given
        ) as process,
    ):
        messages = []
        for message in process.follow():
            messages.append(message)
    (said,) = [json.loads(message.text) for message in messages if isinstance(message, Log)]
    assert said == [
        {"GIVEN": "in the environment", "INHERITED": "from the parent", "MY_KEY": key, SIGNING_KEY: variable},
        False,
    ]


def test_refused_credentials_cross_as_what_they_are(tmp_path: Path) -> None:
    python = interpreter(tmp_path, REFUSED)
    with (
        pytest.raises(StorageError, match="access denied") as caught,
        StepProcess(request(tmp_path, "ingest", None), log_file=tmp_path / "log", python=python) as process,
    ):
        list(process.follow())
    assert isinstance(caught.value, StoragePermissionError)
