"""What each worker of Ray Train does: run one of the training's processes, and tell all it says to one place.

The training is a process of its own beside the worker, as on any host: it ends with the worker, its memory comes back,
and the worker needs neither torch nor a context on the GPU. Ray Train says which rank it is and starts the workers
again that died; where to go on is in the artifact root. Runs in the cluster, with Ray. Not here: who starts the workers
(``ray_driver.py``).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from retrainer.artifacts.repository import Artifacts
from retrainer.chain.messages import Failed, Log, Message, parse_message
from retrainer.chain.requests import StepRequest
from retrainer.errors import RetrainerError, StepError, StepKilled
from retrainer.run.agent import Shipper
from retrainer.run.folders import RunFolder
from retrainer.run.processes import StepProcess
from retrainer.storage import open_storage

if TYPE_CHECKING:
    from ray.train import TrainContext


class Notes:
    """What all workers say, in the order in which it comes; an actor of the job, one for all its starts of workers.

    :param folder: of the job.
    """

    def __init__(self, folder: str) -> None:
        self._storage = open_storage(folder)
        self._failure: Failed | None = None
        self._ranks: set[int] = set()
        self._open = ExitStack()
        self._ship = self._open.enter_context(Shipper(self._storage))

    def enter(self, rank: int) -> bool:
        """A worker begins. Each start of the workers is a stream of its own.

        :return: whether there is anything to do: not once the step has said why it fails.
        """
        if self._failure is not None:
            return False
        if rank in self._ranks:
            self._open.close()
            self._ship = self._open.enter_context(Shipper(self._storage))
            self._ranks.clear()
        self._ranks.add(rank)
        return True

    def say(self, line: bytes) -> None:
        """A message."""
        message = parse_message(line)
        if isinstance(message, Failed):
            self._failure = self._failure or message
        self._ship(message)

    def end(self) -> bool:
        """Send what is left.

        :return: whether the step has said why it fails.
        """
        self._open.close()
        return self._failure is not None


def run_rank(config: Mapping[str, Any]) -> None:
    """Run this worker's process of the training.

    :param config: ``request`` as JSON, ``notes`` (the actor), ``python`` or ``None``.
    :raises RetrainerError: it failed, or was killed.
    """
    import ray
    from ray import train

    request = StepRequest.from_json(config["request"], where="ray")
    context, notes = train.get_context(), config["notes"]
    rank = context.get_world_rank()
    if not ray.get(notes.enter.remote(rank)):
        return

    said: list[Failed] = []

    def relay(message: Message) -> None:
        taken = notes.say.remote(message.to_json())
        if isinstance(message, Failed):
            # Before the workers are started again, as Ray does after any error.
            ray.get(taken)
            said.append(message)

    try:
        _run(request, context, python=config["python"], relay=relay)
    except RetrainerError as error:
        # Of a process that died nobody says a word, and it is worth another start.
        if not said and not isinstance(error, (StepKilled, StepError)):
            relay(Failed.of(error))
        raise


def _run(request: StepRequest, context: TrainContext, *, python: str | None, relay: Any) -> None:
    artifacts = Artifacts(request.root)
    rank, count = context.get_world_rank(), context.get_world_size()
    with ExitStack() as stack:
        environment: Mapping[str, str] = {}
        if count > 1:
            environment = _environment(context, with_gpu=request.pipeline.resources.gpus > 0)
            if rank == 0:  # whose process makes the artifact; without others it takes the lock itself
                stack.enter_context(
                    artifacts.lock(
                        request.step, request.digest, holder=request.holder, say=lambda line: relay(Log(text=line))
                    )
                )
        process = stack.enter_context(
            StepProcess(
                request,
                log_file=RunFolder(artifacts, request).log_file,
                python=python,
                environment=environment,
                say=lambda line: relay(Log(text=line)),
                gpus=request.pipeline.resources.gpus // count,
                helps=rank > 0,
            )
        )
        for message in process.follow():
            relay(message)


def _environment(context: TrainContext, *, with_gpu: bool) -> dict[str, str]:
    """What torch.distributed reads, as torchrun would set it."""
    from ray.train.collective import broadcast_from_rank_zero

    meeting = broadcast_from_rank_zero(_meeting_point() if context.get_world_rank() == 0 else None)
    # The process sees one GPU, the one that it leases, and would look for that of its number on the host.
    device = {"ACCELERATE_TORCH_DEVICE": "cuda:0"} if with_gpu else {}
    return {
        **device,
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "GROUP_RANK": str(context.get_node_rank()),
        "MASTER_ADDR": meeting["address"],
        "MASTER_PORT": str(meeting["port"]),
    }


def _meeting_point() -> dict[str, Any]:
    """Where the first process will listen. Should another process take the port before, Ray starts all again."""
    import ray

    with socket.socket() as listening:
        listening.bind(("", 0))
        return {"address": ray.util.get_node_ip_address(), "port": listening.getsockname()[1]}
