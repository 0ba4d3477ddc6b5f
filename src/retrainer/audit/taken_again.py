"""A decision of the ledger taken again by its own policy, and its receipt held against the recorded one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.standing import Standing
from retrainer.audit.check import gate_problems, refuse_other_version
from retrainer.audit.history import Decision
from retrainer.audit.locate import decided_receipt
from retrainer.audit.replayed import Night
from retrainer.errors import IntegrityError, RetrainerError
from retrainer.gate.evidence import Evidence
from retrainer.gate.receipt import Receipt
from retrainer.gate.verify import receipt_bytes, verify
from retrainer.spec.gate import Gate


def taken_again(
    decision: Decision, evidence: Evidence | str, artifacts: Artifacts, standing: Callable[[Gate], Standing]
) -> Night:
    """The night, with everything that does not hold.

    :param evidence: or what of it is not as it was recorded.
    :param standing: what the ledger says before it, under a policy.
    :raises NotFoundError: the receipt is missing.
    :raises ArtifactError: the decision was taken by another version of the gate.
    """
    found = decided_receipt(artifacts, decision.verdict.decision)
    assert found.artifact is not None
    refuse_other_version(found.artifact.identity.get("step_version"), found.where)
    problems = []
    if hashlib.sha256(found.data).hexdigest() != decision.verdict.receipt:
        problems.append(f"receipt exchanged: entry {decision.said.sequence} of the ledger has another one")
    if isinstance(evidence, str):
        return Night(decision, None, False, (*problems, evidence))
    try:
        receipt = Receipt.from_json(found.data, where=found.where)
    except IntegrityError as error:
        return Night(decision, None, False, (*problems, str(error)))
    verification = verify(found.data, replace(evidence, standing=standing(receipt.policy)))
    problems += gate_problems(verification, evidence_changed=False)
    problems += verdict_problems(decision, verification.recomputed)
    return Night(decision, verification.recomputed, not problems, tuple(problems))


def is_recorded(decision: Decision, receipt: Receipt) -> bool:
    """Whether a receipt is, byte for byte, the one that the ledger has of a decision."""
    return hashlib.sha256(receipt_bytes(receipt)).hexdigest() == decision.verdict.receipt


def recorded_policy(decision: Decision, artifacts: Artifacts) -> Gate | None:
    """The policy that a decision was taken with; ``None`` where its receipt is not there, or cannot be read."""
    try:
        found = decided_receipt(artifacts, decision.verdict.decision)
        return Receipt.from_json(found.data, where=found.where).policy
    except RetrainerError:
        return None


def verdict_problems(decision: Decision, receipt: Receipt) -> list[str]:
    """Whether the ledger has another verdict than a receipt."""
    said = decision.verdict
    if (said.verdict, said.reasons) == (receipt.verdict, receipt.codes):
        return []
    there, here = (", ".join(names) or "no reason" for names in (said.reasons, receipt.codes))
    return [
        f"ledger altered: entry {decision.said.sequence} says {said.verdict} ({there}), the evidence gives "
        f"{receipt.verdict} ({here})"
    ]
