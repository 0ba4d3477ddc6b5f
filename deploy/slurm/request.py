"""Takes the first step of a pipeline here, and writes the request of its training: ``REQUEST`` of ``train.sbatch``.

``python deploy/slurm/request.py ag_news.yaml --artifacts /shared/artifacts > request.json``. What the job trained is
found by ``retrainer run`` with the same pipeline file and artifact root, which goes on with the steps after it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retrainer.chain import INGEST, TRAIN, StepRef
from retrainer.chain.messages import describe
from retrainer.run.pipeline_run import new_context
from retrainer.run.processes import run_step
from retrainer.spec import load_pipeline


def main() -> int:
    """Write the request to standard output; what happens goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--artifacts", required=True, help="the artifact root: a folder that all nodes see, or s3://")
    parser.add_argument("--base", help="which of several base models")
    options = parser.parse_args()
    pipeline, context = load_pipeline(options.pipeline), new_context(options.artifacts)
    snapshot = run_step(
        INGEST.plan(pipeline, context=context),
        on_message=lambda message: sys.stderr.write(f"{describe(message)}\n"),
    )
    request = TRAIN.plan(pipeline, snapshot, context=context, base=options.base)
    if isinstance(request, StepRef):
        sys.exit(f"there is nothing to train: {request.digest}")
    sys.stdout.write(request.to_json().decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
