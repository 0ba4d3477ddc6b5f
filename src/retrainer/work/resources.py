"""Which exceptions of libraries mean that the machine, and not the code, is at fault.

Not every library lets ``OSError`` through: safetensors and torch wrap what went wrong while writing a checkpoint
in errors of their own, of which only the text tells.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from retrainer.errors import OutOfGpuMemory, ResourceError, first_line
from retrainer.storage import open_storage
from retrainer.storage.errors import translate

_FULL = ("no space left on device", "disk quota exceeded", "(os error 28)", "(os error 122)")
_FORBIDDEN = ("permission denied (os error", "read-only file system (os error")
_TORCH_WRITER = "pytorchstreamwriter failed"
# torch does not say why it could not write; with less than this left, it is clear.
FULL_BYTES = 16 * 2**20


def resource_error(error: BaseException, root: str) -> ResourceError | None:
    """The clear error for a full disk, a missing permission or too little GPU memory; ``None`` for all else.

    :param root: where the artifacts lie, named where the exception names no place.
    """
    for cause in _chain(error):
        if isinstance(cause, OSError):
            known = translate(cause, str(cause.filename or root))
            if isinstance(known, ResourceError):
                return known
        text = str(cause).lower()
        if any(mark in text for mark in _FULL) or (_TORCH_WRITER in text and _is_full(root)):
            return ResourceError("the disk is full", where=root, hint="free some space, or choose another place")
        if any(mark in text for mark in _FORBIDDEN):
            return ResourceError("no permission", where=root, hint="check the owner and mode of that folder")
        if type(cause).__name__ == "OutOfMemoryError":
            return OutOfGpuMemory(
                f"the GPU is out of memory: {first_line(cause)}",
                where="training.per_device_train_batch_size",
                hint="halve it, and double gradient_accumulation_steps to train the same",
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_full(root: str) -> bool:
    path = open_storage(root).local_path("")
    return path is not None and path.is_dir() and shutil.disk_usage(path).free < FULL_BYTES
