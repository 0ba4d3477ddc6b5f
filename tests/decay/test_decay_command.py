"""``retrainer decay``: what it prints, and what a script learns by its exit code."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from retrainer.cli import app
from tests.airflow.harness import write_rows
from tests.decay.conftest import MakeProject, checked

CHECK = {"min_rows": 100, "max_drop": 0.1}


def test_the_exit_code_is_the_verdict(make_project: MakeProject) -> None:
    project = make_project(decay=CHECK)
    arguments = ["decay", str(project.pipeline_file), "--artifacts", str(project.artifacts)]
    run = CliRunner()
    # In a process of its own, as everything heavy.
    few = run.invoke(app, arguments)
    assert few.exit_code == 5, few.output
    assert few.stdout.startswith("INSUFFICIENT watched, version ")
    assert "decay.min_rows is 100" in few.stdout
    # What was checked before is shown again.
    write_rows(project.folder / "data" / "train_later.csv", 200, start=5000, swapped=True)
    record = checked(project)
    bad = run.invoke(app, arguments)
    assert bad.exit_code == 4
    assert bad.stdout.startswith("DECAYED watched, version ")
    as_json = run.invoke(app, [*arguments, "--json"])
    assert as_json.exit_code == 4
    assert json.loads(as_json.stdout) == record.model_dump(mode="json")
    # Without a section its defaults hold.
    write_rows(project.folder / "data" / "train_later.csv", 400, start=5000)
    project.write(decay=None)
    record = checked(project)
    assert record.min_rows == 200
    good = run.invoke(app, arguments)
    assert good.exit_code == {"holds": 0, "insufficient": 5, "decayed": 4}[record.verdict], good.output
    assert record.rows >= 200
