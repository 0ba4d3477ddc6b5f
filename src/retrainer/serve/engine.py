"""onnxruntime, as this package uses it: how it is imported, how sessions are made, what ends them.

Not here: what is fed to a session (``predictor.py``).
"""

from __future__ import annotations

import os
from pathlib import Path

# onnxruntime's builds since 1.31 report its use to their maker, from threads that start with its import. A service has
# no business with that, and with those threads a forked process hangs when it ends. Who wants it says so before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from retrainer.errors import IntegrityError
from retrainer.serve import forks
from retrainer.serve.cores import usable_cores

# What onnxruntime raises for a graph that it cannot load or run: all errors that this build of it has.
ENGINE_ERRORS: tuple[type[Exception], ...] = tuple(
    kind for kind in vars(onnxruntime_errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
)

# Not errors: somebody ends a thread or the process. Whatever else a bad tokenizer or graph makes a library raise is
# caught in this package, bare ``Exception`` and panics of Rust (a ``BaseException``): a service has a good one to go on
# with.
ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)


def session_options(threads: int | None = None) -> onnxruntime.SessionOptions:
    """The options of every session of this package.

    :param threads: threads of one call; the usable cores when ``None``.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else usable_cores()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Threads that spin while they wait gain little on idle cores and cost half the speed on busy ones, which is what
    # a service shares with its neighbours.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; its warnings are about optimisations that it left out
    return options


class Brake:
    """Ends the loading of a session, where onnxruntime looks for that, and all its runs, from another thread.

    :ivar loading: the options that the session is made with.
    :ivar running: the options of each run.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.loading = session_options(threads)
        self.running = onnxruntime.RunOptions()

    def pull(self) -> None:
        """Returns at once; what is under way fails at its next operator."""
        self.loading.set_load_cancellation_flag(True)
        self.running.terminate = True


def load_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session of a graph.

    :raises IntegrityError: onnxruntime cannot run it.
    """
    if not path.is_file():
        raise IntegrityError("no graph: there is no such file", where=str(path))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except ENGINE_ERRORS as error:
        raise IntegrityError(f"not a graph that onnxruntime can run: {error}", where=str(path)) from error
    forks.leak_in_children(session)
    return session
