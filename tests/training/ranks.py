"""The train step in several ranks, many trainings one after another: starting ranks takes seconds, a training little.

Run by itself it is one rank. Not here: torchrun around the step's own process (``test_ranks_launched.py``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import TRAIN, StepRef, StepRequest
from retrainer.spec import Pipeline
from tests.chain.made import CONTEXT, planned
from tests.moto_server import free_port


@dataclass(frozen=True)
class Training:
    """What became of one."""

    folder: Path

    @property
    def weights(self) -> dict[str, Any]:
        weights: dict[str, Any] = load_file(self.folder / "checkpoint" / "model.safetensors")
        return weights

    @property
    def record(self) -> TrainingRecord:
        return TrainingRecord.load(self.folder)


def train_in_ranks(pipelines: Sequence[Pipeline], snapshot: StepRef, folder: Path, *, ranks: int = 2) -> list[Training]:
    """Train each of these pipelines in that many processes."""
    folder.mkdir()
    for number, pipeline in enumerate(pipelines):
        request = planned(TRAIN.plan(pipeline, snapshot, context=CONTEXT))
        request = request.model_copy(update={"root": str(folder / f"root-{number}")})
        (folder / f"{number}.json").write_bytes(request.to_json())
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    place |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(ranks)}
    command = [sys.executable, "-m", "tests.training.ranks", str(folder), snapshot.root, snapshot.digest]
    running = []
    for rank in range(ranks):
        environment = {**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (folder / f"rank-{rank}.log").open("wb") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(900) for process in running]
    finally:
        for process in running:
            process.kill()
    logs = "\n".join((folder / f"rank-{rank}.log").read_text()[-3000:] for rank in range(ranks))
    assert codes == [0] * ranks, logs
    return [Training(folder / f"trained-{number}") for number in range(len(pipelines))]


def main(folder: Path, snapshot: Path) -> None:
    from retrainer.work import train
    from retrainer.work.distributed import is_first_rank
    from retrainer.work.reporter import Reporter

    for number in range(len(list(folder.glob("*.json")))):
        path = folder / f"{number}.json"
        request = StepRequest.from_json(path.read_bytes(), where=str(path))
        # All ranks but the first have a folder of their own, in which nothing may lie in the end.
        out = folder / (f"trained-{number}" if is_first_rank() else f"helped-{number}")
        out.mkdir(exist_ok=True)
        reporter = Reporter(folder / f"messages-{number}.jsonl", speaks=is_first_rank())
        trained = train.run(request, {"ingest": snapshot}, out, reporter)
        assert (trained is not None) == is_first_rank()
        assert is_first_rank() or not list(out.iterdir())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Artifacts(sys.argv[2]).fetch("ingest", sys.argv[3]))
