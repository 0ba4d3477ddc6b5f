"""Several processes for one training: ``torch.distributed``'s own launcher around the same entry point.

The hosts of a training come from the environment, under the names that torchrun reads itself: ``PET_NNODES``,
``PET_NODE_RANK``, ``PET_MASTER_ADDR``, ``PET_MASTER_PORT``. Without them all processes are on this host. Not here: how
the rows of a step are shared out (``train/shares.py``), who starts the launchers on other hosts.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retrainer.chain import StepRequest, step_named
from retrainer.errors import ResourceError, StepError, StepKilled

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# A rank that ends because another one did: what that one says explains it.
LOST = 75
_NODES, _NODE, _ADDRESS, _PORT = "PET_NNODES", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"
# gloo raises plain RuntimeError; of NCCL and the rendezvous there are classes.
_GLOO = ("connection closed by peer", "connection reset by peer", "broken pipe", "timed out waiting")


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts of one training.

    :param count: how many.
    :param this: which of them this one is, from 0 on. The first one's first rank writes what all share.
    """

    count: int = 1
    this: int = 0

    @classmethod
    def from_environment(cls) -> Hosts:
        """What ``PET_NNODES`` and ``PET_NODE_RANK`` say; one host without them.

        :raises ResourceError: they are not whole numbers that fit together, or nothing says where the first host is.
        """
        said = os.environ.get(_NODES) or "1"
        fewest, _, most = said.partition(":")
        node = os.environ.get(_NODE) or "0"
        if not fewest.isdecimal() or most not in ("", fewest) or not node.isdecimal():
            raise _rendezvous(f"{_NODES}={said}, {_NODE}={node}", "give whole numbers, and one number of hosts")
        hosts = cls(int(fewest), int(node))
        if not hosts.this < hosts.count:
            raise _rendezvous(f"{_NODES}={said}, {_NODE}={node}", "hosts are counted from 0")
        absent = [name for name in (_NODE, _ADDRESS, _PORT) if not os.environ.get(name)]
        if hosts.count > 1 and absent:
            raise _rendezvous(f"{_NODES}={said} without {' and '.join(absent)}", "docs/slurm.md has all of them")
        return hosts


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


def helps(request: StepRequest) -> bool:
    """Whether what this process does is committed by another one: of a launcher on another host, or of this one."""
    return is_rank() or (wanted(request) and Hosts.from_environment().this > 0)


def launch(request: StepRequest, path: str | Path) -> bool:
    """Run the ranks of this host and wait for them.

    Each rank runs ``retrainer.work`` with this process as the parent that it must not outlive.

    :param path: of the request, as this process was given it.
    :return: ``False`` where they ended because those on other hosts did, which will have said why.
    :raises ResourceError: the processes cannot be divided among the hosts.
    :raises StepError: a rank failed. What it reported has been reported already.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    from retrainer.serve.cores import usable_cores  # with the client, which few steps need

    hosts, processes = Hosts.from_environment(), request.pipeline.resources.processes
    if processes % hosts.count:
        raise _rendezvous(f"{processes} processes on {hosts.count} hosts", "give each host as many as the others")
    here = processes // hosts.count
    os.environ["RETRAINER_PARENT"] = str(os.getpid())
    # torchrun would give each rank a single thread.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // here)))
    place = ["--standalone"] if hosts.count == 1 else []
    try:
        torchrun(
            [
                *place,
                f"--nproc-per-node={here}",
                "--max-restarts=0",
                "-m",
                "retrainer.work",
                request.step,
                str(path),
            ]
        )
    except ChildFailedError as error:
        rank, failure = _first(error.failures)
        if failure.exitcode == LOST and hosts.count > 1:
            return False
        raise _error(rank, failure, processes) from None
    return True


def has_lost_others(error: BaseException) -> bool:
    """Whether a rank failed because another one is gone, so that its own error explains nothing."""
    if not is_rank() or "torch" not in sys.modules:
        return False
    from torch.distributed import DistError

    cause: BaseException | None = error
    while cause is not None:
        text = str(cause).lower()
        if isinstance(cause, DistError) or ("gloo" in text and any(mark in text for mark in _GLOO)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _first(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that explains the others. The launcher ends with SIGTERM those that outlive it."""
    rest = (LOST, -signal.SIGTERM)
    rank = min(failures, key=lambda rank: (failures[rank].exitcode in rest, failures[rank].timestamp, rank))
    return rank, failures[rank]


def _error(rank: int, failure: ProcessFailure, processes: int) -> StepError:
    if failure.exitcode == LOST:
        return StepError("the ranks of the training lost each other", hint="see the step's log")
    if failure.exitcode < 0:
        killed = failure.exitcode == -signal.SIGKILL
        return StepKilled(
            f"rank {rank} of {processes} was ended by {failure.signal_name()}, and the others with it",
            hint="out of memory, if nobody stopped it" if killed else "see the step's log",
        )
    return StepError(f"rank {rank} of {processes} failed with exit code {failure.exitcode}", hint="see the step's log")


def _rendezvous(what: str, hint: str) -> ResourceError:
    return ResourceError(f"the hosts of the training do not fit together: {what}", where="environment", hint=hint)
