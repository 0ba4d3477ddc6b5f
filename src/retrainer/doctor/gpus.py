"""GPUs: those that the driver lists, those that torch sees, who leases them, and what pipelines want.

Not here: slots of Airflow's pools, which its layer adds.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from retrainer.doctor.findings import Finding
from retrainer.errors import ResourceError
from retrainer.run.devices import leased
from retrainer.run.nvidia import Gpu, gpus, visible

if TYPE_CHECKING:
    from retrainer.doctor.deployment import Deployment

_HOST = "this host"


def look(deployment: Deployment) -> Iterator[Finding]:
    """What there is against what is wanted."""
    wanted = max((pipeline.resources.gpus for pipeline in deployment.pipelines), default=0)
    try:
        found = gpus()
    except ResourceError as error:
        yield Finding("broken" if wanted else "warning", _HOST, error.message, error.hint or "")
        return
    devices = visible(found)
    yield _devices(len(devices), wanted)
    if found:
        yield from _mig(found)
    if not devices:
        return
    yield _torch(deployment, len(devices))
    yield _leases(len(devices))


def _devices(there: int, wanted: int) -> Finding:
    wish = f"a pipeline wants {wanted}" if wanted else "no pipeline wants one"
    if there == 0 and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) and shutil.which("nvidia-smi"):
        text = f"no GPU that nvidia-smi lists is named by CUDA_VISIBLE_DEVICES={visible}: training runs on the CPU"
        hint = "name GPUs there by index or UUID, or parts of one (MIG) by UUID, as nvidia-smi -L lists them"
        return Finding("broken" if wanted else "warning", _HOST, text, hint)
    if there == 0:
        if not wanted:
            return Finding("ok", _HOST, f"no GPU, and {wish}")
        hint = "fine where this host does not train; else install the driver (nvidia-smi), or set resources.gpus: 0"
        return Finding("warning", _HOST, f"no GPU, and {wish}: here training runs on the CPU", hint)
    if there < wanted:
        hint = "lower resources.gpus, or send the task to a queue with larger hosts"
        return Finding("broken", _HOST, f"{there} GPU{'s' * (there > 1)}, and {wish}", hint)
    return Finding("ok", _HOST, f"{there} GPU{'s' * (there > 1)}, and {wish}")


def _mig(found: tuple[Gpu, ...]) -> Iterator[Finding]:
    divided = [gpu for gpu in found if gpu.divided]
    if not divided:
        yield Finding("ok", "MIG", "no GPU is divided")
        return
    parts = sum(len(gpu.parts) for gpu in divided)
    text = f"{len(divided)} of {len(found)} GPUs are divided, into {parts} parts: each is leased by itself"
    if empty := [gpu.index for gpu in divided if not gpu.parts]:
        hint = "make parts (nvidia-smi mig -cgi PROFILE -C), or switch it off (nvidia-smi -mig 0)"
        yield Finding("warning", "MIG", f"{text}; GPU {', '.join(empty)} has none, and so cannot be used", hint)
    else:
        yield Finding("ok", "MIG", f"{text}, and a training can use one")


def _torch(deployment: Deployment, there: int) -> Finding:
    what = "torch"
    try:
        cuda = deployment.interpreter.cuda
    except ResourceError:  # said of the interpreter
        cuda = None
    if cuda is None:
        return Finding("broken", what, "could not be asked", "see the findings on the interpreter")
    if cuda.built_for is None:
        hint = f"install a build with CUDA for {deployment.python} (pytorch.org)"
        return Finding("broken", what, "was built without CUDA, so training runs on the CPU", hint)
    seen = f"built for CUDA {cuda.built_for}, sees {len(cuda.devices)} of {there} GPUs"
    if len(cuda.devices) < there:
        hint = "compare the driver (nvidia-smi) with that version of CUDA; in a container, pass the devices on"
        return Finding("broken", what, seen, hint)
    names = ", ".join(f"{one.name} ({one.bytes / 1e9:.0f} GB)" for one in cuda.devices)
    return Finding("ok", what, f"{seen}: {names}")


def _leases(there: int) -> Finding:
    try:
        held = leased()
    except OSError as error:
        hint = "the folder of leases in the temporary folder belongs to another user, or cannot be read"
        return Finding("broken", "leases", f"cannot be read: {error.strerror}", hint)
    by = f", by {', '.join(sorted(set(held.values())))}" if held else ""
    return Finding("ok", "leases", f"{len(held)} of {there} GPUs are leased now{by}")
