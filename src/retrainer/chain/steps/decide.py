"""The decide step: the gate judges an evaluation."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from retrainer.artifacts.measures import Interval, Score
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.standing import Standing
from retrainer.chain.accounts import Question, open_account
from retrainer.chain.definition import Step, StepOutput, inputs_after
from retrainer.chain.model_store import model_of
from retrainer.chain.requests import RunContext, StepRef, StepRequest
from retrainer.chain.steps.evaluate import EVALUATE, TEST_ROWS
from retrainer.chain.steps.export import EXPORT
from retrainer.gate.receipt import DriftResult, Reason, Receipt, Verdict
from retrainer.precisions import REFERENCE
from retrainer.report.against_others import compared, confidence
from retrainer.report.decision import reason_line
from retrainer.report.figures import Facts, number
from retrainer.report.presentation import bounds_of
from retrainer.spec.changes import Changes
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import OF_ONE_LABEL
from retrainer.spec.model import Pipeline
from retrainer.store.entry import Look
from retrainer.store.ledger import RowSet


class Decided(StepOutput):
    """What of a receipt travels with the reference to it; see ``Receipt``.

    :param metrics: of the challenger's fp32 graph, with intervals.
    :param confidence: of the intervals, in words: ``90 %``.
    :param precisions: that go live.
    """

    title: ClassVar[str] = "Decision"

    verdict: Verdict
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    metrics: dict[str, Score]
    confidence: str
    comparison: Interval | None
    threshold: float | None
    rows_needed: int | None
    champion_version: str | None
    precisions: tuple[str, ...]
    baseline: dict[str, Score] | None
    baseline_comparison: Interval | None
    drift: tuple[DriftResult, ...] | None

    @classmethod
    def of(cls, receipt: Receipt) -> Self:
        """The small part of a receipt."""
        same = {name: getattr(receipt, name) for name in cls.model_fields.keys() & Receipt.model_fields.keys()}
        of_reference = receipt.metrics.get(REFERENCE, {})
        level = confidence(receipt.policy)
        return cls(**{**same, "metrics": of_reference, "confidence": level, "precisions": receipt.publishable})

    @property
    def codes(self) -> str:
        """The codes of the reasons, with commas."""
        return ", ".join(reason.code.value for reason in self.reasons)

    def brief(self) -> str:
        """The verdict and why."""
        return self.verdict + (f": {self.codes}" if self.reasons else "")

    def facts(self) -> Facts:
        """The verdict, what it rests on, and why."""
        facts = [("verdict", str(self.verdict))]
        facts += [
            (name, f"{number(score.value)}, {self.confidence} interval {bounds}")
            for name, score in self.metrics.items()
            if (bounds := bounds_of(score))
        ]
        found = compared(self.comparison, self.threshold, self.rows_needed)
        facts.append(("difference", "\n".join(found) or "not compared with a champion"))
        if self.reasons:
            facts.append(("reasons", "\n".join(map(reason_line, self.reasons))))
        if self.notes:
            facts.append(("notes", "\n".join(self.notes)))
        return tuple(facts)


def _plan(pipeline: Pipeline, *upstream: StepRef, context: RunContext, base: str | None) -> StepRequest:
    """Judge an evaluation by the pipeline's gate. What that spends is written into the ledger first: nobody can look at
    a verdict, and then not have asked.

    :raises StorageError: the store cannot be reached, or not be written.
    :raises IntegrityError: the ledger was altered.
    """
    (evaluation,) = upstream
    inputs = inputs_after(evaluation)
    evaluated = EVALUATE.output_of(evaluation)
    channel = pipeline.publish.channel

    def rows() -> RowSet:
        return RowSet(Artifacts(evaluation.root).read(EVALUATE.name, evaluation.digest, TEST_ROWS))

    question = Question(
        look=Look(
            channel=channel,
            challenger=inputs[EXPORT.name],
            evaluation=evaluation.digest,
            rows=evaluated.test_rows,
            row_count=evaluated.rows,
        ),
        champion=evaluated.champion_version if evaluated.champion_state == "present" else None,
        anchor=evaluated.anchor_version,
        anchor_error=evaluated.anchor_error,
        metric=_metric(pipeline),
    )
    standing = open_account(model_of(pipeline).ledger, channel, pipeline.gate, question, rows, context)
    changes = context.changes.of_the_model()
    content = decision_content(pipeline.name, evaluation.digest, pipeline.gate, standing, changes)
    return DECIDE.request(content, pipeline, evaluation, context=context, inputs=inputs)


def _metric(pipeline: Pipeline) -> str | None:
    """By what challenger and champion are compared: another one, or another label of it, is another question."""
    against = pipeline.gate.against_champion
    if against is None:
        return None
    return f"{against.metric} of {pipeline.positive_label}" if against.metric in OF_ONE_LABEL else against.metric


def decision_content(
    name: str, evaluation: str, gate: Gate, standing: Standing | None, changes: Changes | None = None
) -> dict[str, Any]:
    """What a decision is named by, so that a receipt can be held against the digest of its artifact.

    :param name: of the pipeline, and so of the model.
    :param evaluation: digest of the evaluate artifact.
    :param standing: what the ledger said before it.
    :param changes: what its run was asked to do otherwise.
    """
    asked = {"changes": changes.model_dump(mode="json")} if changes is not None else {}
    return {
        "evaluation": evaluation,
        "gate": gate.model_dump(mode="json"),
        "name": name,
        "standing": standing.model_dump(mode="json") if standing is not None else None,
        **asked,
    }


DECIDE = Step(
    name="decide",
    version=6,
    about="challenger",
    after=("evaluate",),
    output=Decided,
    planner=_plan,
    work="retrainer.work.decide",
    operator="retrainer.airflow.operators.gate.EvaluationGateOperator",
    loads_beside="export",
)
