"""The operator that scores challenger and champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrainer.airflow.step_operator import PipelineLike, StepOperator, Upstream
from retrainer.chain import EVALUATE


class EvaluateModelOperator(StepOperator):
    """Score the bundle that was just exported, and the one that is live, on the same test rows.

    Returns the reference of the evaluation, with an ``Evaluated`` as its output. Where the channel already serves this
    very bundle, the reference is ``unchanged``: nothing is scored and no process is started.

    Retries: as with the other steps. The champion is looked up in each try; one that moved in between makes a new
    evaluation.

    :param bundle: what ``ExportOnnxOperator`` returned, or ``SelectModelOperator``, for the bundle that it chose.
        (templated)
    :param pipeline: see ``StepOperator``; so is ``settings``.
    """

    step = EVALUATE
    upstream = "bundle"
    task_name = "evaluate"
    template_fields: Sequence[str] = (*StepOperator.template_fields, "bundle")

    def __init__(self, *, pipeline: PipelineLike, bundle: Upstream, **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, **kwargs)
        self.bundle = bundle
