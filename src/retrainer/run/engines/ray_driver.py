"""``python -m retrainer.run.engines.ray_driver FOLDER``: what a job on Ray runs, as the driver of Ray Train.

Starts a worker for each process of the training, lets Ray start them again where they or their nodes die, and ends when
the artifact is there, the step has said why it fails, or the job's folder says that it is to end. What Ray stops, it
stops with all its workers. Runs in the cluster, with Ray. Not here: what a worker does (``ray_rank.py``), how a job is
handed in and followed (``ray.py``, ``run/remote.py``).

Exit codes: 0 the artifact is there, 1 it is not.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from typing import Any

from retrainer.chain.jobs import REQUEST
from retrainer.chain.messages import Log
from retrainer.chain.requests import StepRequest
from retrainer.errors import RetrainerError
from retrainer.run.agent import EndWatch
from retrainer.run.engines.ray_rank import Notes, run_rank
from retrainer.run.remote import is_made
from retrainer.spec.ray import Ray
from retrainer.spec.resources import Resources
from retrainer.storage import open_storage

# Ray Train would change into a folder of its own, which relative paths of a data set do not know.
_VARIABLES = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0"}

logger = logging.getLogger("retrainer.ray")


def run_job(folder: str) -> bool:
    """Run the job of a folder; whether its artifact is there then.

    :raises StorageError: its request cannot be read.
    """
    storage = open_storage(folder)
    request = StepRequest.from_json(storage.read(REQUEST), where=storage.where(REQUEST))
    if is_made(request):
        return True
    with EndWatch(storage):
        return _run(request, folder)


def _run(request: StepRequest, folder: str) -> bool:
    os.environ.update(_VARIABLES)
    import ray

    ray.init(log_to_driver=True)
    notes = ray.remote(Notes).options(**_beside_this_process()).remote(folder)
    resources = request.pipeline.resources
    ray.get(notes.say.remote(Log(text=f"asks Ray for {_in_words(resources)}").to_json()))
    why = _train(request, notes)
    has_said = ray.get(notes.end.remote())
    if is_made(request):
        return True
    if not has_said:
        logger.error("the training ended without its artifact: %s", why or "its workers ended well")
    return False


def _train(request: StepRequest, notes: Any) -> str:
    """Run all workers until they have ended; why they were given up, if they were."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    resources, section = request.pipeline.resources, request.pipeline.resources.ray or Ray()
    with tempfile.TemporaryDirectory(prefix="retrainer-ray-") as folder:
        # Not TorchTrainer: it loads torch in each worker, beside the process that trains, and opens a group of its own.
        trainer = DataParallelTrainer(
            run_rank,
            train_loop_config={"request": request.to_json(), "notes": notes, "python": section.python},
            scaling_config=ScalingConfig(
                num_workers=resources.processes,
                use_gpu=resources.gpus > 0,
                resources_per_worker=_of_a_worker(resources),
            ),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=section.max_failures)),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            return str(error).strip()
    return ""


def _of_a_worker(resources: Resources) -> dict[str, float]:
    section = resources.ray or Ray()
    gpus = {"GPU": float(resources.gpus // resources.processes)} if resources.gpus else {}
    return {"CPU": section.cpus_per_worker, **gpus, **section.resources_per_worker}


def _in_words(resources: Resources) -> str:
    amounts = ", ".join(f"{amount:g} {name}" for name, amount in _of_a_worker(resources).items())
    return f"{resources.processes} {'worker' if resources.processes == 1 else 'workers'} with {amounts}"


def _beside_this_process() -> dict[str, Any]:
    """Options of an actor that runs on this node, without being counted, and again should its process die."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}


def main(arguments: list[str]) -> int:
    """Run the job whose folder is given."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    (folder,) = arguments
    try:
        return 0 if run_job(folder) else 1
    except RetrainerError as error:
        logger.log(logging.ERROR, "%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
