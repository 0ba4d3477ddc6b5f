"""Several processes for one training: ``torch.distributed``'s own launcher around the same entry point."""

from __future__ import annotations

import os
from pathlib import Path

from retrainer.chain import StepRequest, step_named
from retrainer.errors import StepError


def wanted(request: StepRequest) -> bool:
    """Whether this process must become the launcher of several ranks."""
    several = step_named(request.step).takes_resources and request.pipeline.resources.processes > 1
    return several and not is_rank()


def is_rank() -> bool:
    """Whether this process is one of several."""
    return "RANK" in os.environ


def is_first_rank() -> bool:
    """Whether this process writes what all ranks share."""
    return os.environ.get("RANK", "0") == "0"


def launch(request: StepRequest, path: Path) -> None:
    """Run all ranks on this host and wait for them.

    Each rank runs ``retrainer.work`` with this process as the parent that it must not outlive.

    :raises StepError: a rank failed. What it reported has been reported already.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ["RETRAINER_PARENT"] = str(os.getpid())
    processes = request.pipeline.resources.processes
    try:
        torchrun(
            [
                "--standalone",
                f"--nproc-per-node={processes}",
                "--max-restarts=0",
                "-m",
                "retrainer.work",
                request.step,
                str(path),
            ]
        )
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise StepError(
            f"rank {rank} of {processes} failed with exit code {failure.exitcode}", hint="see the step's log"
        ) from None
