"""What the variables of a job on several nodes mean to torchrun itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retrainer.run.engines.kubernetes_manifest import job_manifest
from tests.engines.conftest import MakeJob
from tests.moto_server import free_port

LATE_SECONDS = 1.0


def variables(make_job: MakeJob) -> dict[str, str]:
    job = make_job(nodes=2, processes=2)
    assert job.resources.kubernetes is not None
    (container,) = job_manifest(job, job.resources.kubernetes)["spec"]["template"]["spec"]["containers"]
    here = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    return {**{one["name"]: one["value"] for one in container["env"] if "value" in one}, **here}


def torchrun(rank: int, environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    program = folder / "program.py"
    program.write_text("import os\nprint('rank', os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], flush=True)\n")
    with (folder / f"{rank}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "--max-restarts=0", str(program)],
            env={**os.environ, **environment, "PET_NODE_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
            stdout=log,
            stderr=log,
        )


@pytest.mark.slow
def test_the_first_node_waits_for_the_second_for_as_long_as_it_is_told(make_job: MakeJob, tmp_path: Path) -> None:
    environment = variables(make_job)
    started = time.monotonic()
    alone = torchrun(0, {**environment, "PET_RDZV_CONF": "timeout=2"}, tmp_path)
    assert alone.wait(60) != 0, "the name is the one that torchrun reads"
    gave_up = time.monotonic() - started
    first = torchrun(0, environment, tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(gave_up + LATE_SECONDS)
    second = torchrun(1, environment, tmp_path)
    assert [first.wait(60), second.wait(60)] == [0, 0], (tmp_path / "0.log").read_text()
    assert "rank 0 of 2" in (tmp_path / "0.log").read_text()
    assert "rank 1 of 2" in (tmp_path / "1.log").read_text()


def test_a_day_is_what_torchrun_understands(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pytest.importorskip("torch.distributed.run")
    for name, value in {**variables(make_job), "PET_NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    config, _, _ = run.config_from_args(run.parse_args(["program.py"]))
    assert (config.min_nodes, config.max_nodes, config.rdzv_configs["rank"]) == (2, 2, 0)
    assert int(config.rdzv_configs["timeout"]) == 24 * 3600
