"""Which step runs on what: the requests of the steps, their digests, and when nothing has to be done.

A step is a pure function from a request to an artifact. This package writes the requests; it reads manifests and
fingerprints only, and loads nothing heavy. Not here: starting a process (``run/processes.py``), what a step does
(``work/``).
"""

from retrainer.chain.planning import (
    decision_identity,
    plan_decide,
    plan_evaluate,
    plan_export,
    plan_ingest,
    plan_publish,
    plan_select,
    plan_train,
)
from retrainer.chain.requests import (
    OPTIONAL_INPUTS,
    STEP_INPUTS,
    STEP_VERSIONS,
    RunContext,
    StepName,
    StepRef,
    StepRequest,
    ref_of,
)

__all__ = [
    "OPTIONAL_INPUTS",
    "STEP_INPUTS",
    "STEP_VERSIONS",
    "RunContext",
    "StepName",
    "StepRef",
    "StepRequest",
    "decision_identity",
    "plan_decide",
    "plan_evaluate",
    "plan_export",
    "plan_ingest",
    "plan_publish",
    "plan_select",
    "plan_train",
    "ref_of",
]
