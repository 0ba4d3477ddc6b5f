"""This machine: space on the disks that runs write to, memory for the largest base model, limits of the system.

Not here: GPUs (``gpus.py``).
"""

from __future__ import annotations

import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from retrainer.artifacts.repository import cache_home
from retrainer.doctor.findings import Finding
from retrainer.errors import RetrainerError
from retrainer.run.free_memory import available_bytes
from retrainer.sources.base_models import local_folder
from retrainer.storage import open_storage

if TYPE_CHECKING:
    from retrainer.doctor.deployment import Deployment
    from retrainer.spec import Pipeline

GB = 1e9
# Below that even a small model's graphs, report and logs may not fit.
LEAST_BYTES = 1 * GB
SOME_BYTES = 5 * GB
# Weights, their gradients and the two moments of Adam, in 32 bits each. Activations come on top.
COPIES_IN_MEMORY = 4
# Weights and the two moments of Adam: what a checkpoint holds.
COPIES_ON_DISK = 3
# transformers, loaders of data and S3 hold a few hundred files at once.
LEAST_FILES = 1024
_WEIGHTS = (".safetensors", ".bin")


def look_at_disks(deployment: Deployment) -> Iterator[Finding]:
    """Space where something is written, once for each disk."""
    needed = max((_for_checkpoints(pipeline) for pipeline in deployment.pipelines), default=0)
    seen: dict[int, list[str]] = {}
    free: dict[int, int] = {}
    for name, path in _places(deployment):
        there = next(place for place in (path, *path.parents) if place.exists())
        disk = there.stat().st_dev
        seen.setdefault(disk, []).append(f"{name} {path}")
        free[disk] = shutil.disk_usage(there).free
    for disk, names in seen.items():
        trains = any(name.startswith(("artifact root", "cache")) for name in names)
        yield _space(", ".join(names), free[disk], needed if trains else 0)


def look_at_memory(deployment: Deployment) -> Iterator[Finding]:
    """Memory against the largest base model that lies here, where the CPU trains."""
    sizes = {pipeline.name: weights_of(pipeline) for pipeline in deployment.pipelines}
    available = available_bytes()
    free = f"{available / GB:.1f} GB can be taken"
    name = max(sizes, key=lambda one: sizes[one], default="")
    if not name or not sizes[name]:
        yield Finding("ok", "memory", f"{free}; no base model lies here to hold against it")
        return
    needed = COPIES_IN_MEMORY * sizes[name]
    text = f"{free}; training {name} takes about {needed / GB:.1f} GB beside its batches"
    devices = _devices(deployment)
    if devices and needed > min(devices):
        text = f"training {name} takes about {needed / GB:.1f} GB beside its batches, more than a GPU here has"
        yield Finding("broken", "memory of the GPUs", text, "choose a smaller base, or training.peft or freeze_layers")
    elif not devices and needed > available:
        hint = "choose a smaller base or training.peft, add memory, or raise the container's limit"
        yield Finding("broken", "memory", text, hint)
    else:
        yield Finding("ok", "memory", text)


def look_at_limits(deployment: Deployment) -> Iterator[Finding]:
    """Open files that a process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= LEAST_FILES:
        yield Finding("ok", "open files", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft:,}")
        return
    hint = f"ulimit -n 4096 where Airflow's worker starts, or LimitNOFILE= of its service (at most {hard:,} now)"
    yield Finding("warning", "open files", f"at most {soft:,}; loading data and S3 may need more", hint)


def weights_of(pipeline: Pipeline) -> int:
    """Bytes of the weights of the largest base model that lies in a folder here; 0 for none."""
    return max((_weights(base) for base in pipeline.model.candidates or (pipeline.model.base,)), default=0)


def _weights(base: str) -> int:
    with suppress(RetrainerError, OSError):  # said of the pipeline
        folder = local_folder(base)
        if folder is not None:
            sizes = {suffix: sum(file.stat().st_size for file in folder.glob(f"*{suffix}")) for suffix in _WEIGHTS}
            # Some folders hold the same weights in both formats.
            return next((size for size in sizes.values() if size), 0)
    return 0


def _for_checkpoints(pipeline: Pipeline) -> int:
    """Bytes that checkpoints of a training take at most: those that are kept, and the one that is written."""
    kept = pipeline.training.arguments.get("save_total_limit") or 2
    return COPIES_ON_DISK * weights_of(pipeline) * (int(kept) + 1)


def _places(deployment: Deployment) -> Iterator[tuple[str, Path]]:
    root = open_storage(deployment.artifact_root).local_path() if deployment.artifact_root else None
    if root is not None:
        yield "artifact root", root
    yield "cache", cache_home()
    yield "temporary files", Path(tempfile.gettempdir())
    for url in dict.fromkeys(pipeline.publish.store for pipeline in deployment.pipelines):
        folder = open_storage(url).local_path()
        if folder is not None:
            yield "store", folder


def _devices(deployment: Deployment) -> list[int]:
    """Bytes of memory of each GPU that torch sees, where a pipeline trains on one."""
    if not any(pipeline.resources.gpus for pipeline in deployment.pipelines):
        return []
    with suppress(RetrainerError):  # said of the interpreter
        cuda = deployment.interpreter.cuda
        return [one.bytes for one in cuda.devices] if cuda else []
    return []


def _space(names: str, free: int, needed: int) -> Finding:
    text = f"{free / GB:.1f} GB free"
    hint = "free some: 'retrainer gc --help' deletes what nothing needs; or choose another disk"
    if free < max(LEAST_BYTES, needed):
        wanted = f"; checkpoints of the largest base model take {needed / GB:.1f} GB" if needed > LEAST_BYTES else ""
        return Finding("broken", names, text + wanted, hint)
    if free < SOME_BYTES:
        return Finding("warning", names, text, hint)
    return Finding("ok", names, text)
