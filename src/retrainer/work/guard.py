"""A process beside a step that kills the step's whole process group once the step or its parent is gone.

Why a process and not a thread or ``PR_SET_PDEATHSIG``: a thread waits for the interpreter lock, and the death
signal reaches only the direct child, while data loaders and training ranks live on and keep the GPU.
"""

from __future__ import annotations

import os
import select
import signal


def start(parent: int) -> None:
    """Fork the guard. Call once, before any thread is started and before heavy imports.

    :param parent: process id of whom this process must not outlive. It must be this process's parent.
    """
    step = os.getpid()
    parent_handle = _open(parent)
    if parent_handle is None or os.getppid() != parent:
        # The parent died before we could watch it.
        os.killpg(os.getpgid(0), signal.SIGKILL)
        return
    step_handle = os.pidfd_open(step)
    if os.fork() == 0:
        _watch(parent_handle, step_handle)
    os.close(parent_handle)
    os.close(step_handle)


def _open(process: int) -> int | None:
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return None


def _watch(parent_handle: int, step_handle: int) -> None:
    # A polite SIGTERM to the group is for the step; the guard stays until the step has gone.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # An inherited lease or lock must not live as long as the guard when the step ends first.
    first, second = sorted((parent_handle, step_handle))
    os.closerange(0, first)
    os.closerange(first + 1, second)
    os.closerange(second + 1, 1 << 12)
    poll = select.poll()
    poll.register(parent_handle, select.POLLIN)
    poll.register(step_handle, select.POLLIN)
    poll.poll()
    os.killpg(os.getpgid(0), signal.SIGKILL)
