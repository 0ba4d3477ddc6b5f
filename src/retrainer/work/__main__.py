"""``python -m retrainer.work STEP REQUEST.json``: run one step and commit its artifact.

Exit codes: 0 committed, 1 failed with an error that was reported as a message, anything else is a crash.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepRequest
from retrainer.errors import RetrainerError
from retrainer.work import distributed, guard
from retrainer.work.reporter import Reporter
from retrainer.work.resources import resource_error

MODULES = {
    "ingest": "retrainer.work.ingest",
    "train": "retrainer.work.train",
    "export": "retrainer.work.export",
    "select": "retrainer.work.select",
    "evaluate": "retrainer.work.evaluate",
    "decide": "retrainer.work.decide",
    "publish": "retrainer.work.publish",
}


def main(arguments: list[str]) -> int:
    """Run the step of a request file."""
    parent = os.environ.get("RETRAINER_PARENT")
    if parent:
        guard.start(int(parent))
    reporter = Reporter.from_environment()
    path = Path(arguments[1])
    request = StepRequest.from_json(path.read_bytes(), where=str(path))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with _alone(request):
            if distributed.wanted(request):
                distributed.launch(request, path)
            else:
                run(request, reporter)
    except RetrainerError as error:
        _fail(reporter, error)
        return 1
    except Exception as error:
        known = resource_error(error, request.root)
        if known is None:
            raise
        _fail(reporter, known)
        return 1
    return 0


def _fail(reporter: Reporter, error: RetrainerError) -> None:
    """Tell the parent first: on a full disk the log cannot take the stack trace."""
    reporter.failed(error)
    with suppress(OSError):
        traceback.print_exc()


def run(request: StepRequest, reporter: Reporter) -> None:
    """Make the artifact of a request, unless somebody else just did."""
    artifacts = Artifacts(request.root)
    existing = artifacts.find(request.step, request.digest)
    if existing is not None:
        reporter.done(existing.summary)
        return
    inputs = {name: artifacts.fetch(name, digest) for name, digest in request.reads().items()}
    step = importlib.import_module(MODULES[request.step])  # takes seconds: not before its inputs are known to be sound
    with artifacts.staging(request.step, request.digest) as staging:
        summary = step.run(request, inputs, staging, reporter)
        if not distributed.is_first_rank():
            return
        manifest = artifacts.commit(
            staging,
            step=request.step,
            digest=request.digest,
            identity=request.identity,
            inputs={str(name): digest for name, digest in request.inputs.items()},
            summary=summary,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    artifacts.drop_work_folder(request.step, request.digest)
    reporter.done(manifest.summary)


def _alone(request: StepRequest) -> AbstractContextManager[None]:
    """The lock of a request; the ranks of a distributed training run under their launcher's."""
    if distributed.is_rank():
        return nullcontext()
    return Artifacts(request.root).lock(request.step, request.digest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
