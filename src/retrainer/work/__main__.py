"""``python -m retrainer.work STEP REQUEST.json``: run one step and commit its artifact.

With ``--ahead TURN READY`` before them it is started before there is a request, and loads its libraries meanwhile (see
``loading.py``).

Exit codes: 0 committed, or done with its part of a training that another process commits; 1 failed with an error that
was reported as a message, or ended with a training whose other hosts report why; anything else is a crash.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

from retrainer.artifacts.repository import Artifacts
from retrainer.chain import StepOutput, StepRequest
from retrainer.errors import RetrainerError
from retrainer.work import distributed, guard
from retrainer.work.loading import load, load_ahead
from retrainer.work.reporter import Reporter
from retrainer.work.resources import resource_error


def main(arguments: list[str]) -> int:
    """Run the step of a request file."""
    parent = os.environ.get("RETRAINER_PARENT")
    if parent:
        guard.start(int(parent))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    *ahead, step, file = arguments
    if ahead:
        _, turn, ready = ahead
        if not load_ahead(step, int(turn), int(ready)):
            return 0
    reporter = Reporter.from_environment()
    path = Path(file)
    request = StepRequest.from_json(path.read_bytes(), where=str(path))
    try:
        with _alone(request, reporter):
            if not distributed.wanted(request) or _is_there(request):
                run(request, reporter)
            elif not distributed.launch(request, path):
                reporter.log("the training ended on another host", level="warning")
                return 1
    except Exception as error:
        if distributed.has_lost_others(error):
            traceback.print_exc()
            return distributed.LOST
        known = error if isinstance(error, RetrainerError) else resource_error(error, request.root)
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
    if _is_there(request) or _make(request, Artifacts(request.root), reporter):
        reporter.done()


def _is_there(request: StepRequest) -> bool:
    return Artifacts(request.root).find(request.step, request.digest) is not None


def _make(request: StepRequest, artifacts: Artifacts, reporter: Reporter) -> bool:
    """Do the work and commit what it left; ``False`` in a process that only helped with it."""
    inputs = {name: artifacts.fetch(name, digest) for name, digest in request.inputs.items()}
    # Takes seconds: not before the inputs are known to be sound.
    work = load(request.step)
    with artifacts.staging(request.step, request.digest) as staging:
        output: StepOutput | None = work.run(request, inputs, staging, reporter)
        if output is None:
            return False
        artifacts.commit(
            staging,
            step=request.step,
            digest=request.digest,
            identity=request.identity,
            inputs=request.inputs,
            output=output.model_dump(mode="json"),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    artifacts.drop_work_folder(request.step, request.digest)
    return True


def _alone(request: StepRequest, reporter: Reporter) -> AbstractContextManager[None]:
    """The lock of a request; all ranks of a training run under that of the launcher on its first host."""
    if distributed.helps(request):
        return nullcontext()
    return Artifacts(request.root).lock(request.step, request.digest, holder=request.holder, say=reporter.log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
