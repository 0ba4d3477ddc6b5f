"""A receipt against its digest, its evidence and the gate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrainer.artifacts.repository import ArtifactManifest
from retrainer.audit.ledger import ledger_problems
from retrainer.audit.locate import FoundReceipt, find_evidence
from retrainer.chain import DECIDE
from retrainer.chain.steps.decide import decision_content
from retrainer.errors import ArtifactError
from retrainer.gate.receipt import Receipt
from retrainer.records import digest_of
from retrainer.store import Manifest
from retrainer.store.ledger import Ledger

if TYPE_CHECKING:
    from retrainer.gate.verify import Verification


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """The outcome.

    :param evidence: where it was found.
    :param rows: model to rows of its predictions that were read.
    :param problems: why it does not hold, one sentence each, causes first. Empty exactly when it does.
    :param notes: what could not be checked.
    """

    found: FoundReceipt
    evidence: str
    rows: dict[str, int]
    verification: Verification
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether everything agrees."""
        return not self.problems


def decision_digest(receipt: Receipt) -> str:
    """The digest of the decide artifact of this policy, model and evaluation."""
    return digest_of(_identity(receipt))


def _identity(receipt: Receipt) -> dict[str, Any]:
    return DECIDE.identity(
        decision_content(
            receipt.model,
            receipt.digests.get("evaluate", ""),
            receipt.policy,
            receipt.standing,
            receipt.changes,
        )
    )


def check_receipt(
    found: FoundReceipt,
    *,
    artifacts: str | None = None,
    evaluation: str | None = None,
    decision: str | None = None,
    ledger: Ledger | None = None,
) -> CheckedReceipt:
    """Find the evidence, and take the decision again.

    :param artifacts: root to look in, where the receipt is not in one.
    :param evaluation: folder of the evaluate artifact, instead of a root.
    :param ledger: of the model in its store, which must hold the decision.
    :param decision: the digest that the decision must have, from a task log or a channel's history.
    :raises NotFoundError: the evidence is missing.
    :raises IntegrityError: the receipt cannot be read.
    :raises ArtifactError: the decision was taken by another version of the gate.
    """
    from retrainer.gate.evidence import load_evidence
    from retrainer.gate.verify import verify

    receipt = Receipt.from_json(found.data, where=found.where)
    notes: list[str] = []
    problems = [*_policy_problems(found, receipt, decision, notes)]
    folder, where, changed = find_evidence(found, receipt, artifacts, evaluation, notes)
    problems += changed
    evidence = load_evidence(folder)
    verification = verify(found.data, evidence)
    problems += gate_problems(verification, evidence_changed=bool(changed))
    if ledger is not None:
        problems += ledger_problems(found.data, receipt, decision_digest(receipt), ledger)
    elif receipt.standing is not None:
        notes.append(
            "what the receipt says of earlier decisions is taken as it states it; --ledger STORE holds it against the "
            "ledger"
        )
    if not problems and found.sha256 not in {None, hashlib.sha256(found.data).hexdigest()}:
        problems.append("receipt exchanged: it holds by itself, but is not the file that its manifest names")
    return CheckedReceipt(
        found=found,
        evidence=where,
        rows={name: table.labels.size for name, table in sorted(evidence.tables.items())},
        verification=verification,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _policy_problems(found: FoundReceipt, receipt: Receipt, decision: str | None, notes: list[str]) -> Iterator[str]:
    """Whether policy, model and evaluation are those that the decision was taken with."""
    if decision is not None:
        yield from _compared(receipt, decision, "the digest that was given")
    if found.artifact is not None:
        yield from _against_identity(found, found.artifact, receipt)
    elif found.published is not None and found.decision is not None:
        yield from _against_version(found.published, receipt)
        yield from _compared(receipt, found.decision, found.said_by)
    elif decision is None:
        notes.append(
            "the policy is taken as the receipt states it: the receipt is neither in an artifact nor in a published "
            "version, so nothing says with which one the decision was taken; --decision DIGEST would"
        )


def _against_identity(found: FoundReceipt, manifest: ArtifactManifest, receipt: Receipt) -> Iterator[str]:
    from retrainer.gate.verify import differences

    if manifest.digest != found.decision or digest_of(manifest.identity) != found.decision:
        yield f"manifest edited: that of the decide artifact does not give the digest {found.decision}"
        return
    refuse_other_version(manifest.identity.get("step_version"), found.where)
    edited = list(differences(_identity(receipt), manifest.identity))
    words = {
        "gate": "policy edited",
        "evaluation": "evidence exchanged",
        "name": "model renamed",
        "standing": "counts edited",
    }
    for at in edited:
        said = words.get(at.path.partition(".")[0], "identity edited")
        place = at.path.replace("gate.", "policy.", 1)
        yield (f"{said}: {place} is {at.in_file!r} in the receipt, the decision was taken with {at.recomputed!r}")


def refuse_other_version(step_version: Any, where: str) -> None:
    """Stop at a decision that another version of the gate took.

    :raises ArtifactError: it did.
    """
    if step_version != DECIDE.version:
        raise ArtifactError(
            f"the decision was taken by version {step_version} of the gate, this is version {DECIDE.version}",
            where=where,
            hint="verify it with the release of airflow-retrainer that took it",
        )


def _against_version(manifest: Manifest, receipt: Receipt) -> Iterator[str]:
    if manifest.model != receipt.model:
        yield f"model renamed: the receipt is of {receipt.model!r}, the version of {manifest.model!r}"
    for step, digest in receipt.digests.items():
        if manifest.artifacts.get(step, digest) != digest:
            yield (
                f"evidence exchanged: the receipt is of {step} artifact {digest[:12]}, version {manifest.version} was "
                f"published from {manifest.artifacts[step][:12]}"
            )


def _compared(receipt: Receipt, decision: str, said_by: str) -> Iterator[str]:
    computed = decision_digest(receipt)
    if computed != decision:
        yield (
            f"policy edited: with this policy, model and evaluation the decision would be {computed[:12]}, "
            f"and {said_by} says {decision[:12]} (or another release of airflow-retrainer took it)"
        )


def gate_problems(verification: Verification, *, evidence_changed: bool) -> Iterator[str]:
    """What the gate says differently, in words."""
    if verification.identical:
        return
    changed = [at for at in verification.differences if at.path.startswith("predictions.")]
    for at in changed:
        name = at.path.removeprefix("predictions.")
        yield (
            f"predictions changed: the receipt was taken from a file of {name} with sha256 {short(at.in_file)}, "
            f"the evidence has {short(at.recomputed)}"
        )
    said, given = verification.receipt.verdict, verification.recomputed.verdict
    if said != given:
        codes = ", ".join(reason.code for reason in verification.recomputed.reasons)
        cause = "verdict differs" if evidence_changed or changed else "verdict edited"
        yield f"{cause}: the receipt says {said}, the evidence gives {given}" + (f" ({codes})" if codes else "")
    others = [at for at in verification.differences if at not in changed and at.path != "verdict"]
    if others:
        first = others[0]
        more = f", and {len(others) - 1} more" if len(others) > 1 else ""
        yield f"content differs: {first.path} is {short(first.in_file)}, recomputed {short(first.recomputed)}{more}"
    if not verification.differences:
        yield "bytes differ: the receipt has the same content, but not as the gate writes it"


def short(value: Any) -> str:
    """A value in a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
